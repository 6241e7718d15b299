"""Two-layer networks U φ(Wx) that reconstruct x from small inputs, y = x + ε, with two levels of label noise.

For small x, tanh and swish are almost linear, and ReLU is linear half of the time: the double rotation holds
approximately (Section 5.4), and Eq. (14) is expected to, after division by the trace:

    A = W Σ̄_x Wᵀ,    B = Uᵀ Σ̄_ε U,    distance ‖A − B‖/√(‖A‖‖B‖), and the cosine of their traceless parts.

Both are averaged over the last 40 % of a run. What undoes it:

    samples   N samples instead of fresh ones, of inputs with σ_x = 0.3 and 1. The loss of few samples differs along the
              orbit, by what they have by chance: its slope there is of order 1/√N where the network is not linear, and
              that of the entropic loss by the noise of order η/S. What decides is √N η/S, and not how small inputs are.
    null      A minimum without any noise has no cosine 0: at UW = I, UᵀU is the inverse of WWᵀ, and large entries of
              one stand against small ones of the other. Random minima have a negative one.
    digits    On handwritten digits, few as they are, the sides are the noise moments M₊ and M₋. Leaky ReLU keeps a
              rescaling of every neuron exactly, the diagonal of the rotation: it balances. The rest does not.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, standard_error, within, worst_of
from experiments._residual import residual
from experiments.representations.figure import draw
from noise_equilibrium.models import two_layer

SIZE, SPREAD, SAMPLES = 10, 0.3, 8000  # d, the standard deviation of x, and N of gradient descent
VARIANCES = np.repeat([0.2, 1.0], SIZE // 2)  # of the label noise
SHARE = VARIANCES / VARIANCES.sum()  # Σ̄_ε
RATE, STD = 0.01, 0.5  # η of SGD, and the spread of the initial weights
GD_RATE, DIGITS_GD_RATE = 0.05, 0.1
# σ_x, N and η of runs with finite data; N = 0 stands for fresh samples.
CELLS = (
    *((spread, samples, RATE) for spread in (0.3, 1.0) for samples in (1000, 8000, 0)),
    (0.3, 2000, RATE),
    (0.3, 4000, RATE),
    *((0.3, samples, 2 * RATE) for samples in (500, 1000, 2000, 4000)),
)
DIGITS = {"tanh": two_layer.tanh, "leaky_relu": two_layer.leaky_relu}


class Case(NamedTuple):
    """One activation, with its marks.

    Attributes:
        activation: φ.
        width: d_h.
        distance: the largest distance that passes.
        cosine: the least cosine that passes.
        diagonal: the largest distance of the diagonals that passes.
    """

    activation: str
    width: int
    distance: float
    cosine: float
    diagonal: float | None = None


CASES = (
    Case("tanh", 10, 0.15, 0.93),
    Case("swish", 20, 0.40, 0.85),
    Case("leaky_relu", 20, 0.45, 0.80),
    Case("relu", 20, 0.50, 0.75, 0.06),
)


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of every activation.
        cell_seeds: runs of every σ_x, N and η, on data of their own.
        steps: of SGD at η; half as many at 2η.
        gd_steps: of GD, at its own learning rate, η × steps as SGD.
        digit_steps: of SGD on the digits, and a tenth as many of GD at ten times the rate. The slowest neuron decides:
            the diagonals of 48 runs are apart by 0.14 at most after 400 000 steps, by up to 0.3 after 100 000.
    """

    seeds: int = 2
    cell_seeds: int = 8
    steps: int = 200_000
    gd_steps: int = 40_000
    digit_steps: int = 400_000


FULL = Preset()
QUICK = Preset(seeds=1, cell_seeds=4, steps=150_000, gd_steps=10_000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    data_key, cell_key, *keys = jax.random.split(jax.random.key(seed), len(CASES) + 3)
    stream, sgd = ne.Stream(Sample(SPREAD)), ne.SGD(RATE, 1)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, seen: dict[str, Any]) -> None:
        arrays.update({f"{name}_{what}": np.asarray(value) for what, value in seen.items()})

    bar = tqdm(total=2 * len(CASES) + 2 + 2 * len(DIGITS), disable=None)
    for case, key in zip(CASES, keys, strict=False):
        network = two_layer.Network(case.activation)
        finite = ne.Problem(network.loss, stream).sampled(data_key, SAMPLES)
        for kind, problem, dynamics, steps in (
            ("sgd", ne.Problem(network.loss, stream), sgd, preset.steps),
            ("gd", finite, ne.GD(GD_RATE), preset.gd_steps),
        ):
            add(f"{case.activation}_{kind}", train(problem, dynamics, case.width, key, preset.seeds, steps))
            bar.update()
    for rate in (RATE, 2 * RATE):
        add(f"cells_{rate:g}", on_samples(rate, cell_key, preset))
        bar.update()
    for name, network in DIGITS.items():
        for kind, dynamics, steps in (
            ("sgd", sgd, preset.digit_steps),
            ("gd", ne.GD(DIGITS_GD_RATE), preset.digit_steps // 10),
        ):
            add(f"digits_{name}_{kind}", train_on_digits(network, dynamics, keys[-1], preset.seeds, steps))
            bar.update()
    arrays["null"] = null_cosines(np.random.default_rng(seed))
    return _metrics(arrays), arrays, draw(arrays, [case.activation for case in CASES], table(arrays))


class Sample(eqx.Module):
    """One sample: x ~ N(0, spread² I) and y = x + ε."""

    spread: Any

    def __call__(self, key: Array) -> tuple[Array, Array]:
        """Draw (x, y)."""
        x, noise = jax.random.normal(key, (2, SIZE))
        return self.spread * x, self.spread * x + jnp.sqrt(jnp.asarray(VARIANCES, x.dtype)) * noise


class OneOfMany(eqx.Module):
    """One of N samples that are drawn once, or a fresh one if N = 0; N may differ between runs made at once."""

    spread: Any
    samples: Any
    data: Array

    def __call__(self, key: Array) -> tuple[Array, Array]:
        """Draw (x, y): the key of a sample decides it, and N keys are all there are."""
        place = jax.random.randint(key, (), 0, jnp.maximum(self.samples, 1))
        own = jax.random.fold_in(self.data, place)
        return Sample(self.spread)(jax.tree_util.tree_map(lambda a, b: jnp.where(self.samples > 0, a, b), own, key))


def sides(params: two_layer.Params) -> tuple[Array, Array]:
    """W Wᵀ ∝ W Σ̄_x Wᵀ, and Uᵀ Σ̄_ε U."""
    return params.down @ params.down.T, (params.up.T * jnp.asarray(SHARE, params.up.dtype)) @ params.up


@eqx.filter_jit
def train(problem: ne.Problem, dynamics: Any, width: int, key: Array, seeds: int, steps: int) -> dict[str, Any]:
    """Both sides, averaged over the last 40 % of every run."""

    def one(key: Array) -> dict[str, Any]:
        start_key, noise_key = jax.random.split(key)
        start = two_layer.init(start_key, SIZE, width, SIZE, STD)
        observe = {"sides": ne.running(sides, start=0.6, every=10)}
        seen = ne.simulate(problem, dynamics, start, steps, key=noise_key, observe=observe, every=steps).observed
        down, up = seen["sides"].mean
        return {"down": down, "up": up}

    return jax.vmap(one)(jax.random.split(key, seeds))


def cells(rate: float) -> list[tuple[float, int, float]]:
    """Those with this η."""
    return [cell for cell in CELLS if cell[2] == rate]


def on_samples(rate: float, key: Array, preset: Preset) -> dict[str, Any]:
    """Both sides for every σ_x and N at one η, (cells, runs, …); every run has data of its own."""
    chosen = cells(rate)
    spreads, samples = (np.repeat([cell[place] for cell in chosen], preset.cell_seeds) for place in (0, 1))
    keys = jax.random.split(jax.random.fold_in(key, round(rate * 1000)), len(spreads))
    steps = round(preset.steps * RATE / rate)

    @jax.jit
    @jax.vmap
    def one(spread: Array, samples: Array, key: Array) -> dict[str, Any]:
        start_key, noise_key, data_key = jax.random.split(key, 3)
        problem = ne.Problem(two_layer.tanh.loss, ne.Stream(OneOfMany(spread, samples, data_key)))
        start = two_layer.init(start_key, SIZE, CASES[0].width, SIZE, STD)
        observe = {"sides": ne.running(sides, start=0.6, every=10)}
        seen = ne.simulate(problem, ne.SGD(rate, 1), start, steps, key=noise_key, observe=observe, every=steps).observed
        down, up = seen["sides"].mean
        return {"down": down, "up": up}

    return one(jnp.asarray(spreads, jnp.float32), jnp.asarray(samples), keys)


def train_on_digits(network: two_layer.Network, dynamics: Any, key: Array, seeds: int, steps: int) -> dict[str, Any]:
    """M₊ and M₋ of the rotation, averaged over the last 40 % of runs on handwritten digits."""
    images, labels = (jnp.asarray(part, jnp.float32) for part in ne.data.digits())
    problem = ne.Problem(network.loss, (images, labels))

    def moments(params: two_layer.Params) -> tuple[Array, Array]:
        found = ne.noise_moments(problem, params, two_layer.rotation)
        return found.noise_plus, found.noise_minus

    @jax.jit
    @jax.vmap
    def one(key: Array) -> dict[str, Any]:
        start_key, noise_key = jax.random.split(key)
        start = two_layer.init(start_key, images.shape[1], CASES[0].width, labels.shape[1])
        observe = {"sides": ne.running(moments, start=0.6, every=steps // 200)}
        seen = ne.simulate(problem, dynamics, start, steps, key=noise_key, observe=observe, every=steps)
        down, up = seen.observed["sides"].mean
        return {"down": down, "up": up}

    return one(jax.random.split(key, seeds))


def null_cosines(rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """Cosines of random minima, UW = I with independent normal W of d_h = d."""
    down = rng.normal(size=(draws, SIZE, SIZE))
    up = np.linalg.inv(down)
    return compared(down @ down.swapaxes(1, 2), (up.swapaxes(1, 2) * SHARE) @ up)["cosine"]


def compared(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Distance, cosine of the traceless parts, of the diagonals and of the rest, and distance of the diagonals."""
    a, b = (side / np.trace(side, axis1=1, axis2=2)[:, None, None] for side in (a, b))
    eye = np.eye(a.shape[-1]) / a.shape[-1]

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sum(a * b, axis=(1, 2)) / np.sqrt(np.sum(a**2, axis=(1, 2)) * np.sum(b**2, axis=(1, 2)))

    on = np.eye(a.shape[-1], dtype=bool)
    diagonals = [np.diagonal(side, axis1=1, axis2=2) for side in (a, b)]
    return {
        "distance": residual(a, b),
        "cosine": cosine(a - eye, b - eye),
        "on_diagonal": cosine(np.where(on, a - eye, 0), np.where(on, b - eye, 0)),
        "off_diagonal": cosine(np.where(on, 0, a), np.where(on, 0, b)),
        "diagonal": np.linalg.norm(diagonals[0] - diagonals[1], axis=1) / np.linalg.norm(diagonals[1], axis=1),
    }


def compare(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """`compared` for every run of one kind."""
    return compared(*(arrays[f"{name}_{side}"].astype(np.float64) for side in ("down", "up")))


def table(arrays: dict[str, np.ndarray]) -> dict[tuple[float, int, float], np.ndarray]:
    """The cosine of every run for each σ_x, N and η."""
    found = {}
    for rate in (RATE, 2 * RATE):
        chosen = cells(rate)
        values = compare(arrays, f"cells_{rate:g}")["cosine"].reshape(len(chosen), -1)
        found |= dict(zip(chosen, values, strict=True))
    return found


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for case in CASES:
        sgd, gd = (compare(arrays, f"{case.activation}_{kind}") for kind in ("sgd", "gd"))
        name = f"{case.activation}, d_h = {case.width}:"
        metrics += [
            Metric(f"{name} distance of A and B, SGD, worst run", 0, float(sgd["distance"].max()), high=case.distance),
            Metric(f"{name} cosine of A and B, SGD, worst run", 1, float(sgd["cosine"].min()), low=case.cosine),
            Metric(f"{name} distance of A and B, GD, least", None, float(gd["distance"].min()), low=0.8),
            Metric(f"{name} cosine of A and B, GD, largest", None, float(gd["cosine"].max())),
        ]
        if case.diagonal is not None:
            worst = float(sgd["diagonal"].max())
            metrics.append(Metric(f"{name} distance of the diagonals, SGD, worst run", 0, worst, high=case.diagonal))
    return [*metrics, *_of_samples(arrays), *_of_digits(arrays)]


def _of_samples(arrays: dict[str, np.ndarray]) -> list[Metric]:
    found = table(arrays)
    metrics = [
        Metric(
            f"samples: cosine at σ_x = {spread:g}, {f'N = {samples}' if samples else 'fresh samples'}, Nη/S = "
            f"{f'{samples * rate:g}' if samples else '∞'}, η = {rate:g}",
            None,
            float(values.mean()),
            error=standard_error(values),
        )
        for (spread, samples, rate), values in found.items()
    ]
    few, many, fresh = (found[0.3, samples, RATE] for samples in (1000, 8000, 0))
    wide, wide_fresh = (found[1.0, samples, RATE] for samples in (1000, 0))
    differences = {}
    for share, says in ((4, "√N η"), (2, "Nη")):
        # 0.1 for what is of order η beside it, where the curve is steep.
        differences[says] = [
            within(
                f"samples: cosine at 2η less that at η and the same {says}, worst N",
                0,
                float(fast.mean() - slow.mean()),
                float(np.hypot(standard_error(fast), standard_error(slow))),
                bias=0.1,
                runs=2 * len(slow) - 1,
            )
            for fast, slow in (
                (found[0.3, samples // share, 2 * RATE], found[0.3, samples, RATE])
                for samples in (4000, 8000)  # of fewer, runs scatter too much
            )
        ]
    other = max(differences["Nη"], key=lambda metric: abs(metric.measured) / metric.error)
    null = arrays["null"]
    return [
        *metrics,
        Metric(
            "samples: cosine of fresh samples less that of N = 1000, σ_x = 0.3",
            None,
            float(fresh.mean() - few.mean()),
            low=0.8,
        ),
        Metric(
            "samples: cosine of fresh samples less that of N = 8000, σ_x = 0.3",
            None,
            float(fresh.mean() - many.mean()),
            0,
            0.3,
        ),
        Metric(
            "samples: cosine at N = 1000 of σ_x = 1 less that of σ_x = 0.3",
            None,
            float(wide.mean() - few.mean()),
            low=0.2,
        ),
        Metric(
            "samples: cosine of fresh samples of σ_x = 0.3 less that of σ_x = 1",
            None,
            float(fresh.mean() - wide_fresh.mean()),
            low=0.1,
        ),
        worst_of(differences["√N η"]),
        replace(other, low=-np.inf, high=np.inf),
        Metric("null: cosine of random minima, mean", None, float(null.mean())),
        Metric(
            "null: cosine at N = 1000, σ_x = 0.3, as random minima a negative one", None, float(few.mean()), high=0.1
        ),
    ]


def _of_digits(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in DIGITS:
        found = {kind: compare(arrays, f"digits_{name}_{kind}") for kind in ("sgd", "gd")}
        title = f"digits, {name}:"
        exact = name == "leaky_relu"
        metrics += [
            Metric(
                f"{title} distance of the diagonals of M₊ and M₋, SGD, worst run",
                0 if exact else None,
                float(found["sgd"]["diagonal"].max()),
                high=0.2 if exact else np.inf,
            ),
            Metric(f"{title} the same, GD, least", None, float(found["gd"]["diagonal"].min())),
            Metric(
                f"{title} cosine of the diagonals, SGD, worst run",
                1 if exact else None,
                float(found["sgd"]["on_diagonal"].min()),
                low=0.8 if exact else -np.inf,
            ),
            Metric(
                f"{title} cosine of the rest, SGD, largest",
                None,
                float(found["sgd"]["off_diagonal"].max()),
                high=0.0 if exact else np.inf,
            ),
            # Aligned layers, as on fresh samples, have 0.6 and more; that these do not is what the report says of them.
            Metric(f"{title} cosine of all, SGD, median run", None, float(np.median(found["sgd"]["cosine"])), high=0.3),
            Metric(f"{title} cosine of all, GD, median run", None, float(np.median(found["gd"]["cosine"]))),
        ]
    return metrics
