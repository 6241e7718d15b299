"""Figure 2 on synthetic data: charges in time and the end points of independent tasks."""

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments._metrics import Metric
from experiments.alignment import isotropic, tasks
from noise_equilibrium import plots


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """Both parts; the metrics, the arrays behind the figure, and the figure."""
    charge_key, task_key = jax.random.split(jax.random.key(seed))
    with tqdm(total=8) as bar:
        metrics, runs = isotropic.run(isotropic.QUICK if quick else isotropic.FULL, charge_key, bar)
        more, ends = tasks.run(tasks.QUICK if quick else tasks.FULL, task_key, bar)
        bar.set_description("done")
    arrays = {
        "time": np.asarray(runs.sgd.time[0]),
        "charge_sgd_first_seed": np.asarray(runs.sgd.observed["charge"][0, :, :12, :12]),
        "tasks_sgd_down": ends.sgd[0],
        "tasks_sgd_up": ends.sgd[1],
        "tasks_gd_down": ends.gd[0],
        "tasks_gd_up": ends.gd[1],
    }
    for name, run in (("sgd", runs.sgd), ("sde", runs.sde), ("gd", runs.gd)):
        arrays[f"overlap_{name}"] = isotropic.overlap(run.observed["charge"])
        arrays[f"risk_{name}"] = np.asarray(run.observed["risk"])
    return metrics + more, arrays, draw(arrays, runs.preset)


def draw(arrays: dict[str, np.ndarray], preset: isotropic.Preset) -> Figure:
    """Three panels: loss and charge in time; elements of the charge under SGD; both sides of Eq. (14) at the end."""
    steps = arrays["time"] / preset.rate / 1000
    kinds = ((plots.SGD, "sgd"), (plots.SDE, "sde"), (plots.GD, "gd"))
    with plots.figure(10, 3.4, columns=3) as (drawing, (left, middle, right)):
        above, below = left.subplots(2, 1, height_ratios=(1, 2), sharex=True)
        for series, name in kinds:
            plots.runs(above, steps[1:], arrays[f"risk_{name}"][:, 1:], series)
            plots.runs(below, steps, arrays[f"overlap_{name}"], series)
        plots.theory(above, steps, np.full_like(steps, preset.d))
        plots.theory(below, steps, np.exp(-preset.decay * steps * 1000), "theory, $e^{-4\\eta^2 d\\sigma^2 t/S}$")
        above.set(ylabel="loss", title="SGD loses the charge, GD keeps it")
        below.set(xlabel="steps / 1000", ylabel="charge $\\langle Q, Q_0\\rangle / \\|Q_0\\|^2$", ylim=(-0.05, 1.08))
        below.legend(loc="center right")

        axes = middle.subplots()
        plots.elements(axes, steps, arrays["charge_sgd_first_seed"], 10)
        plots.theory(axes, steps, np.zeros_like(steps), "theory")
        axes.set(xlabel="steps / 1000", ylabel="elements of $U^\\top U - WW^\\top$", title="ten elements under SGD")
        axes.legend(loc="upper right")

        axes = right.subplots()
        for series, name in ((plots.GD, "gd"), (plots.SGD, "sgd")):
            down, up = (arrays[f"tasks_{name}_{side}"] for side in ("down", "up"))
            pale = {"gd": "#DCC3BC", "sgd": "#B3D4E8"}[name]
            axes.plot(down.ravel(), up.ravel(), ".", color=pale, ms=2.5, zorder=1)
            # One point for each run, as in the paper: the first element of both matrices.
            axes.plot(down[:, 0, 0], up[:, 0, 0], series.marker, color=series.color, ms=6, mew=1.4, label=series.label)
        everything = np.concatenate([values.ravel() for name, values in arrays.items() if name.startswith("tasks")])
        limits = np.array([everything.min(), everything.max()])
        plots.theory(axes, limits, limits, label="theory: equal")
        count = len(arrays["tasks_sgd_up"])
        axes.set(
            xlabel="$W\\bar\\Sigma_x W^\\top$",
            ylabel="$U^\\top\\bar\\Sigma_\\epsilon U$",
            title=f"one element of {count} tasks (pale: all elements)",
        )
        axes.legend(loc="upper left")
    return drawing
