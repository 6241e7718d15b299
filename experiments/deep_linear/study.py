"""Deep linear networks, ℓ = ‖W_D ⋯ W_1 x − y‖², from standard and from aligned initialisations.

SGD ends at Theorem 5.4: prefix and suffix Grams, which rotations of the hidden layers do not change, are those of the
closed form, and the layers in the middle are rescaled orthogonal matrices with the common singular value s. GD keeps
the imbalance of its start. From a standard start the noise of SGD may let a weak direction of the product die: then the
product is not V, and the run is not compared. How many keep their rank is a result of its own, counted from standard
starts at three and at five layers: under GD all do, but that at five layers a few wait for longer than the runs. Why,
and that it is for good, is predicted by the Lyapunov exponent of a dead mode, and measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._extrapolate import limit
from experiments._metrics import Metric, within
from experiments._runs import independent_runs
from experiments.deep_linear.cases import (
    CASES,
    SIZE,
    VALUES,
    Case,
    aligned_start,
    core_values,
    equilibrium,
    grams,
    printed_grams,
    standard_start,
    teacher,
)
from experiments.deep_linear.dead_mode import NOISE, RATIOS, dead_mode, exponents, inner_links
from experiments.deep_linear.figure import draw
from noise_equilibrium.models.deep_linear import Params, loss

RATES = (0.005, 0.001)
RECORDS = 100
KEPT = 0.5  # of its last singular value, and the product counts as whole
GRAM, SPREAD = 0.12, 0.06  # of the errors of Grams and of the spread of singular values: no run of SGD is above
# B* is of leading order in η, and its rates are those at which decay begins: at this η and with these covariances they
# are off by a quarter and by a fifth. Runs of full rank have links of twenty times B* and more.
LINKS = 1.5
# What GD keeps of the imbalance of its start is twice what SGD is allowed, and more: of 1800 runs the least kept 0.39.
GD_GRAM, GD_SPREAD = 2 * GRAM, 0.1


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        cases: how many of the networks; the first ones and the last.
        steps: at each of the two learning rates.
        seeds: runs from each kind of start; so many that at five layers some keep their rank.
        counted: runs from standard starts whose rank is counted, for each depth.
        dead: runs with a dead mode, for each strength of the inner links and each learning rate.
        dead_rate: the larger one of their two learning rates.
        dead_depths: at how many depths.
    """

    cases: int = len(CASES)
    steps: int = 100_000
    seeds: int = 12
    counted: int = 32
    dead: int = 16
    dead_rate: float = 0.002
    dead_depths: int = 2


FULL = Preset()
QUICK = Preset(cases=2, seeds=2, counted=12, dead_rate=0.003, dead_depths=1)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    cases = [*CASES[: preset.cases - 1], CASES[-1]]
    teacher_key, count_key, dead_key, *keys = jax.random.split(jax.random.key(seed), len(CASES) + 3)
    V = teacher(teacher_key)
    arrays: dict[str, np.ndarray] = {}
    for case, key in zip(tqdm(cases, disable=None), keys, strict=False):
        start_key, noise_key = jax.random.split(key)
        start_keys = jax.random.split(start_key, (2, preset.seeds))
        starts = {
            "aligned": jax.vmap(lambda key, case=case: aligned_start(key, case.widths, V))(start_keys[0]),
            "standard": jax.vmap(lambda key, case=case: standard_start(key, case.widths))(start_keys[1]),
        }
        # Both kinds of start in one batch: aligned runs first.
        both = jax.tree_util.tree_map(lambda *leaves: jnp.concatenate(leaves), *starts.values())
        noise_keys = jax.random.split(noise_key, 2 * preset.seeds)
        data = ne.data.LinearTeacher(V.astype(np.float32), *case.covariances)
        for name, source, dynamics in (
            ("sgd", ne.Stream(data), tuple(ne.SGD(rate, 1) for rate in RATES)),
            ("gd", data.moment_matched(jax.random.key(0), 2 * SIZE), (ne.GD(RATES[0]),) * 2),
        ):
            seen = descend(ne.Problem(loss, source), dynamics, both, noise_keys, preset.steps, case.covariances)
            arrays |= {f"{case.name}_{name}_{what}": np.asarray(value) for what, value in seen.items()}
        arrays |= expectations(case, V)
    for case, key in zip((CASES[0], CASES[2]), jax.random.split(count_key), strict=True):
        arrays |= {f"counted_{case.name}_{name}": seen for name, seen in count(case, V, key, preset).items()}
    for case, key in zip((CASES[0], CASES[2])[: preset.dead_depths], jax.random.split(dead_key), strict=False):
        arrays |= {f"dead_{case.name}_{name}": seen for name, seen in die(case, V, key, preset).items()}
    return (
        _metrics(cases, arrays),
        arrays,
        draw(arrays, [case.name for case in cases], (CASES[0].name, CASES[2].name), RATIOS),
    )


def count(case: Case, V: np.ndarray, key: Array, preset: Preset) -> dict[str, np.ndarray]:
    """At the ends of runs from standard starts: the last singular value of the product over that of V, and B/B*."""
    start_key, noise_key = jax.random.split(key)
    starts = jax.vmap(lambda key: standard_start(key, case.widths))(jax.random.split(start_key, preset.counted))
    keys = jax.random.split(noise_key, preset.counted)
    data = ne.data.LinearTeacher(V.astype(np.float32), *case.covariances)
    threshold = RATES[0] * dead_mode(V, *case.covariances, case.depth).threshold
    found = {}
    for name, source, dynamics in (
        ("sgd", ne.Stream(data), ne.SGD(RATES[0], 1)),
        ("gd", data.moment_matched(jax.random.key(0), 2 * SIZE), ne.GD(RATES[0])),
    ):
        ends = independent_runs(ne.Problem(loss, source), dynamics, starts, keys, preset.steps).params
        product = jnp.linalg.svd(jax.vmap(lambda params: jnp.linalg.multi_dot(params[::-1]))(ends), compute_uv=False)
        found[name] = np.asarray(product)[:, -1] / VALUES[-1]
        found[f"{name}_links"] = np.asarray(jax.vmap(inner_links)(ends)) / threshold
    return found


def die(case: Case, V: np.ndarray, key: Array, preset: Preset) -> dict[str, np.ndarray]:
    """What a dead mode grows at over η: predicted at each of RATIOS, and measured, (2 rates, ratios, runs, 2)."""
    mode = dead_mode(V, np.eye(SIZE), NOISE * np.eye(SIZE), case.depth)
    rates, keys = (preset.dead_rate, preset.dead_rate / 2), jax.random.split(key)
    seen = [exponents(mode, V, rate, preset.dead, one) for rate, one in zip(rates, keys, strict=True)]
    ratios = np.linspace(0, 1.1 * max(RATIOS), 100)
    return {
        "decay": -np.asarray(mode.decay),
        "predicted": np.asarray([mode.exponent(ratio) for ratio in RATIOS]),
        "links": np.asarray([mode.links(ratio, rates[1]) for ratio in RATIOS]),
        "curve": np.asarray([ratios, [mode.exponent(ratio) for ratio in ratios]]),
        "measured": np.stack(seen),
    }


def interval(successes: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    middle, share = (successes + z**2 / 2) / (runs + z**2), successes / runs
    half = z / (runs + z**2) * (runs * share * (1 - share) + z**2 / 4) ** 0.5
    return middle - half, middle + half


@eqx.filter_jit
def descend(
    problem: ne.Problem,
    dynamics: Sequence[Any],
    starts: Params,
    keys: Array,
    steps: int,
    covariances: tuple[np.ndarray, np.ndarray],
) -> dict[str, Array]:
    """What is averaged over the second learning rate, and the weights at the end, of every run."""

    def averaged(params: Params) -> dict[str, Any]:
        product = jnp.linalg.multi_dot(params[::-1])
        return {
            "grams": jnp.stack(grams(params)),
            "values": core_values(params),
            "product": jnp.linalg.svd(product, compute_uv=False),
        }

    def one(start: Params, key: Array) -> dict[str, Any]:
        first_key, second_key = jax.random.split(key)
        first = ne.simulate(problem, dynamics[0], start, steps, key=first_key)
        observe = {"seen": ne.running(averaged, every=steps // (10 * RECORDS))}
        second = ne.simulate(problem, dynamics[1], first.params, steps, key=second_key, observe=observe)
        # What reaches layer i from below and from above: covariances of h_i and of δ_i, equal but for a factor.
        pairs, (cov_x, cov_noise) = [], covariances
        for place in range(1, len(second.params)):
            below = jnp.linalg.multi_dot([*second.params[:place][::-1], jnp.eye(SIZE)])
            above = jnp.linalg.multi_dot([jnp.eye(SIZE), *second.params[place:][::-1]])
            sides = (
                below @ jnp.asarray(cov_x, below.dtype) @ below.T,
                above.T @ jnp.asarray(cov_noise, above.dtype) @ above,
            )
            pairs.append([side / jnp.trace(side) for side in sides])
        return {
            **second.observed["seen"].mean,
            **{f"pair_{place}": jnp.stack(pair) for place, pair in enumerate(pairs)},
        }

    return jax.vmap(one)(starts, keys)


def expectations(case: Case, V: np.ndarray) -> dict[str, np.ndarray]:
    """What theory says of one network: its Grams, also as printed, and the common singular value s."""
    with jax.enable_x64(True):
        weights = equilibrium(case, V)
        return {
            f"{case.name}_grams": np.stack([np.asarray(gram) for gram in grams(weights)]),
            f"{case.name}_printed": np.stack(printed_grams(case, V)),
            f"{case.name}_scale": np.asarray(core_values(weights)).mean(),
        }


def errors(arrays: dict[str, np.ndarray], name: str, dynamics: str, theory: str = "grams") -> np.ndarray:
    """The largest relative error of all Grams of every run."""
    norm = partial(np.linalg.norm, axis=(-2, -1))
    expected = arrays[f"{name}_{theory}"]
    return np.max(norm(arrays[f"{name}_{dynamics}_grams"] - expected) / norm(expected), axis=1)


def whole(arrays: dict[str, np.ndarray], name: str, dynamics: str) -> np.ndarray:
    """Whether the product of a run has kept its rank."""
    return arrays[f"{name}_{dynamics}_product"][:, -1] > KEPT * VALUES[-1]


def _metrics(cases: list[Case], arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for case in cases:
        sgd, gd = (errors(arrays, case.name, dynamics) for dynamics in ("sgd", "gd"))
        half, kept = len(sgd) // 2, whole(arrays, case.name, "sgd")
        aligned, standard = np.arange(len(sgd)) < half, np.arange(len(sgd)) >= half
        title = f"{case.name}: largest error of a Gram,"
        metrics.append(Metric(f"{title} SGD, aligned start, worst run", 0, float(sgd[aligned].max()), high=GRAM))
        among = sgd[standard & kept]  # if there are none, there is nothing that passes
        worst = float(among.max()) if len(among) else np.nan
        metrics.append(Metric(f"{title} SGD, standard start, worst of those of full rank", 0, worst, high=GRAM))
        metrics += [
            Metric(f"{title} GD, standard start, least", None, float(gd[standard].min()), low=GD_GRAM),
            Metric(f"{title} GD, aligned start, least", None, float(gd[aligned].min()), low=GD_GRAM),
        ]
        spread, mean = {}, {}
        for dynamics in ("sgd", "gd"):
            values = arrays[f"{case.name}_{dynamics}_values"][aligned]
            spread[dynamics] = values.std(axis=-1) / values.mean(axis=-1)
            mean[dynamics] = values.mean(axis=-1) / arrays[f"{case.name}_scale"]
        worst = float(mean["sgd"].ravel()[np.argmax(np.abs(mean["sgd"] - 1))])
        title = f"{case.name}: intermediate singular values,"
        metrics += [
            Metric(f"{title} relative spread, SGD, worst", 0, float(spread["sgd"].max()), high=SPREAD),
            Metric(
                f"{title} relative spread, GD, least layer", None, float(spread["gd"].mean(axis=0).min()), low=GD_SPREAD
            ),
            Metric(f"{title} mean over s, SGD, worst", 1, worst, 0.97, 1.03),
        ]
        if case.scales != (1.0, 1.0):
            printed = errors(arrays, case.name, "sgd", "printed")[aligned]
            metrics.append(
                Metric(f"{case.name}: error of Theorem 5.4 as printed, least", None, float(printed.min()), GRAM)
            )
    for case in (CASES[0], CASES[2]):
        whole_runs = {name: int(np.sum(arrays[f"counted_{case.name}_{name}"] > KEPT)) for name in ("sgd", "gd")}
        runs, kept = len(arrays[f"counted_{case.name}_gd"]), whole_runs["sgd"]
        low, high = interval(kept, runs)
        metrics += [
            Metric(
                f"{case.name}: share of {runs} runs of SGD that keep their rank, in [{low:.2f}, {high:.2f}]",
                None,
                kept / runs,
                # The deepest network loses its rank in some run: that is what the report says of it.
                high=1 - 0.5 / runs if case is CASES[2] else np.inf,
                error=float((kept * (runs - kept) / runs**3) ** 0.5),
            ),
            # Under GD a direction of strength w in every layer grows as ẇ ∝ w^(D − 1): it waits for a time ∝ w^(2 − D),
            # without a bound over starts. Of 156 runs at D = 5, 3 were still waiting at the end.
            Metric(
                f"{case.name}: runs of GD of {runs} that keep their rank",
                runs,
                whole_runs["gd"],
                low=runs - (max(2, runs // 8) if case is CASES[2] else 0),
            ),
        ]
        if f"dead_{case.name}_measured" in arrays:
            metrics += _of_dead_modes(case.name, arrays)
    lost = arrays[f"counted_{CASES[2].name}_sgd_links"][arrays[f"counted_{CASES[2].name}_sgd"] <= KEPT]
    worst = float(lost.max()) if len(lost) else np.nan  # if there are none, there is nothing that passes
    title = f"B/B* of SGD's runs that lost their rank, {CASES[2].name}, largest"
    return [*metrics, Metric(title, None, worst, high=LINKS)]


def _of_dead_modes(name: str, arrays: dict[str, np.ndarray]) -> list[Metric]:
    """Without inner links both ends die on their own; with them together: the mean of their logs is measured."""
    coarse, fine = arrays[f"dead_{name}_measured"]
    (decay, predicted), metrics = (arrays[f"dead_{name}_{what}"] for what in ("decay", "predicted")), []
    claims = [("last layer, B = 0", decay[0], 0, [0]), ("first layer, B = 0", decay[1], 0, [1])]
    claims += [
        (f"B = {ratio:g} B*", exponent, place, [0, 1])
        for place, (ratio, exponent) in enumerate(zip(RATIOS, predicted, strict=True))
        if ratio
    ]
    # Links of strength b in each inner layer change the noise by b² of itself, and B is their product.
    smaller = arrays[f"dead_{name}_links"] ** 2
    for title, theory, place, ends in claims:
        found = limit(*(runs[place][:, ends].mean(axis=-1) for runs in (coarse, fine)))
        metrics.append(
            within(
                f"exponent of a dead mode over η, {name}, {title}",
                float(theory),
                float(found.value),
                float(found.error),
                # Both ends' decay and the growth are expanded in η, not their difference, which vanishes at B*.
                bias=found.remainder(float(abs(theory) if len(ends) == 1 else abs(decay.mean())))
                + float(abs(theory) * smaller[place]),
                runs=len(fine[place]),
            )
        )
    return metrics
