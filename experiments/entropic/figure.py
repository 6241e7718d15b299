"""The figure: E‖g‖² of the layers in training, by SGD and by GD, and the gaps of two flows from the mean of SGD."""

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots

LAYERS = ("-", (0, (5, 1.5)), (0, (1.5, 1)))


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Three panels."""
    with plots.figure(11, 3.3, columns=3) as (drawing, columns):
        panels = [column.subplots() for column in columns]
        for axes, name, series in ((panels[0], "layer_squares", plots.SGD), (panels[1], "gd_squares", plots.GD)):
            steps = arrays["steps" if name == "layer_squares" else "gd_steps"] / 1000
            shares = arrays[name] / arrays[name].mean(axis=2, keepdims=True)
            shares = np.exp(np.log(shares).mean(axis=0))
            for place, line in enumerate(LAYERS):
                axes.plot(steps, shares[:, place], color=series.color, ls=line, label=f"layer {place + 1}")
            axes.axhline(1, color="black", lw=0.9, ls=(0, (1, 1)), label="equipartition")
            axes.set(xlabel="steps, thousands", ylabel="$E\\|g\\|^2$ of a layer over the mean of all", ylim=(0, 2.6))
            axes.set_title(f"digits, {series.label}")
            axes.legend(loc="upper right", ncols=2)
        axes, rates = panels[2], arrays["rates"]
        for name, color, marker, order in (("L", plots.GD.color, "x", 1), ("F", plots.SGD.color, "o", 2)):
            gap, error = arrays[f"gap_{name}"], arrays[f"gap_error_{name}"]
            axes.errorbar(rates, gap, 2 * error, fmt=marker, color=color, ms=5, label=f"flow of ${name}$")
            label = f"$\\propto\\eta^{order}$" if order > 1 else "$\\propto\\eta$"
            axes.plot(rates, gap[-1] * (rates / rates[-1]) ** order, color=color, lw=0.9, ls=":", label=label)
        axes.set(xscale="log", yscale="log", xlabel="$\\eta$", ylabel="distance from the mean of SGD")
        axes.set(xticks=list(rates), xticklabels=[f"{rate:g}" for rate in rates], title="shuffled epochs")
        axes.minorticks_off()
        axes.legend(loc="lower right")
    return drawing
