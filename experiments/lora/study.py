"""Adapters W + BA of low rank on a network for digits, pretrained upright and adapted to digits turned by a quarter.

The loss sees BA only: B → BP, A → P⁻¹A is a symmetry with the charge Q = BᵀB − AAᵀ. Starts, all with the function that
was pretrained (W − BA is frozen in place of W):

    usual     B = 0, A random
    random    both sides random
    balanced  the point with Q = 0 on the orbit of that one
    noise     the noise equilibrium on the orbit of that one

and `rebalance` to least norm, Q = 0, or to the noise equilibrium every k steps of SGD. What theory says has marks:
the law of the charge, a step from the noise equilibrium, conditioning at Q = 0, and where a motion ends. It says
nothing of the loss after n steps, or of how far the network has moved: these are differences between runs with the same
minibatches and the same pretrained network, with their intervals, at one learning rate and at each one's best.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments import _networks as networks
from experiments._metrics import Metric, of_runs, standard_error, within, worst_of
from experiments._runs import independent_runs, integral
from experiments.lora.adapters import (
    PRETRAINING,
    RANK,
    SYMMETRIES,
    TRAINED,
    Adapters,
    both_random,
    logits,
    problem_of,
    product,
    rotated,
    usual,
    without,
)
from experiments.lora.figure import draw
from experiments.lora.training import BATCH, RECORDS, Run, charges, imbalance, single_steps, train
from noise_equilibrium.models import deep_relu

RATE = 0.05
"""The learning rate at which all are compared."""
RATES = (0.02, RATE, 0.1)
SIZE = 0.5  # of both random sides: in all layers of the order of the weights that they change
DRAWS = 1024  # minibatches of a single step
STARTS = ("usual", "random", "balanced", "noise")
ARMS = {
    **{name: (name, None) for name in STARTS},
    **{f"{name}, {to} every k": (name, to) for name in ("usual", "random") for to in ("norm", "noise")},
}
"""Where each kind of run starts, and where it is moved to."""


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: pretrained networks, each adapted by every kind of run at every learning rate.
        steps: of SGD on the adapters.
        every: k, the steps between motions.
        pretraining: steps of SGD on the network, upright.
    """

    seeds: int = 32
    steps: int = 4000
    every: int = 100
    pretraining: int = 4000


FULL = Preset()
QUICK = Preset(seeds=12, steps=2000, pretraining=3000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 5)
    bases = pretrained(preset, keys[0])
    starts, bar = {}, tqdm(total=2 + len(ARMS), disable=None)
    arrays: dict[str, np.ndarray] = {}
    for rate in RATES:
        for name, runs in starting(bases, keys[1], keys[2], rate).items():
            starts[name, rate] = runs
    arrays |= of_starts(bases, {name: starts[name, RATE] for name in STARTS}, keys[3])
    bar.update()
    for name in STARTS:
        seen = charges(starts[name, RATE], preset.steps)
        arrays["law_step"] = np.asarray(seen.pop("step"))[0]
        arrays |= {f"{name}_{what}": np.asarray(value) for what, value in seen.items()}
        arrays[f"{name}_predicted"] = predicted_changes(arrays["law_step"], arrays[f"{name}_law"])
    bar.update()
    for arm, (name, to) in ARMS.items():
        runs = _joined([starts[name, rate] for rate in RATES])
        seen = train(runs, preset.steps, preset.every, to)
        ends = seen.pop("end")
        arrays |= {
            f"{arm}_{what}": np.asarray(value).reshape(len(RATES), preset.seeds, *value.shape[1:])
            for what, value in seen.items()
        }
        if to == "noise":
            arrays[f"{arm}_after"] = after_a_step(runs, ends, preset.seeds, keys[4])
        bar.update()
    for arm in ARMS:
        arrays |= {f"{arm}_ratio_{what}": loss_ratios(arrays, arm, at_best=what == "best") for what in ("one", "best")}
    arrays["step"] = np.linspace(0, preset.steps, RECORDS + 1)
    return _metrics(arrays), arrays, draw(arrays, ARMS, RATES.index(RATE))


def pretrained(preset: Preset, key: Array) -> deep_relu.Params:
    """Networks for upright digits, trained with weight decay; in front one for each seed."""
    x, labels = networks.digits()
    problem = ne.Problem(networks.dense_loss, (x[:TRAINED], labels[:TRAINED]), 5e-4)
    first, second = (jax.random.split(one, preset.seeds) for one in jax.random.split(key))
    return independent_runs(
        problem, PRETRAINING, jax.vmap(networks.dense_start)(first), second, preset.pretraining
    ).params


def starting(bases: deep_relu.Params, start_key: Array, noise_key: Array, rate: float) -> dict[str, Run]:
    """Runs from every start, the seeds in front; those of one seed have the same minibatches."""
    found: dict[str, list[Any]] = {name: [] for name in STARTS}
    for seed in range(len(bases[0].bias)):
        base = jax.tree_util.tree_map(lambda leaf, place=seed: leaf[place], bases)
        key = jax.random.fold_in(start_key, seed)
        both = both_random(base, key, SIZE)
        problem = problem_of(without(base, both), rotated()[0])
        adapters = {
            "usual": usual(base, key),
            "random": both,
            "balanced": ne.move_along(problem, both, SYMMETRIES, "norm").params,
            "noise": ne.find_equilibrium(problem, both, SYMMETRIES, ne.SGD(rate, BATCH)).params,
        }
        for name, one in adapters.items():
            run = (without(base, one), one, jax.random.fold_in(noise_key, seed), jnp.asarray(rate, jnp.float32))
            found[name].append(run)
    return {name: _stacked(runs) for name, runs in found.items()}


def _stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *trees)


def _joined(trees: list[PyTree]) -> PyTree:
    return jax.tree_util.tree_map(lambda *leaves: jnp.concatenate(leaves), *trees)


def of_starts(bases: deep_relu.Params, starts: dict[str, Run], key: Array) -> dict[str, np.ndarray]:
    """Functions, charges and steps at the starts."""
    x = rotated()[0][0]
    found: dict[str, list[np.ndarray]] = {"function": []}
    for name, runs in starts.items():
        steps, sides, spectra = [], [], []
        for seed in range(len(bases[0].bias)):
            base, (frozen, adapters, _, rate) = (
                jax.tree_util.tree_map(lambda leaf, place=seed: leaf[place], tree) for tree in (bases, runs)
            )
            before = jax.vmap(lambda x, base=base: deep_relu.relu.predict(base, x))(x)
            gap = jax.vmap(lambda x, f=frozen, a=adapters: logits(f, a, x))(x) - before
            found["function"].append(np.asarray(jnp.max(jnp.abs(gap)) / jnp.std(before)))
            if name in ("balanced", "noise"):
                drawn = single_steps((frozen, adapters, jax.random.fold_in(key, seed), rate), DRAWS)
                steps.append(_share(np.asarray(drawn, np.float64)))
            sides.append(np.asarray(imbalance(adapters)))
            spectra.append(_spectra(adapters))
        found |= {f"{name}_single": steps, f"{name}_imbalance_at_start": sides, f"{name}_spectra": spectra}
    return {what: np.asarray(values) for what, values in found.items()}


def _share(drawn: np.ndarray) -> np.ndarray:
    """E Tr ΔQ/E‖Δθ‖² of each layer."""
    moved, size = np.moveaxis(drawn.mean(axis=0), -1, 0)
    return moved / size


def _spectra(adapters: Adapters) -> np.ndarray:
    """The largest and the smallest singular value of BA on its rank, for each layer."""
    values = [np.linalg.svd(np.asarray(one, np.float64), compute_uv=False)[:RANK] for one in product(adapters)]
    return np.array([(one[0], one[-1]) for one in values])


def after_a_step(runs: Run, ends: Adapters, seeds: int, key: Array) -> np.ndarray:
    """E Tr ΔQ/E‖Δθ‖² at the ends of runs at RATE that have just been moved; of shape (seeds, layers)."""
    found = []
    for seed in range(seeds):
        place = RATES.index(RATE) * seeds + seed
        frozen, end, rate = (
            jax.tree_util.tree_map(lambda leaf, at=place: leaf[at], tree) for tree in (runs[0], ends, runs[3])
        )
        drawn = single_steps((frozen, end, jax.random.fold_in(key, seed), rate), DRAWS)
        found.append(_share(np.asarray(drawn, np.float64)))
    return np.asarray(found)


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    # In single precision; W − BA + BA loses a few units of rounding.
    metrics = [
        Metric("starts: largest change of a logit, over their scatter", 0, float(arrays["function"].max()), high=1e-4)
    ]
    metrics += [_charge_law(arrays, name) for name in STARTS]
    metrics.append(_at_rest("a step from the noise equilibrium", arrays["noise_single"]))
    metrics += [
        _at_rest(f"a step after the last motion, {arm}", arrays[f"{arm}_after"])
        for arm, (_, to) in ARMS.items()
        if to == "noise"
    ]
    at_zero = arrays["balanced_imbalance_at_start"]
    metrics.append(Metric("balanced start: ‖Q‖/(‖BᵀB‖ + ‖AAᵀ‖), largest", 0, float(at_zero.max()), high=1e-5))
    rate = RATES.index(RATE)
    for arm, (_, to) in ARMS.items():
        if to == "norm":
            worst = float(arrays[f"{arm}_imbalance"][rate, :, -1].max())
            metrics.append(Metric(f"charge after the last motion, {arm}: ‖Q‖/(‖BᵀB‖ + ‖AAᵀ‖)", 0, worst, high=1e-5))
    metrics += _conditioning(arrays)
    shares = arrays["balanced_single"].mean(axis=1)
    title = "compared, balanced: E Tr ΔQ/E‖Δθ‖² of the first step, mean of the layers"
    metrics.append(Metric(title, None, float(shares.mean()), error=standard_error(shares)))
    for name in STARTS:
        for place, when in ((0, "start"), (-1, "end")):
            flows = arrays[f"{name}_flow"][:, place].mean(axis=1)
            title = f"compared, {name}: flow of Q over what raises and lowers it, at the {when}"
            metrics.append(Metric(title, None, float(flows.mean()), error=standard_error(flows)))
    for outcomes in (
        _loss_at_one_rate,
        _loss_unmoved,
        _loss_at_best,
        _accuracy,
        _distance,
        _conditioning_at_end,
        _diverged,
    ):
        metrics += [metric for arm in ARMS if (metric := outcomes(arrays, arm)) is not None]
    return metrics


def predicted_changes(step: np.ndarray, law: np.ndarray, every: int = 1) -> np.ndarray:
    """The sum of the expected steps up to each record, from every so many of the records.

    Between records the law is taken to be linear; a sum over steps lacks the last value, and half of each end.

    Args:
        step: (records,), the steps done.
        law: (runs, records, layers), the expected step from there.
        every: which records are used.
    """
    step, law = step[::every].astype(float), law[:, ::every].astype(float)
    return integral(step, law) + (law[:, :1] - law) / 2


def _charge_law(arrays: dict[str, np.ndarray], name: str) -> Metric:
    """The change of Tr Q of the first layer over a run; its difference from the sum of expected steps has mean 0.

    A slope of one against the other would not do: where a step was large, the loss and later steps are smaller.
    """
    trace = arrays[f"{name}_trace"][:, :, 0].astype(float)
    moved, predicted = trace[:, -1] - trace[:, 0], arrays[f"{name}_predicted"][:, -1, 0]
    coarse = predicted_changes(arrays["law_step"], arrays[f"{name}_law"], 3)[:, -1, 0]
    # What is left out goes with the square of the distance of records: an eighth of what two thirds of them change.
    bias = abs(float((predicted - coarse).mean())) / 8
    title = f"charge, {name}: change of ‖B‖² − ‖A‖² of the first layer, against the sum of its expected steps"
    return within(
        title,
        float(predicted.mean()),
        float(moved.mean()),
        standard_error(moved - predicted),
        bias=bias,
        runs=len(moved),
    )


def _at_rest(title: str, shares: np.ndarray) -> Metric:
    """E Tr ΔQ/E‖Δθ‖² of one layer is 0 in the mean over networks; that a ratio is of means costs 1/draws."""
    found = [of_runs(f"{title}: E Tr ΔQ/E‖Δθ‖², worst layer", 0, one, bias=2 / DRAWS) for one in shares.T]
    return worst_of(found)


def _conditioning(arrays: dict[str, np.ndarray]) -> list[Metric]:
    """σ_1(B)² + σ_1(A)² ≥ 2σ_1(BA), and the smaller of σ_r(B)² and σ_r(A)² is at most σ_r(BA): equal where Q = 0."""
    rate = RATES.index(RATE)
    top, bottom = np.moveaxis(arrays["balanced_spectra"], -1, 0)
    least = np.sqrt(2 * top / bottom)
    at_start = {name: arrays[f"{name}_conditioning"][rate, :, 0] for name in STARTS}
    gaps = at_start["balanced"] / least
    others = np.stack([at_start[name] / least for name in ("random", "noise")])
    return [
        Metric("balanced start: conditioning over √(2σ₁/σ_r) of BA, worst", 1, _worst(gaps), 1 - 1e-3, 1 + 1e-3),
        Metric("other starts on that orbit: conditioning over that, smallest", None, float(others.min()), low=1 - 1e-3),
    ]


def _ratio(title: str, logs: np.ndarray) -> Metric:
    """A geometric mean over the pairs of runs of which none diverged, reported with its standard error."""
    logs = logs[np.isfinite(logs)]
    value = float(np.exp(logs.mean())) if len(logs) else np.nan
    return Metric(title, None, value, error=value * standard_error(logs))


def final(arrays: dict[str, np.ndarray], arm: str, what: str, rate: int) -> np.ndarray:
    """Every run at one of the rates, averaged over the records of its last quarter; NaN where it diverged."""
    values, loss = (arrays[f"{arm}_{name}"][rate].astype(float) for name in (what, "loss"))
    late = values[:, -RECORDS // 4 :].mean(axis=1)
    return np.where(np.isfinite(loss[:, -1]).reshape(-1, *[1] * (late.ndim - 1)), late, np.nan)


def log_loss(arrays: dict[str, np.ndarray], arm: str, rate: int) -> np.ndarray:
    """The same average of log L: a mean of L would be that of its spikes."""
    with np.errstate(invalid="ignore"):
        return np.log(arrays[f"{arm}_loss"][rate, :, -RECORDS // 4 :].astype(float)).mean(axis=1)


def best(arrays: dict[str, np.ndarray], arm: str) -> int:
    """The place of the rate with the least mean log loss, of those at which no run diverged."""
    return int(np.nanargmin([log_loss(arrays, arm, place).mean() for place in range(len(RATES))]))


def loss_ratios(arrays: dict[str, np.ndarray], arm: str, *, at_best: bool, over: str = "usual") -> np.ndarray:
    """log of the training loss over that of another kind of run, the usual start, with the same minibatches."""
    places = [best(arrays, name) if at_best else RATES.index(RATE) for name in (arm, over)]
    one, other = (log_loss(arrays, name, place) for name, place in zip((arm, over), places, strict=True))
    return one - other


def _loss_at_one_rate(arrays: dict[str, np.ndarray], arm: str) -> Metric | None:
    if arm == "usual":
        return None
    return _ratio(
        f"compared, {arm}: loss over that of the usual start, η = {RATE:g}", loss_ratios(arrays, arm, at_best=False)
    )


def _loss_at_best(arrays: dict[str, np.ndarray], arm: str) -> Metric | None:
    if arm == "usual":
        return None
    return _ratio(
        f"compared, {arm}: loss over that of the usual start, each at its best η",
        loss_ratios(arrays, arm, at_best=True),
    )


def _loss_unmoved(arrays: dict[str, np.ndarray], arm: str) -> Metric | None:
    """What a motion along the orbit does to the loss: the usual start is compared above."""
    if arm.startswith("usual") or arm == "random":
        return None
    title = f"compared, {arm}: loss over that of the random start, which is never moved, η = {RATE:g}"
    return _ratio(title, loss_ratios(arrays, arm, at_best=False, over="random"))


def _accuracy(arrays: dict[str, np.ndarray], arm: str) -> Metric:
    right = 100 * final(arrays, arm, "right", best(arrays, arm))
    title = f"compared, {arm}: held-out accuracy at its best η, in per cent"
    if arm != "usual":
        right = right - 100 * final(arrays, "usual", "right", best(arrays, "usual"))
        title = f"compared, {arm}: held-out accuracy less that of the usual start, in points"
    return Metric(title, None, float(right.mean()), error=standard_error(right))


def _distance(arrays: dict[str, np.ndarray], arm: str) -> Metric | None:
    if arm == "usual":
        return None
    one, other = (final(arrays, name, "distance", RATES.index(RATE)) for name in (arm, "usual"))
    return _ratio(f"compared, {arm}: ‖BA − (BA)₀‖ over that of the usual start, η = {RATE:g}", np.log(one / other))


def _conditioning_at_end(arrays: dict[str, np.ndarray], arm: str) -> Metric:
    logs = np.log(final(arrays, arm, "conditioning", RATES.index(RATE))).mean(axis=1)
    return _ratio(f"compared, {arm}: conditioning of the adapter at the end, η = {RATE:g}", logs)


def _diverged(arrays: dict[str, np.ndarray], arm: str) -> Metric:
    share = np.mean(~np.isfinite(arrays[f"{arm}_loss"][-1, :, -1]))
    return Metric(f"compared, {arm}: share of runs that diverged at η = {RATES[-1]:g}", None, float(share))


def _worst(ratios: np.ndarray) -> float:
    return float(ratios.ravel()[np.argmax(np.abs(ratios.ravel() - 1))])
