"""Regression by ReLU and leaky ReLU networks with biases, which have one rescaling symmetry per hidden neuron.

The charge of neuron j, C_j = ‖w_j‖² + b_j² − ‖u_j‖², flows as dC_j/dt = −4γC_j + 2σ²(M₊ − M₋)_j. Three questions:

    flow         does ∫ of that rate along a run of SGD give the change of every charge? GD moves them by O(η) only;
    equilibrium  do the charges end at those of `find_equilibrium` on the orbit of the parameters of the moment?
    depth        do all charges of two hidden layers, jointly? With weight decay, because neurons that are hardly ever
                 active have hardly any noise, and would take longer than any run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, within
from experiments._runs import dense_start, independent_runs, integral
from experiments.neuron_charges.figure import draw
from noise_equilibrium.models import deep_relu

D_IN, WIDTH, D_OUT, SAMPLES, NOISE, BIAS = 5, 8, 3, 400, 0.5, 0.5
READOUT, TEACHER_READOUT = 0.3, 0.5  # small, so that the loss has not far to fall: GD moves charges by η(L₀ − L_∞)
RATE, BATCH, STEPS = 0.01, 8, 40_000
DEEP_WIDTHS, DEEP_BATCH, DECAY = (6, 6), 4, 1e-3
NETS = {"ReLU": deep_relu.relu, "leaky": deep_relu.leaky_relu}
RECORDS = 200
LATE = RECORDS * 3 // 5  # the last 40 % count as the end


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs, each from its own initialisation.
        settling: steps of the runs that are to reach the equilibrium.
        deep_steps: steps of those of deep networks.
    """

    seeds: int = 4
    settling: int = 480_000
    deep_steps: int = 200_000


FULL = Preset()
QUICK = Preset(seeds=3, settling=400_000, deep_steps=160_000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    data_key, start_key, *keys = jax.random.split(jax.random.key(seed), 5)
    start_keys = jax.random.split(start_key, preset.seeds)
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        starts = jax.vmap(lambda key: start(key, [WIDTH]))(start_keys)
        for name, net in tqdm(NETS.items(), disable=None):
            data = regression(net, data_key)
            problem = ne.Problem(net.loss, data)
            (symmetry,) = deep_relu.symmetries(2)
            noise_keys = [jax.random.split(key, preset.seeds) for key in keys]
            arrays |= {
                f"{name}_flow_{what}": np.asarray(value)
                for what, value in flow(problem, symmetry, starts, noise_keys[0]).items()
            }
            sgd = ne.SGD(RATE, BATCH)
            settled = settle(problem, sgd, [symmetry], starts, noise_keys[1], preset.settling)
            arrays |= {f"{name}_settle_{what}": np.asarray(value) for what, value in settled.items()}
        net, deep_starts = deep_relu.relu, jax.vmap(lambda key: start(key, DEEP_WIDTHS))(start_keys)
        problem = ne.Problem(net.loss, regression(net, data_key), DECAY)
        symmetries = deep_relu.symmetries(len(DEEP_WIDTHS) + 1)
        sgd, noise_keys = ne.SGD(RATE, DEEP_BATCH), jax.random.split(keys[2], preset.seeds)
        settled = settle(problem, sgd, symmetries, deep_starts, noise_keys, preset.deep_steps)
        arrays |= {f"deep_settle_{what}": np.asarray(value) for what, value in settled.items()}
    return _metrics(arrays), arrays, draw(arrays)


def start(key: Array, widths: Sequence[int], readout: float = READOUT) -> deep_relu.Params:
    """Initial parameters in double precision; the weights of the last layer times `readout`."""
    *hidden, last = deep_relu.init(key, D_IN, widths, D_OUT, bias=BIAS)
    params = [*hidden, last._replace(weight=readout * last.weight)]
    return jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.float64), params)


def regression(net: deep_relu.Network, key: Array) -> tuple[Array, Array]:
    """N samples of x ~ N(0, I) and y = teacher(x) + noise; the teacher is a network of the same kind."""
    teacher_key, x_key, noise_key = jax.random.split(key, 3)
    teacher = start(teacher_key, [WIDTH], TEACHER_READOUT)
    x = jax.random.normal(x_key, (SAMPLES, D_IN), jnp.float64)
    noise = jax.random.normal(noise_key, (SAMPLES, D_OUT), jnp.float64)
    return x, jax.vmap(net.predict, (None, 0))(teacher, x) + NOISE * noise


def flow(problem: ne.Problem, symmetry: ne.Symmetry, starts: Any, keys: Array) -> dict[str, Array]:
    """Charges and their predicted rates along runs of SGD, and the charges of GD."""
    sgd = ne.SGD(RATE, BATCH)

    def observe(params: deep_relu.Params) -> dict[str, Array]:
        rate = ne.noether_flow(problem, params, symmetry, sgd.noise_scale)
        return {"charge": symmetry.charge(params), "rate": rate}

    seen = dense_start(problem, sgd, starts, keys, STEPS, observe)
    gd = dense_start(problem, ne.GD(RATE), starts, keys, STEPS, lambda params: {"charge": symmetry.charge(params)})
    return {**seen, "gd": gd["charge"]}


@eqx.filter_jit
def settle(
    problem: ne.Problem, sgd: ne.SGD, symmetries: list[ne.Symmetry], starts: Any, keys: Array, steps: int
) -> dict[str, Array]:
    """All charges along runs of SGD, and those of the equilibrium on the orbit of the moment."""

    def observe(params: deep_relu.Params) -> Array:
        found = ne.find_equilibrium(problem, params, symmetries, sgd)
        return jnp.stack(
            [jnp.concatenate([one.charge(place) for one in symmetries]) for place in (params, found.params)]
        )

    runs = independent_runs(problem, sgd, starts, keys, steps, {"charges": observe}, records=RECORDS)
    charges = runs.observed["charges"]
    return {"time": runs.time, "charge": charges[:, :, 0], "target": charges[:, :, 1]}


def distances(arrays: dict[str, np.ndarray], name: str) -> tuple[float, float]:
    """|C_j − C*_j|/|C*_j| of the median neuron of all runs, at the start and in the average over the end of a run."""
    charge, target = (arrays[f"{name}_settle_{what}"] for what in ("charge", "target"))

    def relative(charge: np.ndarray, target: np.ndarray) -> float:
        return float(np.median(np.abs(charge - target) / np.abs(target)))

    late = slice(LATE, None)
    return relative(charge[:, 0], target[:, 0]), relative(charge[:, late].mean(axis=1), target[:, late].mean(axis=1))


def slope(moved: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Of the changes of all charges against the predicted ones, with its error from their scatter."""
    value = float(np.sum(moved * predicted) / np.sum(predicted**2))
    scatter = np.sum((moved - value * predicted) ** 2) / (moved.size - 1)
    return value, float((scatter / np.sum(predicted**2)) ** 0.5)


def arrived(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """C_j/C*_j of every neuron of every run, both averaged over its end."""
    charge, target = (arrays[f"{name}_settle_{what}"][:, LATE:].mean(axis=1) for what in ("charge", "target"))
    return (charge / target).ravel()


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in NETS:
        charge, rate, time = (arrays[f"{name}_flow_{what}"] for what in ("charge", "rate", "time"))
        moved, predicted = charge[:, -1] - charge[:, 0], integral(time[0], rate)[:, -1]
        correlation = float(np.corrcoef(moved.ravel(), predicted.ravel())[0, 1])
        gd = arrays[f"{name}_flow_gd"]
        controls = gd[:, -1] - gd[:, 0]
        drift = float(np.max(np.linalg.norm(controls, axis=1) / np.linalg.norm(moved, axis=1)))
        late = arrays[f"{name}_settle_charge"][:, LATE:].mean(axis=1)
        metrics += [
            # What the SDE leaves out is of order ηh, and curvatures h of these networks go up to about 10.
            within(
                f"{name}: slope of the changes of charges against ∫2σ²(M₊ − M₋)dt",
                1,
                *slope(moved, predicted),
                bias=10 * RATE,
                runs=moved.size,
            ),
            Metric(f"{name}: correlation of the two over neurons", 1, correlation, low=0.99),
            Metric(f"{name}: change of the charges under GD over that under SGD, largest", 0, drift, high=0.15),
            *_settled(arrays, name, f"{name}:"),
            Metric(f"{name}: |C_j| at the end, median", None, float(np.median(np.abs(late))), low=0.1),
        ]
    return [*metrics, *_settled(arrays, "deep", "two hidden layers:")]


def _settled(arrays: dict[str, np.ndarray], name: str, title: str) -> list[Metric]:
    """Medians, as neurons with little noise take longer than any run; how many those are is told beside it."""
    before, after = distances(arrays, name)
    ratio = arrived(arrays, name)
    share = float(np.mean(np.abs(ratio - 1) < 0.2))
    return [
        Metric(f"{title} |C_j − C*_j|/|C*_j| at the start, median neuron", None, before, low=0.5),
        Metric(f"{title} |C_j − C*_j|/|C*_j| at the end, median neuron", 0, after, high=0.1),
        Metric(f"{title} C_j/C*_j at the end, median neuron", 1, float(np.median(ratio)), 0.9, 1.1),
        Metric(f"{title} share of neurons with C_j within 20 % of C*_j at the end", None, share, low=0.5),
    ]
