"""Regression by softmax self-attention with one and with two heads, from unbalanced queries (0.9) and keys (0.3).

The charge QQᵀ − KKᵀ of every head flows as dC/dt = 2σ²(M₊ − M₋), M₊ the noise of Q and M₋ that of K, until they
balance. The discrete law of Appendix D has the mean gradient too. The imbalance is ‖M₊ − M₋‖/(‖M₊‖ + ‖M₋‖), with both
averaged over the last 40 % of a stretch of a run, and compared with that of its own start. GD moves charges by O(η) in
all, and leaves it. What makes a run long enough and a step small enough:

    clock   A head may wait on a plateau, where its noise and so its κ are small. Runs of SGD go on until the slowest κ
            of all along the way, ∫ min κ dt, has counted to CLOCK.
    task    The loss is summed over outputs and averaged over tokens, the labels are those of a small teacher without
            weak directions, with noise of variance 1. The noise at the minimum sets the rates κ ∝ σ²E‖ε‖². Larger
            values and outputs of the teacher balance faster, but what the SDE leaves out grows with the curvature h as
            ηh: the flow is followed on a calmer teacher than the balance.
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
from experiments._metrics import Metric, standard_error, within
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
CLOCK = 4.0
SHARES = (1, 4)  # GD's drift at η over these
LEFT, KEPT = 0.3, 0.5  # of the imbalance of the start: SGD leaves less than a third, GD keeps more than half
PARTS = {"query_key": "queries and keys", "value_output": "values and outputs"}


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: starts, each with its own runs.
        gd_steps: steps of GD.
        drift_steps: steps of GD in which its drift is compared with that at η/4, in four times as many.
        longest: the most stretches of SGD, each of the steps above, that the clock may ask for.
    """

    seeds: int = 8
    gd_steps: int = 40_000
    drift_steps: int = 1000
    longest: int = 8


FULL = Preset()
QUICK = Preset(seeds=2, drift_steps=200, longest=4)


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
    bar = tqdm(total=5 * len(HEADS), disable=None)
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
            noise_keys = [jax.random.split(key, preset.seeds) for key in keys]
            flow = follow(calm, network.query_key, starts, noise_keys[0])
            arrays |= {f"{name}_flow_{what}": np.asarray(value) for what, value in flow.items()}
            bar.update()
            sgd = settle(problem, network, starts, noise_keys[1], preset.longest)
            arrays |= {f"{name}_sgd_{what}": value for what, value in sgd.items()}
            bar.update()
            gd, _ = balance(problem, ne.GD(RATE), network, starts, noise_keys[1], preset.gd_steps)
            arrays |= {f"{name}_gd_{what}": np.asarray(value) for what, value in gd.items()}
            bar.update()
            for share in SHARES:  # of the learning rate, over the same time
                moved = drift(problem, ne.GD(RATE / share), network, starts, noise_keys[1], share * preset.drift_steps)
                arrays[f"{name}_drift_{share}"] = np.asarray(moved)
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


def settle(
    problem: ne.Problem, network: attention.Network, starts: Any, keys: Array, longest: int
) -> dict[str, np.ndarray]:
    """Records of SGD in stretches of STEPS, as many as the clock of the slowest direction of all runs asks for."""
    stretches: list[dict[str, np.ndarray]] = []
    clock = 0.0
    while len(stretches) < longest and clock < CLOCK:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, len(stretches))
        seen, starts = balance(problem, ne.SGD(RATE, BATCH), network, starts, own, STEPS, clocked=True)
        found = {what: np.asarray(value) for what, value in seen.items()}
        clock += float(found["kappa"].mean(axis=1).min() * RATE * STEPS)
        found["time"] = found["time"] + len(stretches) * RATE * STEPS
        stretches.append(found if not stretches else {what: value[:, 1:] for what, value in found.items()})
    whole = {what: np.concatenate([found[what] for found in stretches], axis=1) for what in stretches[0]}
    return whole | {"clock": np.array(clock)}


@eqx.filter_jit
def balance(
    problem: ne.Problem,
    dynamics: Any,
    network: attention.Network,
    starts: Any,
    keys: Array,
    steps: int,
    *,
    clocked: bool = False,
) -> tuple[dict[str, Array], Any]:
    """Charges, and the noise of both sides of both pairs, along runs, and their ends.

    If clocked, also the least κ of queries and keys at the equilibrium on the orbit of the moment.
    """
    symmetries = {part: getattr(network, part) for part in PARTS}

    def observe(params: attention.Params) -> dict[str, Array]:
        moments = ne.noise_moments(problem, params, list(symmetries.values()))
        found = {"charge": network.query_key.charge(params)}
        for part, of in zip(symmetries, moments, strict=True):
            found |= {f"{part}_plus": of.noise_plus, f"{part}_minus": of.noise_minus}
        if clocked:
            rest = ne.find_equilibrium(problem, params, network.query_key, dynamics).params
            found["kappa"] = jnp.min(ne.relaxation_rates(problem, rest, network.query_key, dynamics))
        return found

    runs = independent_runs(problem, dynamics, starts, keys, steps, {"all": observe}, records=RECORDS)
    return {**runs.observed["all"], "time": runs.time}, runs.params


@eqx.filter_jit
def drift(
    problem: ne.Problem, dynamics: Any, network: attention.Network, starts: Any, keys: Array, steps: int
) -> Array:
    """How far the charges of queries and keys moved along runs, (runs, heads, d, d)."""
    moved = independent_runs(problem, dynamics, starts, keys, steps).params
    before, after = (jax.vmap(network.query_key.charge)(params) for params in (starts, moved))
    return after - before


def ends(arrays: dict[str, np.ndarray], name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The imbalance at the start of every run, and that at its end, of the averaged noise of the last 80 records."""
    sides = [arrays[f"{name}_{part}_{side}"] for side in ("plus", "minus")]
    late = [side[:, LATE - RECORDS :].mean(axis=1) for side in sides]
    return imbalance(sides[0][:, 0], sides[1][:, 0], lead=1), imbalance(*late, lead=1)


def slope(moved: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Of the changes of all entries against the predicted ones, with its error from their scatter."""
    value = float(np.sum(moved * predicted) / np.sum(predicted**2))
    scatter = np.sum((moved - value * predicted) ** 2) / (moved.size - 1)
    return value, float((scatter / np.sum(predicted**2)) ** 0.5)


def shares(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """(Tr M₊ − Tr M₋)/(Tr M₊ + Tr M₋) of queries and keys of every run and head, at its end."""
    plus, minus = (
        np.trace(arrays[f"{name}_query_key_{side}"][:, LATE - RECORDS :].mean(axis=1), axis1=-2, axis2=-1).ravel()
        for side in ("plus", "minus")
    )
    return (plus - minus) / (plus + minus)


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in HEADS:
        moved, exact, sde = (arrays[f"{name}_flow_{what}"] for what in ("moved", "exact", "sde"))
        entries = moved.size * 2 // 3  # of symmetric matrices of size 3
        changes = [arrays[f"{name}_drift_{share}"] for share in SHARES]
        drifts = [np.linalg.norm(change.reshape(len(change), -1), axis=1) for change in changes]
        metrics += [
            # The SDE leaves out the mean gradient, and both ηh; curvatures h of the calm task are of order 1.
            within(
                f"{name}: slope of the changes of charges against ∫2σ²(M₊ − M₋)dt",
                1,
                *slope(moved, sde),
                bias=1.5 * FLOW_RATE,
                runs=entries,
            ),
            within(
                f"{name}: the same against the discrete law",
                1,
                *slope(moved, exact),
                bias=0.5 * FLOW_RATE,
                runs=entries,
            ),
            Metric(f"{name}: ∫ min κ dt of SGD, slowest run", None, float(arrays[f"{name}_sgd_clock"])),
        ]
        for part, words in PARTS.items():
            start, end = ends(arrays, f"{name}_sgd", part)
            _, control = ends(arrays, f"{name}_gd", part)
            title = f"{name}, {words}: imbalance of the noise"
            metrics += [
                Metric(f"{title} at the start, mean", None, float(start.mean())),
                Metric(
                    f"{title} at the end of GD over that at its start, least run",
                    None,
                    float((control / start).min()),
                    low=KEPT if part == "query_key" else -np.inf,
                ),
                Metric(
                    f"{title} at the end of SGD over that at its start, worst run",
                    0,
                    float((end / start).max()),
                    high=LEFT if part == "query_key" else np.inf,
                ),
            ]
        ratio = drifts[0] / drifts[1]
        metrics += [
            # e^{−CLOCK} of the start in the slowest direction, and what fluctuates in one run.
            Metric(
                f"{name}: share of the noise in queries less that in keys at the end of SGD, worst head",
                0,
                float(_worst(shares(arrays, f"{name}_sgd"))),
                -0.2,
                0.2,
            ),
            # 2ηh of the curvature at the start, h ≈ 1.
            within(
                f"{name}: change of the charges under GD, η over η/4",
                4,
                float(ratio.mean()),
                standard_error(ratio),
                bias=4 * 2 * RATE,
            ),
        ]
    return metrics


def _worst(values: np.ndarray) -> float:
    return values[np.argmax(np.abs(values))]
