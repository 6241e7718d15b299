"""F = L + (η/4)(‖∇L‖² + Tr Σ_S): three things that follow from it (theory, "Entropic loss").

identity        on every orbit −2 dF/dλ is what the charge changes by in a step of SGD, over η
equipartition   so that at the equilibrium of a homogeneous network all layers, and each neuron's ingoing and
                outgoing weights, have the same E‖g‖²; in training on digits layers differ on average by exactly
                what their charges still change, C(T) − C(0) = η² Σ_t (‖ĝ_l‖² − ‖ĝ_{l+1}‖²) at S = 1
order           the flow of F errs from the mean of shuffled SGD by O(η²), that of L by O(η)
"""

import itertools
from dataclasses import dataclass
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, within
from experiments._runs import independent_runs
from experiments.entropic import identity
from experiments.entropic.figure import draw
from noise_equilibrium.models import two_layer

WIDTHS, LEAK = (8, 8), 0.1
SPREAD = (2.0, 1.0, 0.4)  # of the layers at the start, so that they are far from equal
RATE, RECORDS, LATE = 0.02, 200, 100
CLIP = 2.0  # of the inputs, in standard deviations: a few pixels are hardly ever on, and a step on them diverges
RATES, TIME = (0.04, 0.02, 0.01), 0.8  # of the order; whole epochs of four samples


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: networks that are trained on digits by SGD and by GD.
        steps: of training.
        orders: runs of shuffled SGD at each rate.
    """

    seeds: int = 8
    steps: int = 1_000_000
    orders: int = 262_144


FULL = Preset()
QUICK = Preset(seeds=8, steps=300_000, orders=65_536)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    bar = tqdm(total=3)
    with jax.enable_x64(True):
        metrics = identity.metrics(seed)
        bar.update()
        keys = jax.random.split(jax.random.key(seed), 2)
        orders, order_arrays = order(preset, keys[0])
        bar.update()
    layers, layer_arrays = equipartition(preset, keys[1])
    bar.update()
    arrays = order_arrays | layer_arrays
    return [*metrics, *layers, *orders], arrays, draw(arrays)


def loss(params: list[Array], sample: tuple[Array, Array]) -> Array:
    """A leaky ReLU network without biases: the noise of a layer is that of its neurons, on either side."""
    h, y = sample
    for weight in params[:-1]:
        h = jax.nn.leaky_relu(weight @ h, LEAK)
    return jnp.sum((params[-1] @ h - y) ** 2)


def start(key: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Normal weights, of layers with different spreads."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        spread * inner**-0.5 * jax.random.normal(one, (outer, inner))
        for one, inner, outer, spread in zip(keys, sizes[:-1], sizes[1:], SPREAD, strict=True)
    ]


def neurons() -> list[ne.Symmetry]:
    """One rescaling per neuron of each hidden layer."""
    return [ne.neuron_rescaling((itemgetter(place), 0), (itemgetter(place + 1), 1)) for place in range(len(WIDTHS))]


def mean_squares(problem: ne.Problem, params: list[Array]) -> list[Array]:
    """E g² of every weight, from the gradient of each sample."""
    slopes = jax.vmap(jax.grad(problem.loss), in_axes=(None, 0))(params, problem.data)
    return [jnp.mean(slope**2, axis=0) for slope in slopes]


def equipartition(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Training on digits, and the equilibrium of where it ended."""
    x, y = ne.data.digits()
    x = np.clip(x, -CLIP * x.std(), CLIP * x.std())
    problem = ne.Problem(loss, (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))
    start_key, noise_key = jax.random.split(key)
    sizes = (x.shape[1], *WIDTHS, y.shape[1])
    starts = jax.vmap(lambda one: start(one, sizes))(jax.random.split(start_key, preset.seeds))

    def layers(params: list[Array]) -> Array:
        return jnp.stack([jnp.sum(square) for square in mean_squares(problem, params)])

    def norms(params: list[Array]) -> Array:
        return jnp.stack([jnp.sum(weight**2) for weight in params])

    observe = {"squares": layers, "norms": norms, "risk": problem.risk, "params": lambda params: params}
    keys = jax.random.split(noise_key, preset.seeds)
    seen = independent_runs(problem, ne.SGD(RATE, 1), starts, keys, preset.steps, observe, records=RECORDS).observed
    gd_steps = 20 * RECORDS
    gd = independent_runs(problem, ne.GD(RATE), starts, keys, gd_steps, observe, records=RECORDS).observed
    squares, sizes_seen = np.asarray(seen["squares"], np.float64), np.asarray(seen["norms"], np.float64)
    steps = preset.steps * (RECORDS - LATE) / RECORDS
    metrics = []
    for place in range(len(WIDTHS)):
        late = squares[:, LATE + 1 :].mean(axis=1)
        gap = (late[:, place] - late[:, place + 1]) / late[:, place + 1]
        charge = sizes_seen[:, :, place] - sizes_seen[:, :, place + 1]
        moved = (charge[:, -1] - charge[:, LATE]) / (RATE**2 * steps * late[:, place + 1])
        rest = gap - moved
        error = rest.std(ddof=1) / preset.seeds**0.5
        # The squares are seen at some steps only; seeds tell how well.
        metrics += [
            within(
                f"digits, layers {place + 1} and {place + 2}: relative gap of E‖g‖², less what charges still move",
                0,
                float(rest.mean()),
                float(error),
                runs=preset.seeds,
            ),
            Metric(
                f"digits, layers {place + 1} and {place + 2}: relative gap of E‖g‖² under SGD", 0, float(gap.mean())
            ),
        ]
    spread = {name: _spread(values) for name, values in (("SGD", squares), ("GD", np.asarray(gd["squares"], float)))}
    metrics.append(
        Metric(
            "digits: layers' largest over least E‖g‖², logarithm, SGD over GD, medians at the end",
            None,
            float(np.median(spread["SGD"][:, LATE + 1 :].mean(axis=1)) / np.median(spread["GD"][:, -1])),
        )
    )
    return [*metrics, *_balanced(problem, [leaf[:, -1] for leaf in seen["params"]])], {
        "layer_squares": squares,
        "gd_squares": np.asarray(gd["squares"]),
        "steps": np.linspace(0, preset.steps, RECORDS + 1),
        "gd_steps": np.linspace(0, gd_steps, RECORDS + 1),
    }


def _spread(squares: np.ndarray) -> np.ndarray:
    return np.log(squares.max(axis=-1) / squares.min(axis=-1))


def _balanced(problem: ne.Problem, ends: list[Array]) -> list[Metric]:
    """`find_equilibrium` from the ends of training: its noise, from the gradients of all samples there."""
    with jax.enable_x64(True):
        exact = ne.Problem(loss, tuple(jnp.asarray(part, jnp.float64) for part in problem.data))
        layers, inout = [], []
        for place in range(len(ends[0])):
            params = [jnp.asarray(leaf[place], jnp.float64) for leaf in ends]
            there = ne.find_equilibrium(exact, params, neurons(), ne.SGD(RATE, 1)).params
            squares = mean_squares(exact, there)
            sums = jnp.stack([square.sum() for square in squares])
            layers.append(float(sums.max() / sums.min() - 1))
            for before, after in itertools.pairwise(squares):
                inside, outside = before.sum(axis=1), after.sum(axis=0)
                inout.append(float(jnp.max(jnp.abs(inside - outside) / (inside + outside))))
    return [
        Metric("digits at equilibrium: layers' largest over least E‖g‖², less 1", 0, max(layers), high=1e-6),
        Metric("digits at equilibrium: E‖g‖² into and out of each neuron, relative gap", 0, max(inout), high=1e-6),
    ]


def order(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """The mean of shuffled SGD against two flows, over three rates."""
    data_key, start_key, run_key = jax.random.split(key, 3)
    data = jax.random.normal(data_key, (2, 4, 2), jnp.float64)
    problem = ne.Problem(two_layer.tanh.loss, (data[0], data[1]))
    start = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), two_layer.init(start_key, 2, 2, 2))

    def epoch(rate: float) -> ne.SGD:
        return ne.SGD(rate, 1, replacement="epoch")

    # The flows draw nothing: one run of each.
    flows = {"F": lambda rate: ne.EntropicFlow(rate, epoch(rate)), "L": ne.GradientFlow}
    means = []
    for place, rate in enumerate(RATES):
        starts = jax.tree_util.tree_map(lambda leaf: jnp.repeat(leaf[None], preset.orders, axis=0), start)
        keys = jax.random.split(jax.random.fold_in(run_key, place), preset.orders)
        ends = independent_runs(problem, epoch(rate), starts, keys, round(TIME / rate), {}, records=1).params
        ends = np.asarray(jax.vmap(lambda p: ne.flatten(p)[0])(ends))
        means.append(ends)
    metrics, arrays = [], {"rates": np.array(RATES)}
    for name, (flow, expected) in zip(flows, zip(flows.values(), (2.0, 1.0), strict=True), strict=True):
        gaps = [
            ends - np.asarray(ne.flatten(ne.simulate(problem, flow(rate), start, round(TIME / rate)).params)[0])
            for rate, ends in zip(RATES, means, strict=True)
        ]
        # Along one direction, that of the largest rate: a norm of noise would never be 0.
        direction = gaps[0].mean(axis=0) / np.linalg.norm(gaps[0].mean(axis=0))
        along = [gap @ direction for gap in gaps]
        sizes = np.array([one.mean() for one in along])
        errors = np.array([one.std(ddof=1) / len(one) ** 0.5 for one in along]) / np.abs(sizes)
        orders = np.log2(sizes[:-1] / sizes[1:])
        error = float(np.hypot(errors[1], errors[2]) / np.log(2))
        # Half way to the neighbouring orders: whichever it is, the mark tells it from those.
        metrics.append(
            within(
                f"order in η of shuffled SGD against the flow of {name}",
                expected,
                float(orders[1]),
                error,
                bias=0.5,
            )
        )
        arrays |= {f"gap_{name}": np.abs(sizes), f"gap_error_{name}": errors * np.abs(sizes)}
    metrics.append(
        Metric(
            "gap to the flow of F over that of L, smallest η",
            None,
            float(arrays["gap_F"][-1] / arrays["gap_L"][-1]),
            high=0.2,
        )
    )
    return metrics, arrays
