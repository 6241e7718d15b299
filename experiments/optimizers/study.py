"""The tasks of `alignment` and of `neuron_charges`, with SGD, with momentum β, and with Adam.

    momentum  m' = βm + ĝ, θ' = θ − ηm'. The point θ̃ = θ − ηβ/(1−β) m makes plain steps θ̃' = θ̃ − η/(1−β) ĝ(θ), so to
              lowest order charges obey the SDE of the learning rate η/(1−β): dC/dt = 2σ²(M₊ − M₋), dt = η/(1−β) a step
              and 2σ² = η/((1−β)S). Its steps commute with rotations of the hidden layer, as those of SGD do. All runs
              with momentum here have the η/(1−β) of SGD, and so the same prediction.
    Adam      θ' = θ − η m̂/(√v̂ + ε), entry by entry. That does not commute with rotations, and a charge moves by
              −2η θᵀA D ĝ in a step, D = 1/(√v̂ + ε), which symmetry makes vanish only for D ∝ 1: at first order in η,
              without any noise. GD moves a charge at second order. So no equilibrium of the noise is promised.

Adam is run at a learning rate of its own, because its steps do not scale with the gradient.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._residual import residual
from experiments._runs import independent_runs
from experiments.neuron_charges.study import STEPS, WIDTH, regression, start
from experiments.optimizers.figure import draw
from noise_equilibrium.models import deep_relu, two_layer_linear

SIZE, HIDDEN = 6, 8  # the linear network
COV_X, COV_NOISE = np.diag(np.linspace(0.5, 1.5, SIZE)), np.diag(np.geomspace(0.25, 4, SIZE))
RATE, ADAM_RATE = 0.01, 1e-3
BATCH = {"linear": 2, "neurons": 8}
BETAS = (0.5, 0.9)
MARK = 0.1  # of the charges of neurons; what the SDE leaves out is of this order at these η
RECORDS = 200
LATE = RECORDS * 3 // 5  # the last 40 % count as the end


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of every kind, each from its own initialisation.
        steps: of the linear network.
        noiseless: steps of η of the optimisers on the whole data set; four times as many at η/4.
    """

    seeds: int = 4
    steps: int = 60_000
    noiseless: int = 3000


FULL = Preset()
QUICK = Preset(seeds=2, steps=40_000, noiseless=2000)


def optimizers(rate: float, adam_rate: float) -> dict[str, optax.GradientTransformation]:
    """By name; those with momentum have the same η/(1−β)."""
    return {
        "SGD": optax.sgd(rate),
        **{f"momentum {beta:g}": optax.sgd(rate * (1 - beta), momentum=beta) for beta in BETAS},
        "Adam": optax.adam(adam_rate),
    }


NAMES = tuple(optimizers(RATE, ADAM_RATE))


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    linear_key, neuron_key = jax.random.split(jax.random.key(seed))
    arrays: dict[str, np.ndarray] = {}
    bar = tqdm(total=4, disable=None)

    def add(prefix: str, seen: dict[str, dict[str, Array]]) -> None:
        for name, values in seen.items():
            arrays.update({f"{prefix}_{name}_{what}": np.asarray(value) for what, value in values.items()})
        bar.update()

    with jax.enable_x64(True):
        data_key, start_key, noise_key = jax.random.split(linear_key, 3)
        teacher = ne.data.LinearTeacher(
            jax.random.normal(data_key, (SIZE, SIZE), jnp.float64) / SIZE**0.5, COV_X, COV_NOISE
        )
        starts = jax.vmap(_linear_start)(jax.random.split(start_key, preset.seeds))
        keys = jax.random.split(noise_key, preset.seeds)
        exact = ne.Problem(two_layer_linear.loss, teacher.moment_matched(data_key, 2 * SIZE))
        add("align", align(ne.Problem(two_layer_linear.loss, ne.Stream(teacher)), starts, keys, preset.steps))
        add("turned", {name: {"off": value} for name, value in turned(exact, starts, keys).items()})
        add("noiseless", noiseless(exact, starts, keys, preset.noiseless))

        data_key, start_key, noise_key = jax.random.split(neuron_key, 3)
        problem = ne.Problem(deep_relu.relu.loss, regression(deep_relu.relu, data_key))
        starts = jax.vmap(lambda key: start(key, [WIDTH]))(jax.random.split(start_key, preset.seeds))
        add("neurons", neurons(problem, starts, jax.random.split(noise_key, preset.seeds)))
    return _metrics(arrays), arrays, draw(arrays, NAMES)


def _linear_start(key: Array) -> two_layer_linear.Params:
    params = two_layer_linear.init(key, SIZE, HIDDEN, SIZE)
    return two_layer_linear.Params(*(leaf.astype(jnp.float64) for leaf in params))


def align(problem: ne.Problem, starts: Any, keys: Array, steps: int) -> dict[str, dict[str, Array]]:
    """Both sides of Eq. (14) along runs of every optimiser."""
    shares = [jnp.asarray(cov / np.trace(cov)) for cov in (COV_X, COV_NOISE)]

    def sides(params: two_layer_linear.Params) -> tuple[Array, Array]:
        return params.down @ shares[0] @ params.down.T, params.up.T @ shares[1] @ params.up

    seen = {
        name: independent_runs(
            problem, ne.Optax(optimizer, BATCH["linear"]), starts, keys, steps, {"sides": sides}, records=RECORDS
        )
        for name, optimizer in optimizers(RATE, ADAM_RATE).items()
    }
    return {
        name: {"down": of.observed["sides"][0], "up": of.observed["sides"][1], "step": of.step[0]}
        for name, of in seen.items()
    }


def turned(problem: ne.Problem, starts: Any, keys: Array, steps: int = 500) -> dict[str, Array]:
    """How far Q from a rotated start is from the rotated Q, relative to Q, after some steps with the same samples."""
    symmetry = two_layer_linear.symmetry
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN)))
    rotated = two_layer_linear.Params(starts.up @ turn, turn.T @ starts.down)
    found = {}
    for name, optimizer in optimizers(RATE, ADAM_RATE).items():
        dynamics = ne.Optax(optimizer, BATCH["linear"])
        plain, other = (
            jax.vmap(symmetry.charge)(independent_runs(problem, dynamics, at, keys, steps).params)
            for at in (starts, rotated)
        )
        found[name] = jnp.linalg.norm(other - turn.T @ plain @ turn, axis=(1, 2)) / jnp.linalg.norm(plain, axis=(1, 2))
    return found


def noiseless(problem: ne.Problem, starts: Any, keys: Array, steps: int) -> dict[str, dict[str, Array]]:
    """How far charges move on the exact gradient, at η and at η/4, over the same time."""
    symmetry, whole = two_layer_linear.symmetry, jax.tree_util.tree_leaves(problem.data)[0].shape[0]
    found: dict[str, dict[str, Array]] = {name: {} for name in NAMES}
    for what, factor in (("at_rate", 1), ("at_quarter", 4)):
        for name, optimizer in optimizers(RATE / factor, ADAM_RATE / factor).items():
            dynamics = ne.Optax(optimizer, whole, replacement=False)

            def one(start: Any, dynamics: ne.Optax = dynamics, factor: int = factor) -> Array:
                end = ne.simulate(problem, dynamics, start, factor * steps, key=keys[0]).params
                return jnp.linalg.norm(symmetry.charge(end) - symmetry.charge(start))

            found[name][what] = eqx.filter_jit(jax.vmap(one))(starts)
    return found


def neurons(problem: ne.Problem, starts: Any, keys: Array) -> dict[str, dict[str, Array]]:
    """Changes of the charges of hidden neurons, and ∫ of the SDE's rate along the run, for every optimiser."""
    (symmetry,), batch = deep_relu.symmetries(2), BATCH["neurons"]
    noise_scale = RATE / (2 * batch)

    def rate(params: deep_relu.Params) -> Array:
        return ne.noether_flow(problem, params, symmetry, noise_scale)

    found = {}
    for name, optimizer in optimizers(RATE, ADAM_RATE).items():
        watch = {"rate": ne.running(rate, 0, 20)}
        seen = independent_runs(problem, ne.Optax(optimizer, batch), starts, keys, STEPS, watch)
        moved = jax.vmap(symmetry.charge)(seen.params) - jax.vmap(symmetry.charge)(starts)
        found[name] = {"moved": moved, "predicted": RATE * STEPS * seen.observed["rate"].mean}
    return found


def misalignment(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """‖A − B‖/√(‖A‖‖B‖) at the end of every run, of both sides averaged."""
    a, b = (arrays[f"align_{name}_{side}"][:, LATE:].mean(axis=1) for side in ("down", "up"))
    return residual(a, b)


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in NAMES:
        adam = name == "Adam"
        off = float(arrays[f"turned_{name}_off"].max())
        drifts = [float(np.linalg.norm(arrays[f"noiseless_{name}_{what}"])) for what in ("at_rate", "at_quarter")]
        moved, predicted = (arrays[f"neurons_{name}_{what}"] for what in ("moved", "predicted"))
        error = float(np.linalg.norm(moved - predicted) / np.linalg.norm(predicted))
        rest = float(np.median(misalignment(arrays, name)))
        turning, ratio = f"{name}: Q from a rotated start off the rotated Q", drifts[0] / drifts[1]
        scaling = f"{name}: change of Q without noise, η over η/4"
        flow = f"{name}: change of neuron charges off ∫2σ²(M₊ − M₋)dt, relative"
        if adam:
            metrics += [
                Metric(turning, None, off, low=0.01),
                Metric(scaling, 1, ratio, high=2),
                Metric(flow, None, error),
            ]
        else:
            metrics += [
                Metric(turning, 0, off, high=1e-9),
                Metric(scaling, 4, ratio, 3, 5),
                Metric(flow, 0, error, high=MARK),
            ]
        metrics += [
            Metric(f"{name}: change of Q without noise, at η/4", None if adam else 0, drifts[1]),
            Metric(f"{name}: ‖A − B‖/√(‖A‖‖B‖) at the end, median run", None if adam else 0, rest),
        ]
    return metrics
