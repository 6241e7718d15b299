"""What momentum and adaptive steps make of the charges of a linear network, and of those of neurons.

    momentum  m' = βm + ĝ, θ' = θ − ηm'. With ψ = θ − ηβ/(1−β) m and η_eff = η/(1−β) every step moves the charge by

                  ΔC(ψ) = η_eff² [ĝᵀAĝ + 2β mᵀAĝ],    E ΔC = η_eff² [Tr Σ_S A + (1+β)/(1−β) ḡᵀAḡ].

              The noise acts as that of SGD at η_eff; the mean gradient (1+β)/(1−β) times as much: 3 times at β = 0.5,
              19 times at 0.9. All runs with momentum have the η_eff of SGD.
    Adam      with one v for each matrix is SGD for θ±/√d±, d± = v±^{−1/2}: Q₊/d₊ − Q₋/d₋ is what only noise moves, and
              it rests where n₊M₊ = n₋M₋, n± the numbers of entries (`ne.Preconditioned`). A linear network with twelve
              white inputs and four outputs goes to ‖W‖²/‖U‖² = 12/4 under SGD, and to (12/4)² here. Adam has one number
              for each entry. It does not commute with rotations, its charge moves at first order in η, by −2ηθᵀADĝ, and
              it is near that law where the gradients of a matrix are even.

SGD starts where Adam rests and Adam where SGD rests, at two learning rates each, and both are extrapolated to η → 0.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, extrapolated, of_runs, standard_error
from experiments._runs import independent_runs
from experiments.neuron_charges.study import STEPS, WIDTH, regression, start
from experiments.optimizers.figure import draw
from experiments.optimizers.steps import BETAS, adaptive, kept_charges, with_momentum
from noise_equilibrium.models import deep_relu, two_layer_linear

D_IN, D_OUT, HIDDEN = 12, 4, 4  # of the network that adaptive steps take elsewhere
NOISE = 0.25  # variance of its label noise
SPREAD = 8.0  # the eigenvalues of Σ_x lie in [1/8, 8], those of Σ_ε in 0.25 · [1/√8, √8], where gradients are not even
BATCH = {"wide": 8, "neurons": 8}
RATES = (0.016, 0.008)  # of Adam, extrapolated to 0
SGD_RATES = (0.02, 0.01)
SIZE, ROOM = 6, 8  # of the network without noise
COV_X, COV_NOISE = np.diag(np.linspace(0.5, 1.5, SIZE)), np.diag(np.geomspace(0.25, 4, SIZE))
RATE, ADAM_RATE = 0.01, 1e-3  # of the others
WATCHED = 3000  # steps of the exact law
RECORDS = 200
LATE = RECORDS * 3 // 5  # the last 40 % count as the end


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of every kind, each from its own initialisation.
        time: η × steps of Adam on the wide network, which relaxes at a rate of about 0.012.
        sgd_time: the same of SGD at its first rate; longer at the second, as it relaxes at a rate of about η.
        noiseless: steps of η of the optimisers on the exact gradient; 4 and 16 times as many at η/4 and η/16.
    """

    seeds: int = 16
    time: float = 960.0
    sgd_time: float = 700.0
    noiseless: int = 3000


FULL = Preset()
QUICK = Preset(seeds=8, time=640.0, sgd_time=500.0, noiseless=2000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 4)
    arrays: dict[str, np.ndarray] = {}
    bar = tqdm(total=5, disable=None)

    def add(seen: dict[str, Any]) -> None:
        arrays.update({name: np.asarray(value) for name, value in seen.items()})
        bar.update()

    with jax.enable_x64(True):
        for name, spread in (("even", 1.0), ("uneven", SPREAD)):
            add({f"{name}_{what}": value for what, value in wide(preset, spread, keys[0]).items()})
        add(law_of_momentum(keys[1]))
        add(noiseless(preset, keys[2]))
        add(neurons(preset, keys[3]))
    return _metrics(arrays), arrays, draw(arrays)


def wide(preset: Preset, spread: float, key: Array) -> dict[str, Any]:
    """‖W‖²/‖U‖² along runs of SGD and of both kinds of Adam, and where the laws have it."""
    left, right = (
        np.linalg.qr(np.asarray(jax.random.normal(one, (size, size), jnp.float64)))[0]
        for one, size in zip(jax.random.split(key), (D_OUT, D_IN), strict=True)
    )
    teacher = ne.data.LinearTeacher(
        left @ right[:D_OUT],
        np.diag(np.geomspace(1 / spread, spread, D_IN)),
        NOISE * np.diag(np.geomspace(1 / spread**0.5, spread**0.5, D_OUT)),
    )
    exact = ne.Problem(two_layer_linear.loss, teacher.noise_matched())
    symmetry, batch = two_layer_linear.symmetry, BATCH["wide"]
    minimum = two_layer_linear.Params(jnp.asarray(left), jnp.asarray(right[:D_OUT]))
    rest = {
        name: ne.find_equilibrium(exact, minimum, symmetry, law).params
        for name, law in (("SGD", ne.SGD(RATE, batch)), ("adaptive", ne.Preconditioned(RATE, batch)))
    }
    found: dict[str, Any] = {f"rest_{name}": share(params) for name, params in rest.items()}
    problem = ne.Problem(two_layer_linear.loss, ne.Stream(teacher))
    turns = jax.vmap(lambda key: jnp.linalg.qr(jax.random.normal(key, (HIDDEN, HIDDEN), jnp.float64))[0])(
        jax.random.split(jax.random.fold_in(key, 1), preset.seeds)
    )
    rates = zip(RATES, SGD_RATES, strict=True) if spread == 1 else ((RATES[1], SGD_RATES[1]),)
    for place, (rate, sgd_rate) in enumerate(rates):
        cases = {name: (optimizer, rate, preset.time, "SGD") for name, optimizer in adaptive(rate).items()}
        if spread == 1:
            cases["SGD"] = (optax.sgd(sgd_rate), sgd_rate, preset.sgd_time * SGD_RATES[0] / sgd_rate, "adaptive")
        for number, (name, (optimizer, size, time, from_rest)) in enumerate(cases.items()):
            starts = jax.vmap(lambda turn, at=rest[from_rest]: two_layer_linear.Params(at.up @ turn, turn.T @ at.down))(
                turns
            )
            noise = jax.random.split(jax.random.fold_in(key, 10 + 10 * place + number), preset.seeds)
            steps = RECORDS * round(time / size / RECORDS)
            seen = independent_runs(
                problem, ne.Optax(optimizer, batch), starts, noise, steps, {"share": squares}, records=RECORDS
            )
            found[f"{name}_{place}"] = seen.observed["share"]
            found[f"{name}_{place}_time"] = size * steps * np.linspace(0, 1, RECORDS + 1)
    return found


def squares(params: two_layer_linear.Params) -> Array:
    """‖W‖² and ‖U‖²."""
    return jnp.stack([jnp.sum(params.down**2), jnp.sum(params.up**2)])


def share(params: two_layer_linear.Params) -> Array:
    """‖W‖²/‖U‖²."""
    return jnp.divide(*squares(params))


def ends(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """‖W‖²/‖U‖² of every run, of norms averaged over its end."""
    late = arrays[name][:, LATE:].mean(axis=1)
    return late[:, 0] / late[:, 1]


def _small(preset: Preset, key: Array) -> tuple[ne.data.LinearTeacher, Any]:
    """A task with spectra, and starts."""
    teacher_key, start_key = jax.random.split(key)
    matrix = jax.random.normal(teacher_key, (SIZE, SIZE), jnp.float64) / SIZE**0.5

    def one(key: Array) -> two_layer_linear.Params:
        params = two_layer_linear.init(key, SIZE, ROOM, SIZE)
        return two_layer_linear.Params(*(leaf.astype(jnp.float64) for leaf in params))

    starts = jax.vmap(one)(jax.random.split(start_key, preset.seeds))
    return ne.data.LinearTeacher(np.asarray(matrix), COV_X, COV_NOISE), starts


def law_of_momentum(key: Array) -> dict[str, Any]:
    """The largest error of the law of a step, over ‖θ‖², for both β; with batches of fresh samples."""
    teacher, starts = _small(QUICK, key)
    problem, found = ne.Problem(two_layer_linear.loss, ne.Stream(teacher)), {}
    begin = jax.tree_util.tree_map(lambda leaf: leaf[0], starts)
    for beta in BETAS:
        dynamics, rate = ne.Momentum(RATE * (1 - beta), beta, 2), RATE * (1 - beta)
        path = ne.simulate(problem, dynamics, begin, WATCHED, key=key, observe={"at": lambda params: params})
        up, down = (np.asarray(leaf) for leaf in path.observed["at"])
        moved, law = kept_charges((up, down), rate, beta)
        size = np.sum(up**2, axis=(1, 2)) + np.sum(down**2, axis=(1, 2))
        found[f"law_{beta:g}"] = np.max(np.abs(moved - law) / size[1:-1, None, None])
        found[f"law_{beta:g}_step"] = np.max(np.abs(moved) / size[1:-1, None, None])
    return found


def noiseless(preset: Preset, key: Array) -> dict[str, Any]:
    """‖Q_T − Q_0‖ on the exact gradient from every start, at η, η/4 and η/16 over the same time."""
    teacher, starts = _small(preset, key)
    data = teacher.moment_matched(key, 2 * SIZE)
    problem, symmetry = ne.Problem(two_layer_linear.loss, data), two_layer_linear.symmetry
    whole, found = jax.tree_util.tree_leaves(data)[0].shape[0], {}
    for place, factor in enumerate((1, 4, 16)):
        optimizers = {**with_momentum(RATE / factor), **(adaptive(ADAM_RATE / factor) if factor < 16 else {})}
        for name, optimizer in optimizers.items():
            dynamics = ne.Optax(optimizer, whole, replacement=False)

            @eqx.filter_jit
            @jax.vmap
            def moved(start: Any, dynamics: ne.Optax = dynamics, factor: int = factor) -> Array:
                end = ne.simulate(problem, dynamics, start, factor * preset.noiseless, key=key).params
                return jnp.linalg.norm(symmetry.charge(end) - symmetry.charge(start))

            found[f"noiseless_{name}_{place}"] = moved(starts)
    return found | turned(problem, starts, jax.random.split(key, preset.seeds))


def turned(problem: ne.Problem, starts: Any, keys: Array, steps: int = 500) -> dict[str, Array]:
    """How far Q from a rotated start is from the rotated Q, relative to Q, after some steps with the same samples."""
    symmetry, found = two_layer_linear.symmetry, {}
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(ROOM, ROOM)))
    rotated = two_layer_linear.Params(starts.up @ turn, turn.T @ starts.down)
    for name, optimizer in {**with_momentum(RATE), **adaptive(ADAM_RATE)}.items():
        plain, other = (
            jax.vmap(symmetry.charge)(independent_runs(problem, ne.Optax(optimizer, 2), at, keys, steps).params)
            for at in (starts, rotated)
        )
        off = jnp.linalg.norm(other - turn.T @ plain @ turn, axis=(1, 2)) / jnp.linalg.norm(plain, axis=(1, 2))
        found[f"turned_{name}"] = off
    return found


def neurons(preset: Preset, key: Array) -> dict[str, Any]:
    """Changes of the charges of hidden neurons, and ∫ of the SDE's rate along the run, for SGD and momentum."""
    data_key, start_key, noise_key = jax.random.split(key, 3)
    problem = ne.Problem(deep_relu.relu.loss, regression(deep_relu.relu, data_key))
    starts = jax.vmap(lambda key: start(key, [WIDTH]))(jax.random.split(start_key, preset.seeds))
    keys = jax.random.split(noise_key, preset.seeds)
    (symmetry,), batch = deep_relu.symmetries(2), BATCH["neurons"]

    def rate(params: deep_relu.Params) -> Array:
        return ne.noether_flow(problem, params, symmetry, RATE / (2 * batch))

    found = {}
    for name, optimizer in with_momentum(RATE).items():
        watch = {"rate": ne.running(rate, 0, 20)}
        seen = independent_runs(problem, ne.Optax(optimizer, batch), starts, keys, STEPS, watch)
        found[f"neurons_{name}_moved"] = jax.vmap(symmetry.charge)(seen.params) - jax.vmap(symmetry.charge)(starts)
        found[f"neurons_{name}_predicted"] = RATE * STEPS * seen.observed["rate"].mean
    return found


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    return [*_of_momentum(arrays), *_of_adaptive(arrays)]


def _of_momentum(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for beta in BETAS:
        name = f"momentum {beta:g}"
        metrics.append(
            Metric(
                f"{name}: ΔC(ψ) off its law over ‖θ‖², worst of {WATCHED} steps",
                0,
                float(arrays[f"law_{beta:g}"]),
                high=1e-14,
            )
        )
        coarse, fine = (arrays[f"noiseless_{name}_{place}"] / arrays[f"noiseless_SGD_{place}"] for place in (1, 2))
        factor = (1 + beta) / (1 - beta)
        # What is left at η/4 and η/16 falls with η; 1 % for its square, and for the first 1/(1−β) steps.
        metrics.append(
            of_runs(
                f"{name}: change of Q without noise over that of SGD, η → 0",
                factor,
                (4 * fine - coarse) / 3,
                bias=0.01 * factor,
            )
        )
    for name in with_momentum(RATE):
        ratio = arrays[f"noiseless_{name}_1"] / arrays[f"noiseless_{name}_2"]
        off = float(arrays[f"turned_{name}"].max())
        moved, predicted = (arrays[f"neurons_{name}_{what}"] for what in ("moved", "predicted"))
        slope = np.sum(moved * predicted, axis=1) / np.sum(predicted**2, axis=1)
        metrics += [
            # 4 in the limit; 2ηh at η/4 of a curvature h ≈ 10 at the start, where most of the change is made.
            of_runs(f"{name}: change of Q without noise, η/4 over η/16", 4, ratio, bias=0.2),
            Metric(f"{name}: Q from a rotated start off the rotated Q", 0, off, high=1e-9),
            # The SDE leaves out ηh, and curvatures h of these networks go up to about 10.
            of_runs(f"{name}: slope of the charges of neurons against ∫2σ²(M₊ − M₋)dt", 1, slope, bias=10 * RATE),
        ]
    return metrics


def _of_adaptive(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    rest = {name: float(arrays[f"even_rest_{name}"]) for name in ("SGD", "adaptive")}
    metrics += [
        Metric("‖W‖²/‖U‖² of `find_equilibrium`, SGD", D_IN / D_OUT, rest["SGD"], 3 - 1e-9, 3 + 1e-9),
        Metric(
            "‖W‖²/‖U‖² of `find_equilibrium`, Preconditioned", (D_IN / D_OUT) ** 2, rest["adaptive"], 9 - 1e-6, 9 + 1e-6
        ),
    ]
    for name in ("SGD", *adaptive(RATE)):
        coarse, fine = (ends(arrays, f"even_{name}_{place}") for place in (0, 1))
        predicted = rest["SGD" if name == "SGD" else "adaptive"]
        # 1 %: η², and what is left of the start, which is the rest of the other. Adam proper: 3 %, as its numbers
        # differ within a matrix by their own noise, though the gradients are even.
        share_off = 0.03 if name == "Adam" else 0.01
        label = f"‖W‖²/‖U‖² at the end of {name}, η → 0"
        metrics.append(extrapolated(label, predicted, coarse, fine, bias=share_off * predicted))
        begin = float(np.mean(arrays[f"even_{name}_0"][:, 0, 0] / arrays[f"even_{name}_0"][:, 0, 1]))
        metrics.append(Metric(f"‖W‖²/‖U‖² at the start of {name}", None, begin))
    for name in adaptive(RATE):
        values = ends(arrays, f"uneven_{name}_0")
        label = f"uneven spectra: ‖W‖²/‖U‖² at the end of {name}, η = {RATES[1]:g}"
        metrics.append(
            Metric(label, float(arrays["uneven_rest_adaptive"]), float(values.mean()), error=standard_error(values))
        )
    ratio = arrays["noiseless_Adam_0"] / arrays["noiseless_Adam_1"]
    off = [float(arrays[f"turned_{name}"].max()) for name in adaptive(RATE)]
    metrics += [
        Metric("one v per matrix: Q from a rotated start off the rotated Q", 0, off[0], high=1e-9),
        Metric("Adam: Q from a rotated start off the rotated Q", None, off[1], low=0.01),
        # First order in η: nothing changes but by what is of the second.
        of_runs("Adam: change of Q without noise, η over η/4", 1, ratio, bias=0.1),
    ]
    return metrics
