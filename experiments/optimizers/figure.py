"""The figure: alignment along the runs, the charge without noise, and the charges of neurons against the SDE."""

import numpy as np
from matplotlib.figure import Figure

from experiments._residual import residual
from noise_equilibrium import plots

LOOKS = (
    plots.SGD,
    plots.Series("", "#56B4E9", marker="^"),
    plots.Series("", "#E69F00", marker="D"),
    plots.Series("", "#CC79A7", marker="s"),
)


def draw(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> Figure:
    """Three panels, all with the same colours."""
    with plots.figure(11.5, 3.6, columns=3) as (drawing, (left, middle, right)):
        axes = left.subplots()
        for name, look, dashes in zip(names, LOOKS, ("-", "--", "-.", ":"), strict=True):
            a, b = (arrays[f"align_{name}_{side}"] for side in ("down", "up"))
            values, steps = np.median(residual(a, b), axis=0), arrays[f"align_{name}_step"]
            axes.plot(steps[1:] / 1000, values[1:], color=look.color, ls=dashes, lw=1.4, label=name)
        axes.set(xlabel="thousand steps", ylabel="$\\|A-B\\|/\\sqrt{\\|A\\|\\|B\\|}$", yscale="log")
        axes.set_title("linear network: distance from Eq. (14)")
        axes.legend(fontsize=7.5, loc=(0.6, 0.62))

        axes = middle.subplots()
        for place, what in enumerate(("at_rate", "at_quarter")):
            values = [np.median(arrays[f"noiseless_{name}_{what}"]) for name in names]
            where = np.arange(len(names)) + 0.36 * (place - 0.5)
            label = "$\\eta$" if place == 0 else "$\\eta/4$, the same time"
            axes.bar(where, values, 0.34, color=[look.color for look in LOOKS], alpha=(1, 0.45)[place], label=label)
        axes.set(yscale="log", ylabel="$\\|Q_T-Q_0\\|$", xticks=range(len(names)))
        axes.set_xticklabels([name.replace(" ", "\n") for name in names], fontsize=8)
        axes.set_title("without noise: who conserves the charge")
        axes.legend(fontsize=7.5, loc="upper left")

        axes = right.subplots()
        for name, look in zip(names, LOOKS, strict=True):
            moved, predicted = (arrays[f"neurons_{name}_{what}"] for what in ("moved", "predicted"))
            plots.elementwise(axes, predicted, moved, plots.Series(name, look.color, marker=look.marker))
        ends = np.array(axes.get_xlim())
        plots.theory(axes, ends, ends, "SDE of $\\eta/(1-\\beta)$")
        axes.set(xlabel="predicted $\\int 2\\sigma^2(M_+-M_-)_j\\,dt$", ylabel="change of $C_j$")
        axes.set_title("ReLU network: charges of neurons")
        axes.legend(fontsize=7.5)
    return drawing
