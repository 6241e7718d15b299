"""Two-layer networks U φ(Wx) that reconstruct x from small inputs, y = x + ε, with two levels of label noise.

For small x, tanh and swish are almost linear, and ReLU is linear half of the time: the double rotation holds
approximately (Section 5.4), and Eq. (14) is expected to, after division by the trace:

    A = W Σ̄_x Wᵀ,    B = Uᵀ Σ̄_ε U,    distance ‖A − B‖/√(‖A‖‖B‖), and the cosine of their traceless parts.

Both are averaged over the last 40 % of a run. With inputs of unit variance and few samples the symmetry is broken by
the loss itself, which then pulls against the noise. On handwritten digits, whose residuals are no label noise, the two
sides are the noise moments M₊ and M₋ of the rotation themselves.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._residual import residual
from experiments.representations.balance import Forces, from_averages, mismatch, strength
from experiments.representations.figure import draw
from noise_equilibrium.models import two_layer

SIZE, SPREAD, SAMPLES = 10, 0.3, 8000  # d, the standard deviation of x, N
VARIANCES = np.repeat([0.2, 1.0], SIZE // 2)  # of the label noise
SHARE = VARIANCES / VARIANCES.sum()  # Σ̄_ε
RATE, STD = 0.01, 0.5  # η of SGD, and the spread of the initial weights
GD_RATE = 0.05
FORCES_EVERY = 100  # steps between two samples of pull and noise
BROKEN = (1.0, 1000)  # standard deviation of x and N where the symmetry does not hold


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
    Case("swish", 20, 0.25, 0.93),
    Case("leaky_relu", 20, 0.40, 0.88),
    Case("relu", 20, 0.45, 0.85, 0.06),
)


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of every kind.
        steps: of SGD.
        gd_steps: of GD, at its own learning rate.
    """

    seeds: int = 2
    steps: int = 200_000
    gd_steps: int = 2000


FULL = Preset()
QUICK = Preset(seeds=1, steps=150_000, gd_steps=1000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    data_key, *keys = jax.random.split(jax.random.key(seed), len(CASES) + 4)
    stream, sgd = ne.Stream(Sample(SPREAD)), ne.SGD(RATE, 1)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, seen: dict[str, Any]) -> None:
        arrays.update({f"{name}_{what}": np.asarray(value) for what, value in seen.items()})

    bar = tqdm(total=2 * len(CASES) + 4, disable=None)
    for case, key in zip(CASES, keys, strict=False):
        network = two_layer.Network(case.activation)
        for kind, problem, dynamics, steps in (
            ("sgd", ne.Problem(network.loss, stream), sgd, preset.steps),
            ("gd", finite(network, SPREAD, SAMPLES, data_key), ne.GD(GD_RATE), preset.gd_steps),
        ):
            add(f"{case.activation}_{kind}", train(problem, dynamics, case.width, key, preset.seeds, steps))
            bar.update()
    tanh, width = two_layer.tanh, CASES[0].width
    for name, problem, key in (
        ("finite", finite(tanh, SPREAD, SAMPLES, data_key), keys[-3]),
        ("broken", finite(tanh, *BROKEN, data_key), keys[-2]),
    ):
        add(name, train(problem, sgd, width, key, preset.seeds, preset.steps, watched=True))
        bar.update()
    for kind, dynamics, steps in (("sgd", sgd, preset.steps), ("gd", ne.GD(GD_RATE), preset.gd_steps)):
        add(f"digits_{kind}", train_on_digits(dynamics, width, keys[-1], preset.seeds, steps))
        bar.update()
    return _metrics(arrays), arrays, draw(arrays, [case.activation for case in CASES], theory())


class Sample(eqx.Module):
    """One sample: x ~ N(0, spread² I) and y = x + ε."""

    spread: float

    def __call__(self, key: Array) -> tuple[Array, Array]:
        """Draw (x, y)."""
        x, noise = jax.random.normal(key, (2, SIZE))
        return self.spread * x, self.spread * x + jnp.sqrt(jnp.asarray(VARIANCES, x.dtype)) * noise


def finite(network: two_layer.Network, spread: float, samples: int, key: Array) -> ne.Problem:
    """A finite data set, label noise included."""
    return ne.Problem(network.loss, ne.Stream(Sample(spread))).sampled(key, samples)


def sides(params: two_layer.Params) -> tuple[Array, Array]:
    """W Wᵀ ∝ W Σ̄_x Wᵀ, and Uᵀ Σ̄_ε U."""
    return params.down @ params.down.T, (params.up.T * jnp.asarray(SHARE, params.up.dtype)) @ params.up


@eqx.filter_jit
def train(
    problem: ne.Problem, dynamics: Any, width: int, key: Array, seeds: int, steps: int, *, watched: bool = False
) -> dict[str, Any]:
    """Both sides, averaged over the last 40 % of every run; if watched, with the forces of `balance`."""

    def one(key: Array) -> dict[str, Any]:
        start_key, noise_key = jax.random.split(key)
        start = two_layer.init(start_key, SIZE, width, SIZE, STD)
        observe = {"sides": ne.running(sides, start=0.6, every=10)}
        if watched:
            observe["forces"] = ne.running(Forces(problem), start=0.6, every=FORCES_EVERY)
        seen = ne.simulate(problem, dynamics, start, steps, key=noise_key, observe=observe, every=steps).observed
        down, up = seen["sides"].mean
        return {"down": down, "up": up, **(from_averages(seen["forces"].mean, RATE) if watched else {})}

    return jax.vmap(one)(jax.random.split(key, seeds))


def train_on_digits(dynamics: Any, width: int, key: Array, seeds: int, steps: int) -> dict[str, Any]:
    """M₊ and M₋ of the rotation, averaged over the last 40 % of runs on handwritten digits."""
    images, labels = (jnp.asarray(part, jnp.float32) for part in ne.data.digits())
    problem = ne.Problem(two_layer.tanh.loss, (images, labels))

    def moments(params: two_layer.Params) -> tuple[Array, Array]:
        found = ne.noise_moments(problem, params, two_layer.rotation)
        return found.noise_plus, found.noise_minus

    @jax.jit
    @jax.vmap
    def one(key: Array) -> dict[str, Any]:
        start_key, noise_key = jax.random.split(key)
        start = two_layer.init(start_key, images.shape[1], width, labels.shape[1])
        observe = {"sides": ne.running(moments, start=0.6, every=steps // 200)}
        seen = ne.simulate(problem, dynamics, start, steps, key=noise_key, observe=observe, every=steps)
        down, up = seen.observed["sides"].mean
        return {"down": down, "up": up}

    return one(jax.random.split(key, seeds))


def theory() -> np.ndarray:
    """The eigenvalues of A = B of the linear network, of trace 1: Theorem 5.2."""
    with jax.enable_x64(True):
        eye = np.eye(SIZE)
        _, down = ne.exact.two_layer_equilibrium(eye, SPREAD**2 * eye, np.diag(VARIANCES), SIZE)
        values = np.linalg.eigvalsh(np.asarray(down @ down.T))[::-1]
    return values / values.sum()


def compare(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Distance, cosine of the traceless parts, and distance of the diagonals of A and B, for every run."""
    a, b = (arrays[f"{name}_{side}"].astype(np.float64) for side in ("down", "up"))
    a, b = (side / np.trace(side, axis1=1, axis2=2)[:, None, None] for side in (a, b))
    eye = np.eye(a.shape[-1]) / a.shape[-1]

    def norm(matrices: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrices, axis=(1, 2))

    diagonals = [np.diagonal(side, axis1=1, axis2=2) for side in (a, b)]
    return {
        "distance": residual(a, b),
        "cosine": np.sum((a - eye) * (b - eye), axis=(1, 2)) / (norm(a - eye) * norm(b - eye)),
        "diagonal": np.linalg.norm(diagonals[0] - diagonals[1], axis=1) / np.linalg.norm(diagonals[1], axis=1),
    }


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for case in CASES:
        sgd, gd = (compare(arrays, f"{case.activation}_{kind}") for kind in ("sgd", "gd"))
        name = f"{case.activation}, d_h = {case.width}:"
        metrics += [
            Metric(f"{name} distance of A and B, SGD, worst run", 0, float(sgd["distance"].max()), high=case.distance),
            Metric(f"{name} cosine of A and B, SGD, worst run", 1, float(sgd["cosine"].min()), low=case.cosine),
            Metric(f"{name} distance of A and B, GD, least", None, float(gd["distance"].min()), low=0.8),
            Metric(f"{name} cosine of A and B, GD, largest", None, float(gd["cosine"].max()), high=0.3),
        ]
        if case.diagonal is not None:
            worst = float(sgd["diagonal"].max())
            metrics.append(Metric(f"{name} distance of the diagonals, SGD, worst run", 0, worst, high=case.diagonal))
    held, broken = compare(arrays, "finite"), compare(arrays, "broken")
    digits = {kind: compare(arrays, f"digits_{kind}") for kind in ("sgd", "gd")}
    forces = [{what: arrays[f"{which}_{what}"] for what in ("pull", "plus", "minus")} for which in ("broken", "finite")]
    torn, whole = (float(np.median(strength(of))) for of in forces)
    off = [float(np.median(mismatch(of))) for of in forces]
    name, base = f"tanh, σ_x = {BROKEN[0]:g}, N = {BROKEN[1]}:", f"tanh, σ_x = {SPREAD:g}, N = {SAMPLES}:"
    return [
        *metrics,
        Metric(f"{base} distance of A and B, SGD, worst run", 0, float(held["distance"].max()), high=0.30),
        Metric(f"{base} cosine of A and B, SGD, worst run", 1, float(held["cosine"].min()), low=0.75),
        Metric(f"{base} pull of the loss over the noise", 0, whole),
        Metric(f"{name} distance of A and B, SGD, median run", None, float(np.median(broken["distance"]))),
        Metric(f"{name} cosine of A and B, SGD, median run", None, float(np.median(broken["cosine"]))),
        Metric(f"{name} pull of the loss over the noise", None, torn),
        Metric(f"{name} pull off the push of the noise, relative", 0, off[0]),
        Metric(f"{base} the same", 0, off[1]),
        Metric(f"{name} its pull over that of σ_x = {SPREAD:g}", None, torn / whole, low=2),
        Metric("digits: distance of M₊ and M₋, SGD, median run", None, float(np.median(digits["sgd"]["distance"]))),
        Metric("digits: cosine of M₊ and M₋, SGD, median run", None, float(np.median(digits["sgd"]["cosine"]))),
        Metric("digits: distance of M₊ and M₋, GD, median run", None, float(np.median(digits["gd"]["distance"]))),
    ]
