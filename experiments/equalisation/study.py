"""Moving along the rescalings of trained networks before their weights are rounded, against rounding them as they are.

A grid of step Δ, the largest entry that shares it over 2^(b−1) − 1, leaves errors that are spread over ±Δ/2, so that

    E‖f_rounded − f‖² ≈ Σ_w Δ_w²/12 · Σ_k E_x(∂f_k/∂w)²,

and the network on the orbit with the least right-hand side is the one to round. Equalisation, the largest entry of what
comes into each neuron equal to the largest of what leaves it, does not look at the slopes, but costs no data.

    dense     64–32–32–10 ReLU network: one factor for every neuron, `move_along(…, "largest_entry")`. "least" is the
              least predicted error along the orbit, from the slopes at some training inputs.
    filters   two convolutions with normalisation: its symmetries, as `find_symmetries` finds them, are the scales of
              the filters, with no other side to equalise with. One step for all filters is best used where all of
              them have the same largest entry: that is rounding filter by filter, exactly, which has nothing to gain.

Both as they come out of training with weight decay, and with a random factor at every neuron or filter, which the
function does not see. Biases are not rounded.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments import _networks as networks
from experiments._metrics import Metric, of_runs, standard_error, within, worst_of
from experiments._runs import independent_runs
from experiments.equalisation.figure import draw
from experiments.equalisation.rounding import GRIDS, is_weight, most, predicted_error, rounded, sensitivities
from noise_equilibrium.models import deep_relu

TRAINED = 1200  # images that networks are trained on; the others tell the errors of rounding
CALIBRATION = 200  # training images whose slopes decide "least"
RATE, BATCH, DECAY, STEPS = 0.1, 8, 5e-4, 3000
BITS = (4, 8, 16)  # at 16 the law is at its limit, at 4 steps are as large as weights
SPREAD = 1.0  # standard deviation of the logarithms of the random factors
FEWER = np.arange(1, 9) / 80  # shares of the points of a grid; without them it rounds in other ways, for the law
WITH_LAW = ("plain", "equalised", "rescaled")
POWER = 32  # of the norm in place of a maximum, which has no slope to descend by: 1.1 times too large for 32 equal ones


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        dense: ReLU networks, each from its own initialisation and minibatches.
        filters: convolutional networks, likewise.
    """

    dense: int = 64
    filters: int = 32


FULL = Preset()
QUICK = Preset(dense=16, filters=8)


class Case(NamedTuple):
    """A kind of network.

    Attributes:
        loss: of a sample.
        logits: of an input.
        start: initial parameters from a key.
        symmetries: along which it is moved.
        objective: of `move_along`, for equal largest entries.
    """

    loss: Callable[[PyTree, Any], Array]
    logits: Callable[[PyTree, Array], Array]
    start: Callable[[Array], PyTree]
    symmetries: list[ne.Symmetry]
    objective: str | Callable[[PyTree], Array]


def filter_ranges(params: dict[str, Array]) -> dict[str, Array]:
    """The largest entry of every filter."""
    return {name: jnp.max(jnp.abs(params[name]), axis=(1, 2, 3)) for name in ("first", "second")}


def unequal_filters(params: dict[str, Array]) -> Array:
    """Σ (log max|W_c|)²: least where the largest entry of every filter is 1, or any other number."""
    return sum((jnp.sum(jnp.log(range_of) ** 2) for range_of in filter_ranges(params).values()), jnp.zeros(()))


CASES = {
    "dense": Case(
        networks.dense_loss,
        deep_relu.relu.predict,
        networks.dense_start,
        deep_relu.symmetries(len(networks.WIDTHS) + 1),
        "largest_entry",
    ),
    "filters": Case(
        networks.normalised_loss,
        networks.normalised_logits,
        networks.normalised_start,
        networks.FILTERS,
        unequal_filters,
    ),
}


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    arrays: dict[str, np.ndarray] = {}
    for place, (name, case) in enumerate(tqdm(CASES.items(), disable=None)):
        key = jax.random.fold_in(jax.random.key(seed), place)
        trained = train(case, key, getattr(preset, name))
        arrays[f"{name}_directions"] = np.array(directions(case, trained))
        with jax.enable_x64(True):
            wide = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), trained)
            seen = compare(name, wide, jax.random.fold_in(key, 2))
        arrays |= {f"{name}_{what}": np.asarray(value) for what, value in seen.items()}
    return _metrics(arrays), arrays, draw(arrays)


def train(case: Case, key: Array, count: int) -> PyTree:
    """Networks at the end of SGD, in single precision, with the networks in front."""
    x, labels = networks.digits()
    problem = ne.Problem(case.loss, (x[:TRAINED], labels[:TRAINED]), DECAY)
    starts, keys = (jax.random.split(jax.random.fold_in(key, place), count) for place in range(2))
    return independent_runs(problem, ne.SGD(RATE, BATCH), jax.vmap(case.start)(starts), keys, STEPS).params


def directions(case: Case, trained: PyTree) -> int:
    """How many numbers the symmetries that are found of the first network have."""
    x, labels = networks.digits()
    first = jax.tree_util.tree_map(lambda leaf: leaf[0], trained)
    found = ne.find_symmetries(ne.Problem(case.loss, (x[:TRAINED], labels[:TRAINED])), first)
    return sum(symmetry.charge(first).size for symmetry in found)


def compare(name: str, trained: PyTree, key: Array) -> dict[str, Array]:
    """What rounding does to the networks as they are and moved along their orbits, and what the moves do."""
    case = CASES[name]
    x, labels = networks.digits()
    x = x.astype(jnp.float64)
    problem = ne.Problem(case.loss, (x[:TRAINED], labels[:TRAINED]), DECAY)
    count = len(jax.tree_util.tree_leaves(trained)[0])

    def equalised(params: PyTree) -> PyTree:
        return ne.move_along(problem, params, case.symmetries, case.objective).params

    variants = {
        "plain": trained,
        "rescaled": jax.vmap(lambda p, k: rescale(case, p, k))(trained, jax.random.split(key, count)),
    }
    variants |= {"equalised": jax.vmap(equalised)(trained), "undone": jax.vmap(equalised)(variants["rescaled"])}
    if name == "dense":
        variants["least"] = jax.vmap(lambda params: least(problem, case, params))(variants["equalised"])
    found: dict[str, Array] = {}
    moved, before = [], outputs(case, trained, x)
    for variant, params in variants.items():
        moved.append(jnp.max(jnp.abs(outputs(case, params, x) - before)) / jnp.std(before))
        tables = table(case, params, x[TRAINED:], labels[TRAINED:], FEWER if variant in WITH_LAW else FEWER[:0])
        found |= {f"{variant}_{what}": value for what, value in tables.items()}
    gaps = (dense_gaps if name == "dense" else filter_gaps)(variants["equalised"])
    found |= {"moved": jnp.stack(moved), "gap": gaps, "apart": _apart(variants["equalised"], variants["undone"])}
    found["accuracy"] = jnp.mean(jnp.argmax(before[:, TRAINED:], axis=-1) == labels[TRAINED:], axis=1)
    if name == "filters":
        found["channel"] = one_step_or_many(case, variants, x[TRAINED:])
    return found


def rescale(case: Case, params: PyTree, key: Array) -> PyTree:
    """The same function with a random factor along every direction of its symmetries."""
    for place, symmetry in enumerate(case.symmetries):
        shape = symmetry.charge(params).shape
        params = symmetry.act(params, SPREAD * jax.random.normal(jax.random.fold_in(key, place), shape, jnp.float64))
    return params


def least(problem: ne.Problem, case: Case, params: PyTree) -> PyTree:
    """The point of the orbit whose predicted error of rounding array by array is least.

    Slopes go along it contragrediently: measured once, they are known everywhere.
    """
    slopes = sensitivities(case.logits, params, problem.data[0][:CALIBRATION])
    objective = jax.tree_util.Partial(_soft_error, params, slopes)
    return ne.move_along(problem, params, case.symmetries, objective).params


def _soft_error(start: PyTree, slopes: PyTree, params: PyTree) -> Array:
    def one(before: Array, slope: Array, weight: Array) -> Array:
        if not is_weight(weight):
            return jnp.zeros((), weight.dtype)
        top = jax.lax.stop_gradient(jnp.max(jnp.abs(weight)))
        power_mean = top * jnp.sum((jnp.abs(weight) / top) ** POWER) ** (1 / POWER)
        factor = jnp.where(weight == 0, 1, before / jnp.where(weight == 0, 1, weight))
        return power_mean**2 * jnp.sum(slope * factor**2)

    return sum(jax.tree_util.tree_leaves(jax.tree_util.tree_map(one, start, slopes, params)), jnp.zeros(()))


@eqx.filter_jit
def outputs(case: Case, params: PyTree, x: Array) -> Array:
    """Logits of shape (networks, inputs, classes)."""
    return jax.vmap(lambda one: jax.vmap(lambda x: case.logits(one, x))(x))(params)


@eqx.filter_jit
def table(case: Case, params: PyTree, x: Array, labels: Array, shares: np.ndarray) -> dict[str, Array]:
    """Mean squares of the error of the logits, over their variance, measured and predicted, and accuracies.

    Each of shape (networks, bits, grids); and the mean of measured over predicted on grids without these shares of
    their points.
    """

    def evaluate(params: PyTree) -> Array:
        return jax.vmap(lambda x: case.logits(params, x))(x)

    def of_one(params: PyTree) -> dict[str, Array]:
        before, slopes = evaluate(params), sensitivities(case.logits, params, x)
        size = jnp.mean(jnp.sum((before - before.mean(axis=0)) ** 2, axis=1))

        def row(bits: int, grid: str) -> dict[str, Array]:
            def rounding(fewer: int | Array) -> tuple[Array, Array, Array]:
                after = evaluate(rounded(params, bits, grid, fewer))
                error = jnp.mean(jnp.sum((after - before) ** 2, axis=1)) / size
                law = predicted_error(params, slopes, bits, grid, fewer) / size
                return error, law, jnp.mean(jnp.argmax(after, axis=1) == labels)

            error, law, right = rounding(0)
            found = {"error": error, "predicted": law, "right": right}
            if len(shares):
                errors, laws, _ = jax.lax.map(rounding, jnp.asarray(np.round(shares * most(bits)), int))
                found["law"] = jnp.mean(errors / laws)
            return found

        rows = [row(bits, grid) for bits in BITS for grid in GRIDS]
        return {what: jnp.stack([one[what] for one in rows]).reshape(len(BITS), len(GRIDS)) for what in rows[0]}

    return jax.vmap(of_one)(params)


def dense_gaps(params: deep_relu.Params) -> Array:
    """|log| of the largest entry that comes into a neuron, its bias included, over the largest that leaves it."""
    gaps = []
    for before, after in itertools.pairwise(params):
        into = jnp.maximum(jnp.max(jnp.abs(before.weight), axis=2), jnp.abs(before.bias))
        gaps.append(jnp.abs(jnp.log(into / jnp.max(jnp.abs(after.weight), axis=1))))
    return jnp.max(jnp.stack(gaps))


def filter_gaps(params: dict[str, Array]) -> Array:
    """The largest |log| of two filters' largest entries."""
    ranges = jax.vmap(filter_ranges)(params)
    return jnp.max(jnp.stack([jnp.max(jnp.ptp(jnp.log(one), axis=1)) for one in ranges.values()]))


def _apart(left: PyTree, right: PyTree) -> Array:
    """The largest difference of an entry, over the largest entry of its array."""
    differences = jax.tree_util.tree_map(lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)), left, right)
    return jnp.max(
        jnp.stack([d for d, a in zip(*map(jax.tree_util.tree_leaves, (differences, left)), strict=True) if a.ndim > 2])
    )


def one_step_or_many(case: Case, variants: dict[str, PyTree], x: Array) -> Array:
    """How far outputs are apart, over their scatter, where theory has them equal at 8 and at 4 bits.

    First: equalised filters rounded with one step, against those of training rounded filter by filter. Second: filter
    by filter with random factors against without. The readout is not rounded here.
    """

    def filters_only(params: dict[str, Array], bits: int, grid: str) -> dict[str, Array]:
        after = rounded(params, bits, grid)
        return {**params, "first": after["first"], "second": after["second"]}

    gaps = []
    for bits in (8, 4):
        channel = outputs(case, jax.vmap(lambda one, b=bits: filters_only(one, b, "channel"))(variants["plain"]), x)
        one = outputs(case, jax.vmap(lambda one, b=bits: filters_only(one, b, "tensor"))(variants["equalised"]), x)
        again = outputs(case, jax.vmap(lambda one, b=bits: filters_only(one, b, "channel"))(variants["rescaled"]), x)
        gaps.append(jnp.stack([jnp.max(jnp.abs(other - channel)) / jnp.std(channel) for other in (one, again)]))
    return jnp.max(jnp.stack(gaps), axis=0)


def ratios(arrays: dict[str, np.ndarray], name: str, over: str, under: str, bits: int, grid: str) -> np.ndarray:
    """log of the ratio of two rms errors of every network, measured and predicted."""
    at = (slice(None), BITS.index(bits), list(GRIDS).index(grid))
    return np.stack(
        [
            np.log(arrays[f"{name}_{over}_{w}"][at] / arrays[f"{name}_{under}_{w}"][at]) / 2
            for w in ("error", "predicted")
        ]
    )


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in CASES:
        # Of a ReLU network to rounding; a variance of 1e-12 is added to those that filters are divided by, some of
        # which are e^−6 times as large as before.
        bound = 1e-11 if name == "dense" else 1e-6
        given = {"dense": sum(networks.WIDTHS), "filters": sum(networks.CHANNELS)}[name]
        metrics += [
            Metric(
                f"{name}: directions of the symmetries found", given, float(arrays[f"{name}_directions"]), given, given
            ),
            Metric(f"{name}: largest change of a logit by a move", 0, float(arrays[f"{name}_moved"].max()), high=bound),
            # The second is found by a search that compares squares of it: √ε and no better.
            Metric(
                f"{name}: largest |log| of largest entries that are to be equal",
                0,
                float(arrays[f"{name}_gap"]),
                high=1e-12 if name == "dense" else 1e-6,
            ),
            Metric(
                f"{name}: weights equalised before and after random factors, largest difference",
                0,
                float(arrays[f"{name}_apart"]),
                high=1e-12 if name == "dense" else 1e-6,
            ),
        ]
    same = "filters: one step for equalised filters against filter by filter, largest difference of a logit"
    metrics += [
        Metric(same, 0, float(arrays["filters_channel"][0]), high=1e-6),
        Metric(
            "filters: filter by filter, with random factors against without",
            0,
            float(arrays["filters_channel"][1]),
            high=1e-6,
        ),
    ]
    metrics += [_law(arrays, name, grid) for name in CASES for grid in GRIDS]
    for name in CASES:
        # Filter by filter nothing is gained, as is measured above.
        grids = GRIDS if name == "dense" else ("tensor",)
        metrics += [_gain(arrays, name, bits, grid) for bits in (8, 4) for grid in grids]
        metrics += [_undone(arrays, name, bits) for bits in (8, 4)]
        metrics += [_accuracy(arrays, name, grid) for grid in grids]
    return [*metrics, *_best(arrays)]


def _law(arrays: dict[str, np.ndarray], name: str, grid: str) -> Metric:
    """Mean squares of the error over Σ(Δ²/12)(∂f/∂w)²: at 16 bits wherever the weights are, at 8 as they are.

    After random factors steps of 8 bits are longer than many weights.
    """
    found = []
    for bits, variants in ((16, ("plain", "equalised", "rescaled")), (8, ("plain", "equalised"))):
        for variant in variants:
            at = (slice(None), BITS.index(bits), list(GRIDS).index(grid))
            # First order in the error: the next one is as large as the relative error itself.
            bias = float(np.sqrt(arrays[f"{name}_{variant}_error"][at]).mean())
            title = f"{name}: error² over Σ(Δ²/12)(∂f/∂w)², by {grid}, worst of 8 and 16 bits"
            found.append(of_runs(title, 1, arrays[f"{name}_{variant}_law"][at], bias=bias))
    return worst_of(found)


def _ratio(logs: np.ndarray) -> tuple[float, float]:
    """The geometric mean of ratios over networks, with its standard error."""
    value = float(np.exp(logs.mean()))
    return value, value * standard_error(logs)


def _gain(arrays: dict[str, np.ndarray], name: str, bits: int, grid: str) -> Metric:
    """What equalisation makes of the error; at 8 bits as the law has it, at 4 reported."""
    measured, predicted = ratios(arrays, name, "equalised", "plain", bits, grid)
    title = f"{name}: error equalised over plain, {bits} bits, by {grid}"
    law, (value, error) = float(np.exp(predicted.mean())), _ratio(measured)
    if bits == 4:
        return Metric(title, law, value, error=error)
    # Both fluctuate about the law alike, so that what logarithms do to a mean drops out.
    return within(title, law, value, value * standard_error(measured - predicted), runs=len(measured))


def _undone(arrays: dict[str, np.ndarray], name: str, bits: int) -> Metric:
    """Random factors are what equalisation is for; the law is no guide where steps are larger than weights."""
    value, error = _ratio(ratios(arrays, name, "undone", "rescaled", bits, "tensor")[0])
    title = f"{name}: error equalised over not, after random factors, {bits} bits, by tensor"
    return Metric(title, None, value, high=0.5, error=error)


def _accuracy(arrays: dict[str, np.ndarray], name: str, grid: str) -> Metric:
    """Points of accuracy that equalisation gains at 4 bits."""
    at = (slice(None), BITS.index(4), list(GRIDS).index(grid))
    gain = 100 * (arrays[f"{name}_equalised_right"][at] - arrays[f"{name}_plain_right"][at])
    title = f"{name}: accuracy at 4 bits, equalised less plain, by {grid}, in points"
    return Metric(title, None, float(gain.mean()), error=standard_error(gain))


def _best(arrays: dict[str, np.ndarray]) -> list[Metric]:
    """How much is left to gain on the orbit, by the law and as measured."""
    found = []
    for bits in (8, 4):
        measured, predicted = ratios(arrays, "dense", "least", "equalised", bits, "tensor")
        value, error = _ratio(measured)
        title = f"dense: error where the law is least on the orbit over equalised, {bits} bits, by tensor"
        found.append(Metric(title, float(np.exp(predicted.mean())), value, error=error))
    return found
