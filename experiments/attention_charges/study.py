"""Regression by softmax self-attention with one and with two heads, from unbalanced queries (0.9) and keys (0.3).

The charge QQᵀ − KKᵀ of every head flows as dC/dt = 2σ²(M₊ − M₋), M₊ the noise of Q and M₋ that of K, until they
balance. The discrete law of Appendix D has the mean gradient too. The imbalance is ‖M₊ − M₋‖/(‖M₊‖ + ‖M₋‖), with both
averaged over the last 40 % of a run. GD moves charges by O(η) in all, and leaves it. What makes a run long enough and a
step small enough:

    task    The loss is summed over outputs and averaged over tokens, the labels are those of a small teacher without
            weak directions, with noise of variance 1. The noise at the minimum sets the rates κ ∝ σ²E‖ε‖²: runs of SGD
            last several times 1/κ in most directions. Larger values and outputs of the teacher balance faster, but
            what the SDE leaves out grows with the curvature h as ηh: the flow is followed on a calmer teacher than the
            balance.
    start   GD moves a charge by η² Σ ḡᵀAḡ, 1/(1 − ηh/2) times its limit for small η along a curvature h. Values and
            outputs start small (0.3), and so do their curvatures: the drift is linear in η at the η of the study.
"""

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
from experiments._metrics import Metric
from experiments._runs import independent_runs
from experiments.attention_charges.figure import draw
from experiments.attention_charges.imbalance import imbalance
from noise_equilibrium.models import attention

D_IN, D_HEAD, D_OUT, TOKENS, SAMPLES, NOISE = 4, 3, 4, 5, 400, 1.0
START = (0.9, 0.3, 0.3, 0.3)  # the spreads of the initial Q, K, V and O
TEACHER, CALM_TEACHER = (0.4, 0.4, 0.4, 0.4), (0.4, 0.4, 0.3, 0.3)  # of the balance, and of the flow
FLOW_RATE, FLOW_BATCH, FLOW_STEPS, FLOW_EVERY = 0.03, 8, 60_000, 50
RATE, BATCH, STEPS = 0.05, 4, 40_000
HEADS = {"one head": 1, "two heads": 2}
RECORDS = 200
LATE = RECORDS * 3 // 5


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: starts, each with its own runs.
        gd_steps: steps of GD, four times as many at η/4; nearly all of its drift comes before a tenth of them.
    """

    seeds: int = 8
    gd_steps: int = 1000


FULL = Preset()
QUICK = Preset(seeds=2, gd_steps=200)


class Loss(eqx.Module):
    """‖f(X) − Y‖², averaged over tokens."""

    network: attention.Network

    def __call__(self, params: attention.Params, sample: tuple[Array, Array]) -> Array:
        """The loss of one sample."""
        return self.network.loss(params, sample) / TOKENS


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    arrays: dict[str, np.ndarray] = {}
    bar = tqdm(total=4 * len(HEADS), disable=None)
    with jax.enable_x64(True):
        for (name, heads), key in zip(HEADS.items(), jax.random.split(jax.random.key(seed), len(HEADS)), strict=True):
            network = attention.Network(heads)
            data_key, start_key, *keys = jax.random.split(key, 5)
            problem, calm = (
                ne.Problem(Loss(network), regression(network, data_key, spreads)) for spreads in (TEACHER, CALM_TEACHER)
            )
            starts = jax.vmap(lambda key, heads=heads: start(key, heads, START))(
                jax.random.split(start_key, preset.seeds)
            )
            symmetry = network.query_key
            noise_keys = [jax.random.split(key, preset.seeds) for key in keys]
            flow = follow(calm, symmetry, starts, noise_keys[0])
            arrays |= {f"{name}_flow_{what}": np.asarray(value) for what, value in flow.items()}
            bar.update()
            for case, dynamics, steps in (
                ("sgd", ne.SGD(RATE, BATCH), STEPS),
                ("gd", ne.GD(RATE), preset.gd_steps),
                ("gd_quarter", ne.GD(RATE / 4), 4 * preset.gd_steps),
            ):
                seen = balance(problem, dynamics, symmetry, starts, noise_keys[1], steps)
                arrays |= {f"{name}_{case}_{what}": np.asarray(value) for what, value in seen.items()}
                bar.update()
    return _metrics(arrays), arrays, draw(arrays, tuple(HEADS))


def start(key: Array, heads: int, spreads: tuple[float, ...]) -> attention.Params:
    """Normal weights of these spreads, in double precision."""
    params = attention.init(key, D_IN, D_HEAD, D_OUT, heads, (1.0, 1.0))
    return attention.Params(*(spread * leaf.astype(jnp.float64) for spread, leaf in zip(spreads, params, strict=True)))


def regression(network: attention.Network, key: Array, spreads: tuple[float, ...]) -> tuple[Array, Array]:
    """N samples of T tokens X ~ N(0, I), with the outputs of a teacher and noise."""
    teacher_key, x_key, noise_key = jax.random.split(key, 3)
    teacher = even(start(teacher_key, network.heads, spreads), network.heads)
    x = jax.random.normal(x_key, (SAMPLES, TOKENS, D_IN), jnp.float64)
    noise = jax.random.normal(noise_key, (SAMPLES, TOKENS, D_OUT), jnp.float64)
    return x, jax.vmap(network.predict, (None, 0))(teacher, x) + NOISE * noise


def even(params: attention.Params, heads: int) -> attention.Params:
    """Weights whose heads have equal singular values each: no direction is weak."""

    def of(matrix: Array) -> Array:
        left, values, right = jnp.linalg.svd(matrix.reshape(heads, D_HEAD, -1), full_matrices=False)
        return (jnp.sqrt(jnp.mean(values**2, axis=1))[:, None, None] * (left @ right)).reshape(matrix.shape)

    query, key, value, out = params
    return attention.Params(of(query), of(key), of(value), of(out.T).T)


@eqx.filter_jit
def follow(problem: ne.Problem, symmetry: ne.Symmetry, starts: Any, keys: Array) -> dict[str, Array]:
    """How far the charges moved along runs of SGD, by Appendix D, and by Eq. (7); rates averaged along the runs."""
    sgd = ne.SGD(FLOW_RATE, FLOW_BATCH)

    def rates(params: attention.Params) -> tuple[Array, Array]:
        flows = [ne.noether_flow(problem, params, symmetry, law) for law in (sgd, sgd.noise_scale)]
        return flows[0], flows[1]

    runs = independent_runs(problem, sgd, starts, keys, FLOW_STEPS, {"rates": ne.running(rates, 0, FLOW_EVERY)})
    exact, sde = (FLOW_RATE * FLOW_STEPS * rate for rate in runs.observed["rates"].mean)
    before, after = (jax.vmap(symmetry.charge)(params) for params in (starts, runs.params))
    return {"moved": after - before, "exact": exact, "sde": sde}


@eqx.filter_jit
def balance(
    problem: ne.Problem, dynamics: Any, symmetry: ne.Symmetry, starts: Any, keys: Array, steps: int
) -> dict[str, Array]:
    """Charges, and the noise of both sides, along runs; at their ends κ at the equilibrium on the orbit."""

    def observe(params: attention.Params) -> dict[str, Array]:
        moments = ne.noise_moments(problem, params, symmetry)
        return {"charge": symmetry.charge(params), "plus": moments.noise_plus, "minus": moments.noise_minus}

    def rate(end: attention.Params) -> Array:
        rest = ne.find_equilibrium(problem, end, symmetry, dynamics).params
        return ne.relaxation_rates(problem, rest, symmetry, dynamics)

    runs = independent_runs(problem, dynamics, starts, keys, steps, {"all": observe}, records=RECORDS)
    return {**runs.observed["all"], "time": runs.time, "rate": jax.vmap(rate)(runs.params)}


def ends(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The imbalance at the end of every run, of the averaged noise."""
    plus, minus = (arrays[f"{name}_{side}"][:, LATE:].mean(axis=1) for side in ("plus", "minus"))
    return imbalance(plus, minus, lead=1)


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in HEADS:
        moved, exact, sde = (arrays[f"{name}_flow_{what}"] for what in ("moved", "exact", "sde"))
        errors = [float(np.linalg.norm(moved - predicted) / np.linalg.norm(predicted)) for predicted in (exact, sde)]
        before = imbalance(arrays[f"{name}_sgd_plus"][:, 0], arrays[f"{name}_sgd_minus"][:, 0], lead=1)
        slowest = float(arrays[f"{name}_sgd_rate"].min() * RATE * STEPS)
        sgd, gd = ends(arrays, f"{name}_sgd"), ends(arrays, f"{name}_gd")
        drifts = [
            np.linalg.norm(arrays[f"{name}_{case}_charge"][:, -1] - arrays[f"{name}_{case}_charge"][:, 0])
            for case in ("gd", "gd_quarter")
        ]
        metrics += [
            Metric(f"{name}: change of the charges off ∫2σ²(M₊ − M₋)dt, relative", 0, errors[1], high=0.12),
            Metric(f"{name}: the same off the discrete law", 0, errors[0], high=0.12),
            Metric(f"{name}: κ × time of SGD, slowest direction of all runs", None, slowest),
            Metric(f"{name}: imbalance of the noise at the start, median run", None, float(np.median(before))),
            Metric(f"{name}: imbalance at the end of SGD, median run", 0, float(np.median(sgd)), high=0.2),
            Metric(f"{name}: imbalance at the end of GD, median run", None, float(np.median(gd)), low=0.8),
            Metric(f"{name}: change of the charges under GD, η over η/4", 4, float(drifts[0] / drifts[1]), 3.6, 4.4),
        ]
    return metrics
