"""Two-layer linear networks of two widths and different starts, on the same minibatches; and Remark 4.4.

same end     UUᵀ and WᵀW, which no rotation of the hidden layer changes, of two runs with the same minibatches come
together, step by step, whatever the starts and the widths: their distance falls as fast as the charges,
whose slowest rate is κ. Under GD each start keeps its own end.
Remark 4.4   Gradient flow conserves the charge, and so has no fixed point of its own. GD moves it by η²Tr[ḡḡᵀA] a step,
O(η) in all, and stops with the gradient. SGD takes it all the way.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs
from experiments._runs import independent_runs
from noise_equilibrium import plots
from noise_equilibrium.models.two_layer_linear import Params, init, loss, symmetry

SIZE, WIDTHS = 4, (4, 8)  # d_x = d_y, and d_h of the runs that are compared
SPREAD, NOISE = 0.7, 0.5  # of the initial weights; σ_ε²
COV_X = np.diag(np.linspace(0.6, 1.4, SIZE))
COV_NOISE = NOISE * np.diag(np.linspace(0.7, 1.3, SIZE))
RATE, BATCH = 0.02, 2
RECORDS = 200
MOST_LEFT_OUT = 2  # tasks; of 96 of twelve seeds one was


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        teachers: tasks, each with three starts.
        steps: of every run; twice as many at η/2.
        short: steps of gradient flow and of GD at η in Remark 4.4; twice as many at η/2.
    """

    teachers: int = 12
    steps: int = 40_000
    short: int = 4000


FULL = Preset()
QUICK = Preset(teachers=8, steps=30_000, short=2000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), preset.teachers)
    with jax.enable_x64(True):
        found = [task(preset, key) for key in keys]
    # From one start in a hundred a run diverges: the task is left out everywhere, and counted.
    stay = [of for of in found if all(np.isfinite(of[name]).all() for name in ("sgd", "sgd_half", "gd"))]
    arrays = {name: np.stack([of[name] for of in stay]) for name in found[0]}
    arrays["left_out"] = np.array(len(found) - len(stay))
    arrays["time"] = RATE * preset.steps * np.linspace(0, 1, RECORDS + 1)
    return _metrics(arrays), arrays, draw(arrays)


def task(preset: Preset, key: Array) -> dict[str, np.ndarray]:
    """One teacher: Grams of three runs under SGD and GD, κ, and how far charges move in Remark 4.4."""
    teacher_key, noise_key, *start_keys = jax.random.split(key, 5)
    V = np.asarray(jax.random.orthogonal(teacher_key, SIZE, dtype=jnp.float64))
    teacher = ne.data.LinearTeacher(V, COV_X, COV_NOISE)
    exact = ne.Problem(loss, teacher.noise_matched())
    starts = [_start(key, width) for key, width in zip(start_keys, (WIDTHS[0], WIDTHS[0], WIDTHS[1]), strict=True)]
    stream = ne.Problem(loss, ne.Stream(teacher))
    found = {
        "sgd": np.stack([grams_along(stream, ne.SGD(RATE, BATCH), start, noise_key, preset.steps) for start in starts]),
        "sgd_half": np.stack(
            [grams_along(stream, ne.SGD(RATE / 2, BATCH), start, noise_key, 2 * preset.steps) for start in starts]
        ),
        "gd": np.stack([grams_along(exact, ne.GD(RATE), start, noise_key, preset.steps) for start in starts]),
    }
    law = ne.SGD(RATE, BATCH).noise_scale
    rest = ne.find_equilibrium(exact, Params(jnp.eye(SIZE), jnp.asarray(V)), symmetry, law).params
    found["kappa"] = np.asarray(jnp.min(ne.relaxation_rates(exact, rest, symmetry, law)))
    before = symmetry.charge(starts[0])
    for name, dynamics, steps in (
        ("flow", ne.GradientFlow(RATE), preset.short),
        ("gd", ne.GD(RATE), preset.short),
        ("gd_half", ne.GD(RATE / 2), 2 * preset.short),
    ):
        end = eqx.filter_jit(ne.simulate)(exact, dynamics, starts[0], steps, key=noise_key).params
        found[f"moved_{name}"] = np.asarray(jnp.linalg.norm(symmetry.charge(end) - before) / jnp.linalg.norm(before))
    return found


def _start(key: Array, width: int) -> Params:
    params = init(key, SIZE, width, SIZE, std=SPREAD)
    return Params(*(leaf.astype(jnp.float64) for leaf in params))


@eqx.filter_jit
def grams_along(problem: ne.Problem, dynamics: Any, start: Params, key: Array, steps: int) -> Array:
    """UUᵀ and WᵀW at every record, (records, 2, d, d)."""

    def grams(params: Params) -> Array:
        return jnp.stack([params.up @ params.up.T, params.down.T @ params.down])

    one = jax.tree_util.tree_map(lambda leaf: leaf[None], start)
    seen = independent_runs(problem, dynamics, one, key[None], steps, {"grams": grams}, records=RECORDS)
    return seen.observed["grams"][0]


def gaps(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Distances of the runs to the first one, relative to it: (tasks, 2, records); other start, and other width."""
    grams = arrays[name]
    first = grams[:, :1]
    axes = (-3, -2, -1)
    return np.sqrt(np.sum((grams[:, 1:] - first) ** 2, axis=axes)) / np.sqrt(np.sum(first**2, axis=axes))


def rates(arrays: dict[str, np.ndarray], name: str, rate: float) -> np.ndarray:
    """How fast distances fall once the fast directions are gone, over κ at η, for every task; mean of both pairs."""
    found = []
    for curves, kappa in zip(gaps(arrays, name), arrays["kappa"], strict=True):
        slopes = []
        for curve in curves:
            inside = (curve < 1e-2) & (curve > 1e-6)
            slopes.append(-np.polyfit(arrays["time"][inside], np.log(curve[inside]), 1)[0])
        found.append(np.mean(slopes) / float(kappa) * RATE / rate)  # κ is that of RATE, and proportional to η
    return np.array(found)


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    sgd, gd = gaps(arrays, "sgd")[:, :, -1], gaps(arrays, "gd")[:, :, -1]
    ratio = arrays["moved_gd"] / arrays["moved_gd_half"]
    pair = [rates(arrays, name, rate) for name, rate in (("sgd", RATE), ("sgd_half", RATE / 2))]
    at_start = float(gaps(arrays, "sgd")[:, 0, 0].min())
    left_out = int(arrays["left_out"])
    return [
        Metric(
            f"same noise: tasks of {left_out + len(sgd)} left out, of which a run diverges",
            0,
            left_out,
            high=MOST_LEFT_OUT,
        ),
        Metric("same noise: distance of Grams at the start, other start, least", None, at_start),
        Metric(
            "same noise, other start: distance at the end of SGD, worst task",
            0,
            float(sgd[:, 0].max()),
            high=1e-3,
        ),
        Metric(
            "same noise, other width: distance at the end of SGD, worst task",
            0,
            float(sgd[:, 1].max()),
            high=1e-3,
        ),
        Metric("same noise: rate at which the distance falls over the slowest κ", None, float(pair[0].mean())),
        # κ is that of the mean; runs with the same noise meet faster by O(η), ηh(1 + (d + 1)/S) with h = 4, and half of
        # its square is left in the limit.
        of_runs(
            "same noise: the same, η → 0",
            1,
            2 * pair[1] - pair[0],
            bias=(4 * RATE * (1 + (SIZE + 1) / BATCH)) ** 2 / 2,
        ),
        Metric("GD, other start: distance of Grams at the end, least task", None, float(gd[:, 0].min()), low=0.1),
        Metric("GD, other width: distance of Grams at the end, least task", None, float(gd[:, 1].min()), low=0.1),
        Metric(
            "Remark 4.4: change of the charge under gradient flow, largest",
            0,
            float(arrays["moved_flow"].max()),
            high=1e-6,
        ),
        # The change is of first order in η with a factor 1 + ηh/2, so that the ratio is 2(1 + ηh/4); the curvature h
        # where most of it happens, at the start, is about 16.
        of_runs("Remark 4.4: change of the charge under GD, η over η/2", 2, ratio, bias=16 * RATE / 2),
        Metric("Remark 4.4: change of the charge under GD, relative, largest", None, float(arrays["moved_gd"].max())),
    ]


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Distances of runs with the same noise, of all tasks, and how far charges move."""
    with plots.figure(8, 3.3, columns=2) as (drawing, (left, right)):
        axes, time = left.subplots(), arrays["time"]
        for name, colors in (("sgd", ("#0072B2", "#56B4E9")), ("gd", ("#8B3A1E", "#D49A84"))):
            for place, (color, words) in enumerate(zip(colors, ("other start", "other width"), strict=True)):
                for row, curve in enumerate(gaps(arrays, name)[:, place]):
                    label = f"{name.upper()}, {words}" if row == 0 else None
                    axes.semilogy(
                        time, np.maximum(curve, 1e-17), color=color, lw=0.8, ls=("-", "--")[place], label=label
                    )
        kappa = float(arrays["kappa"].mean())
        inside = kappa * time < 30
        plots.theory(axes, time[inside], 3 * np.exp(-kappa * time[inside]), "$e^{-\\kappa t}$, slowest $\\kappa$")
        axes.set(xlabel="time $\\eta\\,\\times$ steps", ylabel="distance of $UU^\\top$, $W^\\top W$", ylim=(1e-17, 30))
        axes.set_title("runs with the same minibatches")
        axes.legend(fontsize=7, loc="lower left")
        axes = right.subplots()
        names = {"flow": "gradient\nflow", "gd_half": "GD, $\\eta/2$", "gd": "GD, $\\eta$"}
        values = [np.maximum(arrays[f"moved_{name}"], 1e-16) for name in names]
        for place, of in enumerate(values):
            axes.semilogy(np.full(len(of), place), of, plots.GD.marker, color=plots.GD.color, ms=5)
        axes.set_xticks(range(len(names)), list(names.values()))
        axes.set(ylabel="change of the charge, relative", title="Remark 4.4", xlim=(-0.5, 2.5))
    return drawing
