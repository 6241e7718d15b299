"""The figure: where SGD and Adam rest, the charge without noise, and the charges of neurons against the SDE."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.optimizers.steps import BETAS, with_momentum
from noise_equilibrium import plots

LOOKS = {
    "SGD": plots.SGD,
    "momentum 0.5": plots.Series("momentum 0.5", "#56B4E9", "--", "^"),
    "momentum 0.9": plots.Series("momentum 0.9", "#009E73", "-.", "D"),
    "one v per matrix": plots.Series("Adam, one v per matrix", "#CC79A7", "--", "s"),
    "Adam": plots.Series("Adam", "#7B3294", "-", "v"),
}


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Three panels, with one colour for each optimiser."""
    with plots.figure(11.5, 3.6, columns=3) as (drawing, (left, middle, right)):
        _draw_rest(left.subplots(), arrays)
        _draw_noiseless(middle.subplots(), arrays)
        axes = right.subplots()
        for name in with_momentum(1.0):
            moved, predicted = (arrays[f"neurons_{name}_{what}"] for what in ("moved", "predicted"))
            plots.elementwise(axes, predicted, moved, LOOKS[name])
        limits = np.array(axes.get_xlim())
        plots.theory(axes, limits, limits, "SDE of $\\eta/(1-\\beta)$")
        axes.set(xlabel="predicted $\\int 2\\sigma^2(M_+-M_-)_j\\,dt$", ylabel="change of $C_j$")
        axes.set_title("ReLU network: charges of neurons")
        axes.legend(fontsize=7.5)
    return drawing


def _draw_rest(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    for name in ("SGD", "one v per matrix", "Adam"):
        time, values = (arrays[f"even_{name}_1{what}"] for what in ("_time", ""))
        look = LOOKS[name]
        plots.runs(axes, time, values[..., 0] / values[..., 1], plots.Series(look.label, look.color, look.line))
    for place, name in enumerate(("SGD", "adaptive")):
        height = float(arrays[f"even_rest_{name}"])
        axes.axhline(height, color="black", lw=0.9, ls=(0, (1, 1)), label=None if place else "theory: 3 and 9")
    axes.set(xlabel="time $\\eta\\,\\times$ steps", ylabel="$\\|W\\|^2/\\|U\\|^2$", ylim=(2, 10.5))
    axes.set_title("12 inputs, 4 outputs: SGD and Adam rest apart")
    axes.legend(fontsize=7.5, loc="center right")


def _draw_noiseless(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    names = tuple(with_momentum(1.0))
    for place, label in ((1, "$\\eta/4$"), (2, "$\\eta/16$, the same time")):
        values = np.stack([arrays[f"noiseless_{name}_{place}"] for name in names])
        where, error = np.arange(len(names)) + 0.36 * (place - 1.5), values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
        colors, shade = [LOOKS[name].color for name in names], (1, 0.45)[place - 1]
        axes.bar(where, values.mean(axis=1), 0.34, yerr=error, color=colors, alpha=shade, label=label)
        factors = np.array([1, *((1 + beta) / (1 - beta) for beta in BETAS)])
        height = factors * values[0].mean()
        lines = "$(1+\\beta)/(1-\\beta)$ times SGD" if place == 1 else ""
        axes.hlines(height, where - 0.17, where + 0.17, color="black", lw=1.6, label=lines)
    axes.set(yscale="log", ylabel="$\\|Q_T-Q_0\\|$", xticks=range(len(names)))
    axes.set_xticklabels([name.replace(" ", "\n") for name in names], fontsize=8)
    axes.set_title("without noise: momentum moves charges more")
    axes.legend(fontsize=7.5, loc="upper left")
