"""The figure: Tr ∇²L along the runs, where they diverge, and the frontier of stability."""

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.warmup.tasks import TASKS, Task
from noise_equilibrium import plots

LOOKS = (("#0072B2", "-"), ("#003A5C", (0, (4, 1.5))), ("#4B9FD1", "-."))


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """A panel for each task."""
    with plots.figure(10.5, 4.2, columns=len(TASKS)) as (drawing, columns):
        for column, task in zip(columns, TASKS, strict=True):
            _draw_task(column.subplots(), task, arrays)
        columns[0].axes[0].set_ylabel("$\\mathrm{Tr}\\,\\nabla^2L$")
        for column in columns:
            column.axes[0].legend(loc="upper right", fontsize=7, ncols=2)
    return drawing


def _draw_task(axes: Axes, task: Task, arrays: dict[str, np.ndarray]) -> None:
    steps = arrays[f"step_{task.name}"]
    kinds = list(task.spreads())
    top = 200 * task.equilibrium

    def along(kind: str, case: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and all runs: one by one at first, then at the records."""
        early, whole = (arrays[f"{what}_{task.name}_{kind}_{case}"] for what in ("early", "sharpness"))
        later = steps >= early.shape[1]
        return np.append(np.arange(early.shape[1]), steps[later]), np.concatenate([early, whole[:, later]], axis=1)

    for kind, (color, line) in zip(kinds, LOOKS, strict=True):
        time, values = along(kind, "warmup")
        plots.runs(axes, time + 1, values, plots.Series(f"SGD, warmup, {_variance(kind)}", color, line))
    time, values = along(kinds[0], "high")
    for row, run in enumerate(values):
        seen = np.isfinite(run) & (run < top)
        label = "SGD, high rate at once: diverges" if row == 0 else None
        axes.plot(time[seen] + 1, run[seen], color=plots.SDE.color, lw=0.8, label=label)
        axes.plot(time[seen][-1] + 1, run[seen][-1], "x", color=plots.SDE.color, ms=6, mew=1.5)
    time, values = along(kinds[0], "gd")
    plots.runs(axes, time + 1, values, plots.Series(f"GD, {_variance(kinds[0])}", plots.GD.color, plots.GD.line))

    grid = np.unique(np.geomspace(1, task.steps + task.cooling, 200).round())
    rates = np.asarray(jnp.stack([jnp.asarray(task.schedule(step)) for step in grid]))
    axes.plot(grid, task.frontier(rates), color="black", lw=1.2, ls=(0, (5, 2)), label="SGD is stable below (warmup)")
    high, label = task.frontier(np.array([task.high])), "the same at the high rate"
    axes.plot(grid[[0, -1]], np.full(2, high), color="black", lw=1, ls="-.", label=label)
    plots.theory(axes, grid[[0, -1]], np.full(2, task.equilibrium), "noise equilibrium, Eq. (15)")
    axes.set(xscale="log", yscale="log", xlabel="steps + 1", ylim=(0.08 * task.equilibrium, 20 * top))
    rates = f"$\\eta = {task.low:g} \\to {task.high:g} \\to {task.final:g}$"
    axes.set_title(f"{task.name}, $d = {task.size}$, $d_h = {task.width}$, {rates}")


def _variance(kind: str) -> str:
    return "$" + kind.replace("fan-in", "\\mathrm{fan\\,in}") + "$"
