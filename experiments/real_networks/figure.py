"""The figure: charges along a run and in the mean, of SGD and of momentum."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

MEASURED, EQUILIBRIA, SLOW = plots.SGD.color, "#E69F00", "#CC79A7"
SHOWN = 4  # charges of the run, from the largest to the smallest


def draw(arrays: dict[str, np.ndarray], layers: dict[str, slice], block: int) -> Figure:
    """Charges along a run; mean charges against the law and the mean of equilibria; the same with momentum."""
    with plots.figure(11.5, 3.8, columns=3) as (drawing, (left, middle, right)):
        _draw_run(left.subplots(), arrays, layers["first layer"], block)
        series = {"law of the mean noise": (MEASURED, "law"), "mean of equilibria": (EQUILIBRIA, "targets")}
        _draw_means(middle.subplots(), arrays, "dense", series, layers)
        middle.axes[0].set_title("SGD: mean charges, late half")
        series = {"exact law": (MEASURED, "law"), "law for a slow mean gradient": (SLOW, "law_slow")}
        _draw_means(right.subplots(), arrays, "momentum", series, layers)
        right.axes[0].set_title("momentum 0.9: mean charges, late half")
    return drawing


def _draw_run(axes: Axes, arrays: dict[str, np.ndarray], layer: slice, block: int) -> None:
    """A few charges of the first run at the ends of blocks, the path that the law has, and the equilibria."""
    charge, path, target = (arrays[f"dense_{what}"][0][:, layer] for what in ("end_charge", "path", "end_target"))
    steps = block * np.arange(len(path))
    order = np.argsort(charge[len(charge) // 2 :].mean(axis=0))
    chosen = order[np.linspace(len(order) // 3, len(order) - 1, SHOWN).astype(int)]
    for place, one in enumerate(chosen):
        axes.plot(
            steps[1:],
            target[:, one],
            ".",
            color=EQUILIBRIA,
            ms=2.5,
            label="equilibrium at one point" if place == 0 else None,
        )
        axes.plot(steps[1:], charge[:, one], color=MEASURED, lw=1.3, label="SGD" if place == 0 else None)
        axes.plot(
            steps,
            path[:, one],
            color="black",
            lw=0.9,
            ls=(0, (3, 1.5)),
            label="law, from the start" if place == 0 else None,
        )
    high = max(charge[len(charge) // 4 :, chosen].max(), path[len(path) // 4 :, chosen].max())
    axes.set(xlabel="steps", ylabel="charge of a neuron, $C_j$", ylim=(-0.6 * high, 1.9 * high))
    axes.set_title("four neurons of the first layer")
    axes.legend(loc="upper right", ncols=1, fontsize=7.5)


def _draw_means(
    axes: Axes, arrays: dict[str, np.ndarray], name: str, series: dict[str, tuple[str, str]], layers: dict[str, slice]
) -> None:
    for label, (color, what) in series.items():
        for marker, (layer, of) in zip("o^", layers.items(), strict=True):
            measured, predicted = (arrays[f"{name}_mean_{one}"][:, of].ravel() for one in ("charge", what))
            words = f"{label}, {layer}"
            axes.plot(
                predicted,
                measured,
                marker,
                color=color,
                mfc="none" if marker == "^" else color,
                ms=3.5,
                mew=0.8,
                label=words,
                alpha=0.8,
            )
    measured = arrays[f"{name}_mean_charge"]
    ends = np.array([measured.min(), measured.max()])
    plots.theory(axes, ends, ends, "as predicted")
    axes.set(xlabel="predicted mean of $C_j$", ylabel="measured mean of $C_j$")
    axes.legend(loc="lower right", fontsize=7)
