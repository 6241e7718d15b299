"""Ziyin and Chuang (2025), arXiv 2507.01098: do deep linear networks that differ in all but the task agree inside?

At the noise equilibrium (theory, "Deep linear network") every hidden layer has, up to a factor and a rotation, the
representation √S' Rᵀ Σ_x^{−1/2} x, √Σ_ε V √Σ_x = L S' Rᵀ. It does not know depth, width or an invertible view x → Zx of
the inputs: the kernels of all hidden layers of all networks are parallel. With isotropic label noise SGD settles there.
Weight decay breaks it: without noise layer i of D has the kernel R₀ S₀^{2i/D} R₀ᵀ, V = L₀ S₀ R₀ᵀ in its own view.
"""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._extrapolate import limit
from experiments._metrics import Metric, extrapolated
from experiments._runs import independent_runs
from experiments.platonic.figure import draw
from noise_equilibrium.models import deep_linear

SINGULAR, SPECTRUM, NOISE = np.array([1.5, 1.2, 0.9]), np.array([0.4, 0.8, 1.2, 1.6]), 0.4
WIDTHS = {"shallow": (3,), "deep": (4, 3, 5)}
RECORDS, LATE = 100, 60
MOST_LEFT_OUT = 2  # pairs of networks; of 320 of ten seeds one was
DECAYS = (0.0, 0.01, 0.1, 1.0, 10.0)  # γ/σ²


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        rate: the larger learning rate; the other is half of it.
        seeds: pairs of networks.
        time: in units of 1/(2σ²).
    """

    rate: float = 0.01
    seeds: int = 32
    time: float = 20.0


FULL = Preset()
QUICK = Preset(seeds=16, time=8.0)


class Task(NamedTuple):
    """A network and what it sees.

    Attributes:
        problem: with every pair of inputs and label noises.
        view: Z: the network sees Zx.
        widths: of its hidden layers.
        V: the teacher, of x.
        root: √Σ_x.
    """

    problem: ne.Problem
    view: np.ndarray
    widths: tuple[int, ...]
    V: np.ndarray
    root: np.ndarray


def tasks(seed: int) -> dict[str, Task]:
    """One task; the deep network sees it through a random view."""
    draw = np.random.default_rng(seed)

    def rotation(size: int) -> np.ndarray:
        return np.linalg.qr(draw.normal(size=(size, size)))[0]

    V = rotation(3) * SINGULAR @ rotation(4)[:3]
    turn = rotation(4)
    half, root = turn * np.sqrt(SPECTRUM), turn * np.sqrt(SPECTRUM) @ turn.T
    x = np.sqrt(4) * np.concatenate([half.T, -half.T])
    noise = np.sqrt(3 * NOISE) * np.concatenate([np.eye(3), -np.eye(3)])
    x, noise = (np.array(part) for part in zip(*itertools.product(x, noise), strict=True))
    view = rotation(4) * np.array([0.6, 0.9, 1.1, 1.4]) @ rotation(4)
    return {
        name: Task(
            ne.Problem(deep_linear.loss, (jnp.asarray(x @ Z.T), jnp.asarray(x @ V.T + noise))), Z, WIDTHS[name], V, root
        )
        for name, Z in (("shallow", np.eye(4)), ("deep", view))
    }


def kernels(task: Task, params: list[Array]) -> Array:
    """√Σ_x F_iᵀF_i √Σ_x of every hidden layer, F_i = W_i ⋯ W_1 Z: the Gram of the representations of the inputs."""
    found, map_ = [], jnp.asarray(task.view @ task.root)
    for weight in params[:-1]:
        map_ = weight @ map_
        found.append(map_.T @ map_)
    return jnp.stack(found)


@cache
def symmetries(depth: int) -> list[ne.Symmetry]:
    """Of a network; one and the same object each time, so that nothing is compiled twice."""
    return deep_linear.symmetries(depth)


def alignments(kernels: np.ndarray) -> np.ndarray:
    """⟨K, K'⟩/(‖K‖‖K'‖) for all pairs: (…, layers, d, d) to (…, layers, layers)."""
    flat = kernels.reshape(*kernels.shape[:-2], -1)
    flat = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
    return flat @ np.swapaxes(flat, -1, -2)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    bar = tqdm(total=3)
    with jax.enable_x64(True):
        both = tasks(seed)
        keys = jax.random.split(jax.random.key(seed), 2)
        starts = {name: random_starts(task, preset.seeds, keys[0]) for name, task in both.items()}
        trained, arrays = training(preset, both, starts, keys[1])
        bar.update()
        predicted = prediction(both, starts)
        bar.update()
        decays, decay_arrays = decay(both, starts)
        bar.update()
    arrays |= decay_arrays
    return [*predicted, *trained, *decays], arrays, draw(arrays)


def random_starts(task: Task, seeds: int, key: Array) -> list[Array]:
    """Independent normal weights."""
    starts = jax.vmap(lambda one: deep_linear.init(one, 4, task.widths, 3))(jax.random.split(key, seeds))
    return [jnp.asarray(leaf, jnp.float64) for leaf in starts]


def training(
    preset: Preset, both: dict[str, Task], starts: dict[str, list[Array]], key: Array
) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """SGD at two rates, and GD, from the same starts."""
    seen: dict[str, list[np.ndarray]] = {"SGD, η": [], "SGD, η/2": [], "GD": []}
    for place, (name, task) in enumerate(both.items()):
        for half, label in enumerate(("SGD, η", "SGD, η/2")):
            rate = preset.rate / 2**half
            steps = RECORDS * round(preset.time / rate**2 / RECORDS)
            keys = jax.random.split(jax.random.fold_in(key, 2 * place + half), preset.seeds)
            seen[label].append(_kernels_along(task, ne.SGD(rate, 1), starts[name], keys, steps))
        keys = jax.random.split(key, preset.seeds)
        seen["GD"].append(_kernels_along(task, ne.GD(0.02), starts[name], keys, 20_000))
    every = {label: np.concatenate(parts, axis=2) for label, parts in seen.items()}
    # A start may be so steep that no run of ours is stable from it: the pair is left out everywhere, and counted.
    stay = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2, 3, 4)) for values in every.values()])
    every, pairs = {label: values[stay] for label, values in every.items()}, int(stay.sum())
    # Kernels are averaged before they are compared: what fluctuates at finite η would lower every alignment.
    least = {
        label: alignments(values[:, LATE + 1 :].mean(axis=1)).min(axis=(-1, -2)) for label, values in every.items()
    }
    runs = least["SGD, η"], least["SGD, η/2"]
    metrics = [
        extrapolated(
            "SGD: least alignment of any two hidden layers of both networks, mean over pairs",
            1,
            *runs,
            bias=float(limit(*runs).first),  # 1 − alignment is quadratic in an O(η) error: it falls faster than η
        ),
        Metric("GD: the same", None, float(least["GD"].mean()), high=0.97),
        Metric(
            f"pairs of {preset.seeds} left out, of which a run diverges", 0, preset.seeds - pairs, high=MOST_LEFT_OUT
        ),
    ]
    there = ne.exact.deep_linear_equilibrium(
        both["deep"].V, both["deep"].root @ both["deep"].root, NOISE * np.eye(3), (3,)
    )
    one = np.asarray(kernels(both["shallow"]._replace(view=np.eye(4)), there))
    ends = [
        np.concatenate([np.broadcast_to(one, (pairs, *one.shape)), every[label][:, LATE + 1 :].mean(axis=1)], axis=1)
        for label in ("SGD, η", "SGD, η/2")
    ]
    with_theory = [alignments(end)[:, 0].min(axis=-1) for end in ends]
    name = "SGD: least alignment with the layer of Theorem 5.4"
    metrics.append(extrapolated(name, 1, *with_theory, bias=float(limit(*with_theory).first)))
    path = {label: alignments(values).min(axis=(-1, -2)) for label, values in every.items()}
    return metrics, {
        "time": np.linspace(0, preset.time, RECORDS + 1),
        "sgd": path["SGD, η/2"],
        "gd": path["GD"],
        "sgd_alignment": alignments(every["SGD, η/2"][:, LATE + 1 :].mean(axis=1)).mean(axis=0),
        "gd_alignment": alignments(every["GD"][:, -1]).mean(axis=0),
    }


def _kernels_along(
    task: Task, dynamics: ne.AbstractDynamics, starts: list[Array], keys: Array, steps: int
) -> np.ndarray:
    observe = {"kernels": lambda params: kernels(task, params)}
    run = independent_runs(task.problem, dynamics, starts, keys, steps, observe, records=RECORDS)
    return np.asarray(run.observed["kernels"])


def minimum(task: Task, start: list[Array]) -> list[Array]:
    """A global minimum without training: the last layers of a random start, and the first that fits V Z⁻¹."""
    later = start[-1]
    for weight in start[-2:0:-1]:
        later = later @ weight
    return [jnp.linalg.pinv(later) @ jnp.asarray(task.V @ np.linalg.inv(task.view)), *start[1:]]


def prediction(both: dict[str, Task], starts: dict[str, list[Array]]) -> list[Metric]:
    """`find_equilibrium` from random minima that were never trained."""
    found, before = [], []
    for name, task in both.items():
        there = minimum(task, [leaf[0] for leaf in starts[name]])
        before.append(np.asarray(kernels(task, there)))
        end = ne.find_equilibrium(task.problem, there, symmetries(len(there)), 0.5).params
        found.append(np.asarray(kernels(task, end)))
    least, first = (float(alignments(np.concatenate(parts)).min()) for parts in (found, before))
    return [
        Metric("`find_equilibrium`: one less the least alignment of any two hidden layers", 0, 1 - least, high=1e-8),
        Metric("the same at the random minima it started from", None, 1 - first, low=0.03),
    ]


def decay(both: dict[str, Task], starts: dict[str, list[Array]]) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Where noise and weight decay balance on the orbit, over γ/σ², and with decay alone."""
    least, alone, powers = [], [], []
    for ratio in (*DECAYS, None):
        parts = []
        for name, task in both.items():
            there = minimum(task, [leaf[0] for leaf in starts[name]])
            problem = ne.Problem(deep_linear.loss, task.problem.data, 1.0 if ratio is None else ratio * 0.5)
            law = ne.GradientFlow(0.1) if ratio is None else 0.5
            end = ne.find_equilibrium(problem, there, symmetries(len(there)), law).params
            parts.append(np.asarray(kernels(task, end)))
            if ratio is None:
                powers.append(balanced_kernels(task, len(parts[-1])))
                alone.append(_gap(powers[-1], parts[-1]))
        least.append(float(alignments(np.concatenate(parts)).min()))
    balanced = float(alignments(np.concatenate(powers)).min())
    metrics = [
        Metric("decay alone: kernels of all layers against R₀S₀^{2i/D}R₀ᵀ, relative", 0, max(alone), high=1e-6),
        Metric(
            "decay alone: least alignment of any two hidden layers",
            balanced,
            least[-1],
            balanced - 1e-6,
            balanced + 1e-6,
        ),
        Metric("decay of γ = σ²: least alignment of any two hidden layers", None, least[DECAYS.index(1.0)]),
    ]
    return metrics, {"decays": np.array(DECAYS), "decay_alignment": np.array(least)}


def balanced_kernels(task: Task, layers: int) -> np.ndarray:
    """The kernels of the hidden layers of balanced weights, U_{i+1}ᵀU_{i+1} = W_iW_iᵀ, in the view of the network."""
    _, singular, right = np.linalg.svd(task.V @ np.linalg.inv(task.view), full_matrices=False)
    map_ = right @ task.view @ task.root
    powers = 2 * np.arange(1, layers + 1) / (layers + 1)
    return np.stack([map_.T @ np.diag(singular**power) @ map_ for power in powers])


def _gap(expected: np.ndarray, found: np.ndarray) -> float:
    norms = [np.linalg.norm(kernels, axis=(1, 2)) for kernels in (found - expected, expected)]
    return float(np.max(norms[0] / norms[1]))
