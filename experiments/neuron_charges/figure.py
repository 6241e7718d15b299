"""The figure: changes of the charges against the prediction, and charges on their way to the equilibrium."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._runs import integral
from noise_equilibrium import plots


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Measured against predicted flow; one run with its targets, shallow and deep."""
    with plots.figure(11.5, 3.6, columns=3) as (drawing, (left, middle, right)):
        axes = left.subplots()
        for name, series in (("ReLU", plots.SGD), ("leaky", plots.Series("", "#56B4E9", marker="s"))):
            charge, rate, time = (arrays[f"{name}_flow_{what}"] for what in ("charge", "rate", "time"))
            predicted, moved = integral(time[0], rate)[:, -1], charge[:, -1] - charge[:, 0]
            plots.elementwise(axes, predicted, moved, plots.Series(f"SGD, {name}", series.color, marker=series.marker))
            gd = arrays[f"{name}_flow_gd"]
            label = "GD" if name == "leaky" else None
            axes.plot(predicted.ravel(), (gd[:, -1] - gd[:, 0]).ravel(), "x", color=plots.GD.color, ms=4, label=label)
        ends = np.array(axes.get_xlim())
        plots.theory(axes, ends, ends, "as predicted")
        axes.set(xlabel="predicted $\\int 2\\sigma^2(M_+-M_-)_j\\,dt$", ylabel="change of $C_j$")
        axes.set_title("the charge of every neuron flows")
        axes.legend(loc="lower right", fontsize=7.5)
        for column, name, title in (
            (middle, "ReLU", "to an equilibrium of its own"),
            (right, "deep", "two hidden layers, weight decay"),
        ):
            axes = column.subplots()
            _draw_run(axes, arrays, name)
            axes.set(xlabel="time $\\eta\\,\\times$ steps", ylabel="charges $C_j$", title=title)
    return drawing


def _draw_run(axes: Axes, arrays: dict[str, np.ndarray], name: str) -> None:
    """Every charge of the first run, and, dotted, that of the equilibrium on the orbit of the moment."""
    time = arrays[f"{name}_settle_time"][0]
    charge, target = (arrays[f"{name}_settle_{what}"][0] for what in ("charge", "target"))
    for place in range(charge.shape[1]):
        shade = colormaps["viridis"](0.9 * place / max(charge.shape[1] - 1, 1))
        axes.plot(time, charge[:, place], color=shade, lw=1.2, label="SGD" if place == 0 else None)
        label = "equilibrium on the orbit" if place == 0 else None
        axes.plot(time, target[:, place], color=shade, lw=1, ls=(0, (1, 1)), label=label)
    low, high = np.percentile(np.concatenate([charge, target[len(target) // 10 :]]), [0, 100])
    axes.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    axes.legend(loc="upper right", fontsize=7.5)
