"""The figure: alignment in training, all pairs of layers at the end, and what weight decay does to it."""

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots

NAMES = ("shallow 1", "deep 1", "deep 2", "deep 3")


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Four panels in a row."""
    with plots.figure(12, 3.3, columns=4) as (drawing, columns):
        panels = [column.subplots() for column in columns]
        axes, share = panels[0], arrays["time"] / arrays["time"][-1]
        for name, series in (("sgd", plots.SGD), ("gd", plots.GD)):
            plots.runs(axes, share, arrays[name], series)
        axes.axhline(1, color="black", lw=0.9, ls=(0, (1, 1)))
        axes.set(xlabel="share of training", ylabel="least alignment of two hidden layers", ylim=(0, 1.05))
        axes.set_title("two networks, two views")
        axes.legend(loc="lower right")
        for axes, name, title in ((panels[1], "sgd_alignment", "SGD, at the end"), (panels[2], "gd_alignment", "GD")):
            values = arrays[name]
            axes.imshow(values, vmin=0.5, vmax=1, cmap="Blues")
            for row, column in np.ndindex(*values.shape):
                color = "white" if values[row, column] > 0.8 else "black"
                axes.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", fontsize=7, color=color)
            axes.set(xticks=range(4), xticklabels=NAMES, yticks=range(4), yticklabels=NAMES, title=f"kernels, {title}")
            axes.tick_params(axis="x", rotation=45)
        axes, decays, least = panels[3], arrays["decays"], arrays["decay_alignment"]
        axes.semilogx(decays[1:], least[1:-1], "-o", color="0.35", ms=4, label="predicted")
        axes.axhline(least[-1], color="black", lw=0.9, ls=(0, (5, 2)), label="decay alone")
        axes.axhline(1, color="black", lw=0.9, ls=(0, (1, 1)), label="no decay")
        axes.set(
            xlabel="$\\gamma/\\sigma^2$", ylabel="least alignment", title="weight decay breaks it", ylim=(None, 1.02)
        )
        axes.legend(loc="center left")
    return drawing
