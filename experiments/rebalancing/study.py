"""The study: at which rates SGD trains, how many steps it needs, and how sharp it is where it begins.

Figure 4 has two parts: a start too sharp for a high rate, and noise that flattens it while the rate is still low. Where
that is so, the noise equilibrium, to which `find_equilibrium` moves the start at once, should do what a warmup does. In
the linear autoencoder theory names the numbers: 2(a + b) for the sharpness of a minimum with UUᵀ = a I and WᵀW = b I,
and 2 over it for the rate at which GD stays there. For networks on digits, and for the decoder, which is in the full
preset only, it names none: what is measured is reported.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, standard_error
from experiments.rebalancing.cases import AUTOENCODER, BATCH, DEPTH, Case, all_cases
from experiments.rebalancing.figure import draw
from experiments.rebalancing.joint import charge_flows
from experiments.rebalancing.stability import HALVINGS, RANGE, STEPS, all_sharpness, gd_minimum, largest_stable_rate
from experiments.rebalancing.training import (
    NOISE,
    NORM,
    PLAIN,
    Arm,
    Moved,
    all_arms,
    at_rates,
    begins,
    briefly,
    moved,
    of_start,
    train,
)
from experiments.warmup.study import exact_problem
from noise_equilibrium.models.two_layer_linear import Params, symmetry


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: starts, each with minibatches of its own.
        decoder: the same of the decoder; 0 leaves it out, as its symmetries and their motions take long to compile.
    """

    seeds: int = 16
    decoder: int = 6


FULL = Preset()
QUICK = Preset(seeds=5, decoder=0)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    start_key, run_key, gd_key = jax.random.split(jax.random.key(seed), 3)
    starts, keys = (jax.random.split(key, preset.seeds) for key in (start_key, run_key))
    cases = all_cases(text=seed if preset.decoder else None)
    arrays = {name: np.asarray(value) for name, value in at_minima(begins(cases[0], starts)[""].params, gd_key).items()}
    # Half of the time is compilation, of programs of their own: the networks are studied side by side.
    with ThreadPoolExecutor(2) as pool:
        count = {"decoder": preset.decoder}
        found = pool.map(lambda case: of_case(case, *(key[: count.get(case.name)] for key in (starts, keys))), cases)
        for case, parts in tqdm(zip(cases, found, strict=True), total=len(cases), disable=None):
            arrays |= {f"{case.name}_{name}": np.asarray(part) for name, part in parts.items()}
    return _metrics(cases, arrays), arrays, draw(cases, arrays)


def at_minima(starts: Params, key: Array) -> dict[str, Array | np.ndarray]:
    """Sharpness and the largest stable rate of GD at minima of the autoencoder, and at other points of their orbits."""
    task, names = AUTOENCODER, ("plain", "noise")
    with jax.enable_x64(True):
        wide = partial(jax.tree_util.tree_map, lambda leaf: jnp.asarray(leaf, jnp.float64))
        exact = exact_problem(task)
        problem, teacher = ne.Problem(exact.loss, wide(exact.data)), jnp.asarray(task.teacher, jnp.float64)
        minima = gd_minimum(problem, wide(starts))

        @briefly
        def balanced(minima: Params) -> Params:
            return jax.vmap(lambda one: ne.find_equilibrium(problem, one, symmetry, ne.SGD(0.1, BATCH)).params)(minima)

        points = [minima, balanced(minima)]
        points = jax.tree_util.tree_map(lambda *leaves: jnp.concatenate(leaves), *points)
        # The nonzero eigenvalues of ∇²L at a minimum, for white x: 2(aᵢ + bⱼ) of the spectra of UUᵀ and WᵀW.
        largest = [jnp.linalg.norm(leaf, 2, axis=(1, 2)) ** 2 for leaf in points]
        found = {
            "sharpness": all_sharpness(problem, points, jax.random.split(key, len(points.up))),
            "theory": 2 * (largest[0] + largest[1]),
            "rate": largest_stable_rate(problem, points, teacher, key),
        }
        return {
            f"minimum_{name}_{what}": part
            for what, values in found.items()
            for name, part in zip(names, np.split(np.asarray(values), len(names)), strict=True)
        }


def of_case(case: Case, start_keys: Array, keys: Array) -> dict[str, Array | np.ndarray]:
    """All runs of a case, and the points where they begin."""
    points: dict[str, Moved] = begins(case, start_keys)
    usual = points[""].params
    points |= {to: moved(case, to, usual, case.common) for to in case.ends}
    found: dict[str, Array | np.ndarray] = {"rates": np.array(case.rates)}
    for name, point in points.items():
        found[f"sharpness_{name}"] = all_sharpness(case.probe, point.params, keys)
        found[f"start_loss_{name}"] = point.loss
    if case.skewed:
        found["apart"] = _apart(points["noise"], moved(case, "noise", points["skewed"].params, case.common))
    if case.groups is not None:
        found |= {f"flow_{name}": _flows(case, points[name].params) for name in ("", "noise")}
    begin = {name: jax.tree_util.tree_map(lambda leaf: leaf[:, None], point.params) for name, point in points.items()}
    if case.decays:
        begin["noise"] = at_rates(case, "noise", lambda _: usual)
    for arm in all_arms(case):
        losses, finite = train(case, begin[arm.to or "skewed" * arm.skewed], keys, warm=arm.warm, again=arm.again)
        relative = losses / losses[:, :1, :1]
        late = relative[:, :, -(losses.shape[2] // 4) :].mean(axis=2)
        found |= {f"{arm.name}_loss": relative, f"{arm.name}_trains": finite & (late < case.trains)}
    return found


def _apart(one: Moved, other: Moved) -> np.ndarray:
    """The distance of two points of an orbit over their size, for each seed.

    Of charges, which say where on the orbit a point is; of matrices the eigenvalues, which rotations leave.
    """

    def numbers(point: Moved) -> np.ndarray:
        parts = [np.asarray(charge, np.float64) for charge in point.charges]
        parts = [np.linalg.eigvalsh(part) if part.ndim == 4 else part for part in parts]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    return np.linalg.norm(numbers(other) - numbers(one), axis=1) / np.linalg.norm(numbers(one), axis=1)


@briefly
def _flows(case: Case, params: PyTree) -> Array:
    """‖E ΔC‖ of a step of SGD at the common rate, (seeds, symmetries)."""

    def one(params: PyTree) -> Array:
        flows = charge_flows(case.probe, params, case.symmetries, ne.SGD(case.common, BATCH))
        return jnp.stack([jnp.linalg.norm(jnp.ravel(flow)) for flow in flows])

    return jax.vmap(one)(params)


def largest(case: Case, trains: np.ndarray) -> np.ndarray:
    """The largest rate of the grid at which each seed trains; NaN if at none."""
    return np.where(trains.any(axis=1), (trains * np.array(case.rates)).max(axis=1), np.nan)


def steps_to_target(case: Case, losses: np.ndarray) -> np.ndarray:
    """The step of the first record below the target, (seeds, rates); all steps where there is none."""
    below = losses < case.target
    return np.where(below.any(axis=2), below.argmax(axis=2) * case.every, case.steps)


def _ratio(name: str, values: np.ndarray, of: np.ndarray) -> Metric:
    """A geometric mean over seeds of paired ratios, reported with its standard error."""
    logs = np.log(np.asarray(values, float) / np.asarray(of, float))
    mean = float(np.exp(logs.mean()))
    return Metric(name, None, mean, error=mean * standard_error(logs))


def _metrics(cases: list[Case], arrays: dict[str, np.ndarray]) -> list[Metric]:
    return [
        *_of_minima(arrays),
        *_of_high_rate(cases[0], arrays),
        *(metric for case in cases for metric in (*_of_motion(case, arrays), *_of_training(case, arrays))),
    ]


def _of_minima(arrays: dict[str, np.ndarray]) -> list[Metric]:
    names = ("plain", "noise")
    sharp, theory, rate = (
        np.stack([arrays[f"minimum_{name}_{what}"] for name in names]) for what in ("sharpness", "theory", "rate")
    )
    ratio = (sharp / theory).ravel()
    worst = float(ratio[np.argmax(np.abs(ratio - 1))])
    at_noise = arrays["minimum_noise_sharpness"]
    far = int(np.argmax(np.abs(at_noise - 4)))
    # The sharpest direction grows by |1 − ηλ| a step. Its share of the excess, among d² directions across the valley,
    # is z²/d² or so, z normal, and below 1e-10/d² with a chance of 1e-5. It is seen where its growth outweighs that.
    unseen = np.log(1e10 * AUTOENCODER.size**2) / (2 * STEPS) + np.log(RANGE[1] / RANGE[0]) / 2**HALVINGS
    stable = []
    for name, sharpest, fastest in zip(names, sharp, rate, strict=True):
        product = fastest * sharpest / 2
        where = {"plain": "where GD ends", "noise": "at the noise equilibrium"}[name]
        value = float(product[np.argmax(np.abs(product - 1))])
        label = f"minimum {where}: largest stable rate of GD over 2/λ_max, worst start"
        stable.append(Metric(label, 1, value, 1 - unseen, 1 + unseen))
    return [
        Metric("minima: λ_max by products with the Hessian over 2(a + b), worst", 1, worst, 1 - 1e-3, 1 + 1e-3),
        # Equation (14) with white noise: UUᵀ = WᵀW = I.
        Metric("minimum at the noise equilibrium: λ_max, worst start", 4, float(at_noise[far]), 4 - 4e-3, 4 + 4e-3),
        Metric("minimum where GD ends: λ_max, mean", None, float(arrays["minimum_plain_sharpness"].mean())),
        *stable,
    ]


def _of_high_rate(case: Case, arrays: dict[str, np.ndarray]) -> list[Metric]:
    """Figure 4 again: the runs that do not train at its high rate."""
    place = int(np.argmin(np.abs(np.array(case.rates) - AUTOENCODER.high)))
    metrics = []
    for arm in all_arms(case):
        trains = arrays[f"{case.name}_{arm.name}_trains"][:, place]
        name = f"{case.title}, {arm.label}: diverging runs of {len(trains)} at η = {AUTOENCODER.high:g}"
        failed = int(np.sum(~trains))
        if arm is PLAIN:  # not all: now and then the first steps throw a run to where it is flat enough
            metrics.append(Metric(name, len(trains), failed, low=np.ceil(len(trains) * 3 / 4)))
        else:  # far below the rate at which SGD leaves the minimum of the equilibrium, see the next metrics
            metrics.append(Metric(name, 0, failed, high=0))
    for arm, sharp in ((PLAIN, arrays["minimum_plain_theory"]), (NOISE, arrays["minimum_noise_theory"])):
        # Stable in mean square beside a minimum: η(a + b)(1 + (d + 1)/S) ≤ 1 (`warmup.tasks`); ours, near it only.
        frontier = float(np.mean(2 / sharp / (1 + (AUTOENCODER.size + 1) / BATCH)))
        found = largest(case, arrays[f"{case.name}_{arm.name}_trains"])
        name = f"{case.title}, {arm.label}: largest rate that trains, and that of mean-square stability at the minimum"
        metrics.append(Metric(name, frontier, float(np.mean(found)), error=standard_error(found)))
    return metrics


def _of_motion(case: Case, arrays: dict[str, np.ndarray]) -> list[Metric]:
    """That a motion changes no function, and that orbits have one equilibrium."""
    usual = arrays[f"{case.name}_start_loss_"]
    others = [*case.ends, *(["skewed"] if case.skewed else [])]
    ratios = np.concatenate([(arrays[f"{case.name}_start_loss_{name}"] / usual).ravel() for name in others])
    worst = float(ratios[np.argmax(np.abs(ratios - 1))])
    name = f"{case.title}: loss after a motion over that before, worst"
    metrics = [Metric(name, 1, worst, 1 - 1e-3, 1 + 1e-3)]  # float32, factors up to SKEW
    if case.skewed:
        # Now and then rounding takes one unit of one image across the kink of its ReLU, and the search says that it has
        # not converged: it is the median that has to be at the rounding of single precision.
        name = f"{case.title}: charges at the equilibria of the usual and the skewed start, distance over norm"
        apart = arrays[f"{case.name}_apart"]
        metrics.append(Metric(f"{name}, median start", 0, float(np.median(apart)), high=1e-4))
        metrics.append(Metric(f"{name}, worst start", None, float(apart.max())))
    if case.groups is not None:
        flows = arrays[f"{case.name}_flow_noise"] / arrays[f"{case.name}_flow_"]
        count = 1 + 5 * DEPTH  # the last gain with the output; in a layer neurons, both gains, q with k, v with o
        found = flows.shape[1]
        metrics += [
            Metric(f"{case.title}: symmetries found, none declared", count, found, count, count),
            # Moved until relative flows are below ε^0.7; √ε is left to the rounding of single gradients.
            Metric(
                f"{case.title}: E ΔC at the joint equilibrium over that at the start, worst charge",
                0,
                float(flows.max()),
                high=float(np.finfo(np.float32).eps) ** 0.5,
            ),
        ]
    return metrics


def _of_training(case: Case, arrays: dict[str, np.ndarray]) -> list[Metric]:
    common = int(np.argmin(np.abs(np.array(case.rates) - case.common)))
    metrics = []
    for skewed in (False, True) if case.skewed else (False,):
        plain, *others = of_start(case, skewed=skewed)
        title = f"{case.title}{', skewed start' if skewed else ''}"

        def rate(arm: Arm) -> np.ndarray:
            return largest(case, arrays[f"{case.name}_{arm.name}_trains"])

        def steps(arm: Arm) -> np.ndarray:
            return steps_to_target(case, arrays[f"{case.name}_{arm.name}_loss"])[:, common]

        def fewest(arm: Arm) -> np.ndarray:
            return steps_to_target(case, arrays[f"{case.name}_{arm.name}_loss"]).min(axis=1)

        for arm in others:
            metrics += [
                _ratio(f"{title}, {arm.label}: largest rate that trains over that of plain", rate(arm), rate(plain)),
                _ratio(f"{title}, {arm.label}: steps to the loss at η = {case.common:.3g} over those of plain",
                       steps(arm), steps(plain)),
                _ratio(f"{title}, {arm.label}: steps to the loss at the best rate over those of plain",
                       fewest(arm), fewest(plain)),
            ]  # fmt: skip
            if arm in (NORM, NOISE):
                after, before = (arrays[f"{case.name}_sharpness_{name}"] for name in (arm.to, "skewed" * skewed))
                metrics.append(_ratio(f"{title}, {arm.label}: λ_max at the start over that of plain", after, before))
    return metrics
