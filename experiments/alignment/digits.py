"""Figure 2 on real images: handwritten digits, where SGD balances the noise of the two layers and GD does not."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._runs import independent_runs
from experiments.alignment._network import (
    Params,
    double,
    first,
    loss,
    product_change,
    relative_distance,
    relative_motion,
    symmetry,
    worst,
)
from noise_equilibrium import plots

RECORDS = 200
WINDOW = 20


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        hidden: d_h.
        batch: S.
        rate: η.
        steps: SGD steps.
        gd_steps: GD steps.
        sde_steps: SDE steps.
        seeds: independent runs of SGD and GD.
    """

    hidden: int = 8
    batch: int = 2
    rate: float = 0.02
    steps: int = 60_000
    gd_steps: int = 60_000
    sde_steps: int = 60_000
    seeds: int = 4


FULL = Preset()
QUICK = Preset(gd_steps=40_000, sde_steps=20_000, seeds=3)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """Train on the digits; the metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    images, targets = ne.data.digits()
    data = (jnp.asarray(images, jnp.float32), jnp.asarray(targets, jnp.float32))
    problem = ne.Problem(loss, data)
    keys = jax.random.split(jax.random.key(seed), 3)
    # Half of d_x^{-1/2}: SGD with batches of two diverges from larger weights on these data at this learning rate.
    d_x, d_y = images.shape[1], targets.shape[1]
    initial = jax.vmap(lambda key: ne.models.two_layer_linear.init(key, d_x, preset.hidden, d_y, std=0.5 * d_x**-0.5))(
        jax.random.split(keys[0], preset.seeds)
    )
    noise_keys = jax.random.split(keys[1], preset.seeds)

    def balance(params: Params) -> tuple[Array, Array]:
        moments = ne.noise_moments(problem, params, symmetry)
        return moments.noise_plus, moments.noise_minus

    observe = {"noise": balance, "risk": problem.risk, "charge": symmetry.charge}
    runs: dict[str, ne.Trajectory] = {}
    with tqdm(total=4) as bar:
        for name, dynamics, steps in (
            ("sgd", ne.SGD(preset.rate, preset.batch), preset.steps),
            ("gd", ne.GD(preset.rate), preset.gd_steps),
            ("sde", ne.SDE(preset.rate, preset.batch), preset.sde_steps),
        ):
            bar.set_description(name.upper())
            runs[name] = independent_runs(problem, dynamics, initial, noise_keys, steps, observe, records=RECORDS)
            bar.update()
        # A few runs in a hundred diverge, at any time: they are left out, and those of SGD, with GD's, counted.
        whole = {name: np.asarray(run.diverged_at) < 0 for name, run in runs.items()}
        whole["sgd"] = whole["gd"] = whole["sgd"] & whole["gd"]  # compared start by start
        runs = {name: jax.tree_util.tree_map(lambda leaf, of=name: leaf[whole[of]], run) for name, run in runs.items()}
        bar.set_description("equilibrium")
        equilibria, predicted = _equilibrium(preset, images, targets, runs)
        left_out = int(np.sum(~whole["sgd"]))
        name = f"digits, SGD: starts of {preset.seeds} left out, of which a run diverges"
        metrics = [Metric(name, 0, left_out, high=preset.seeds // 2), *_metrics(runs), *equilibria]
        bar.update()
        bar.set_description("done")

    arrays = {"charge_predicted": predicted}
    for name, run in runs.items():
        arrays[f"time_{name}"] = np.asarray(run.time[0])
        arrays[f"risk_{name}"] = np.asarray(run.observed["risk"])
        arrays[f"charge_{name}"] = np.linalg.eigvalsh(np.asarray(run.observed["charge"], np.float64))
        arrays[f"imbalance_{name}"] = relative_distance(*(_smooth(np.asarray(s)) for s in run.observed["noise"]))
        arrays[f"plus_{name}"], arrays[f"minus_{name}"] = settled(run)
    return metrics, arrays, draw(arrays, preset)


def _smooth(records: np.ndarray) -> np.ndarray:
    """The mean of each record and the WINDOW before it (fewer at the start), for (runs, rows, d, d)."""
    total = np.cumsum(records.astype(np.float64), axis=1)
    total[:, WINDOW:] -= total[:, :-WINDOW].copy()
    return total / np.minimum(np.arange(1, records.shape[1] + 1), WINDOW)[:, None, None]


def settled(run: ne.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """M₊ and M₋ of each run, averaged over the second half of its records."""
    plus, minus = (np.asarray(side, np.float64)[:, RECORDS // 2 :].mean(axis=1) for side in run.observed["noise"])
    return plus, minus


def _metrics(runs: dict[str, ne.Trajectory]) -> list[Metric]:
    imbalance = {name: relative_distance(*settled(run)) for name, run in runs.items()}
    losses = {
        name: np.asarray(run.observed["risk"], np.float64)[:, RECORDS // 2 :].mean(axis=1) for name, run in runs.items()
    }
    start = relative_distance(*(np.asarray(side)[:, 0] for side in runs["gd"].observed["noise"]))
    return [
        Metric("digits, SGD: imbalance of the noise M₊ − M₋, worst seed", 0, imbalance["sgd"].max(), high=0.15),
        Metric("digits, GD: imbalance of the noise, least seed", start.mean(), imbalance["gd"].min(), low=0.5),
        # SGD keeps a misfit of the order of η, and GD is not done: five times η.
        Metric("digits, loss of SGD over loss of GD", 1, worst(losses["sgd"] / losses["gd"]), 0.9, 1.1),
    ]


def _equilibrium(
    preset: Preset, images: np.ndarray, targets: np.ndarray, runs: dict[str, ne.Trajectory]
) -> tuple[list[Metric], np.ndarray]:
    """`find_equilibrium` at the end points of SGD and GD, in double precision, and the charge of the latter.

    That charge belongs to the minimum that GD found; SGD hovers above it.
    """
    with jax.enable_x64(True):
        problem = ne.Problem(loss, (images, targets))
        starts = [double(first(runs[name].params)) for name in ("sgd", "gd")]
        found = [ne.find_equilibrium(problem, start, symmetry, ne.SDE(preset.rate, preset.batch)) for start in starts]
        moments = [ne.noise_moments(problem, there.params, symmetry) for there in found]
        residual = max(
            float(relative_distance(np.asarray(of.noise_plus), np.asarray(of.noise_minus))) for of in moments
        )
        change = max(product_change(start, there.params) for start, there in zip(starts, found, strict=True))
        motion = [relative_motion(start, there.params) for start, there in zip(starts, found, strict=True)]
        charge = np.linalg.eigvalsh(np.asarray(symmetry.charge(found[1].params)))
    return [
        Metric("digits, find_equilibrium: imbalance of the noise, worst of two starts", 0, residual, high=1e-9),
        Metric("digits, find_equilibrium: change of UW, worst of two starts", 0, change, high=1e-12),
        Metric("digits, find_equilibrium: how far it moves SGD's end against GD's", 0, motion[0] / motion[1], high=0.5),
    ], charge


def draw(arrays: dict[str, np.ndarray], preset: Preset) -> Figure:
    """Three panels: loss and imbalance in time; the charge under SGD; the noise of both layers at the end."""
    steps = {name: arrays[f"time_{name}"] / preset.rate / 1000 for name in ("sgd", "sde", "gd")}
    with plots.figure(10, 3.4, columns=3) as (drawing, (left, middle, right)):
        above, below = left.subplots(2, 1, height_ratios=(1, 2), sharex=True)
        for series, name in ((plots.SGD, "sgd"), (plots.SDE, "sde"), (plots.GD, "gd")):
            plots.runs(above, steps[name][1:], arrays[f"risk_{name}"][:, 1:], series)
            plots.runs(below, steps[name], arrays[f"imbalance_{name}"], series)
        plots.theory(below, steps["sgd"], np.zeros_like(steps["sgd"]), "noise equilibrium")
        above.set(ylabel="loss", ylim=(0.32, 0.55), title="digits: SGD balances the noise, GD does not")
        below.set(xlabel="steps / 1000", ylabel="$\\|M_+ - M_-\\| \\,/\\, (\\|M_+\\| + \\|M_-\\|)$", ylim=(-0.04, 1.0))
        below.legend(loc="upper right", ncols=2)

        axes = middle.subplots()
        plots.lines(axes, steps["sgd"], arrays["charge_sgd"][0])
        for place, value in enumerate(arrays["charge_predicted"]):
            label = "equilibrium at GD's minimum" if place == 0 else None
            plots.theory(axes, steps["sgd"], np.full_like(steps["sgd"], value), label)
        axes.set(xlabel="steps / 1000", ylabel="eigenvalues of $U^\\top U - WW^\\top$", title="the charge under SGD")
        axes.legend(loc="lower left")

        axes = right.subplots()
        for series, name in ((plots.GD, "gd"), (plots.SGD, "sgd")):
            plots.elementwise(axes, arrays[f"minus_{name}"], arrays[f"plus_{name}"], series)
        sides = [arrays[f"{side}_{name}"].ravel() for side in ("plus", "minus") for name in ("sgd", "gd")]
        limits = np.array([np.concatenate(sides).min(), np.concatenate(sides).max()])
        plots.theory(axes, limits, limits, label="theory: equal")
        axes.set(
            xlabel="noise of $W$: elements of $M_-$",
            ylabel="noise of $U$: elements of $M_+$",
            title="elements of the noise at the end",
        )
        axes.legend(loc="lower right")
    return drawing
