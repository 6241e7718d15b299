"""The figure: the law of rounding errors, and what equalisation makes of them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

LOOKS = {
    "plain": ("as\ntrained", "0.35"),
    "equalised": ("equalised", "#0072B2"),
    "rescaled": ("random\nfactors", "#E69F00"),
    "undone": ("factors,\nequalised", "#56B4E9"),
    "least": ("least,\nby the law", "#009E73"),
}
TITLES = {"dense": "ReLU network", "filters": "convolutions, normalised"}


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Measured against predicted errors of both networks; the errors of each network by its variants."""
    with plots.figure(12.5, 3.9, columns=3) as (drawing, (left, middle, right)):
        axes = left.subplots()
        for name, marker in (("dense", "o"), ("filters", "s")):
            for variant in ("rescaled", "plain", "equalised"):
                label, color = LOOKS[variant][0].replace("\n", " "), LOOKS[variant][1]
                predicted, error = (
                    arrays[f"{name}_{variant}_{what}"][..., 0].ravel() ** 0.5 for what in ("predicted", "error")
                )
                axes.loglog(
                    predicted,
                    error,
                    marker,
                    color=color,
                    ms=3.2,
                    mfc="none",
                    mew=0.7,
                    label=label if name == "dense" else None,
                )
        ends = np.array([2e-5, 5])
        plots.theory(axes, ends, ends, "law")
        axes.set(xlabel="predicted $(\\sum \\Delta^2/12\\;|\\partial f/\\partial w|^2)^{1/2}$ / scatter of $f$")
        axes.set(ylabel="measured error / scatter of $f$", title="one step per array, of 16, 8 and 4 bits")
        axes.legend(loc="upper left")
        for column, name in ((middle, "dense"), (right, "filters")):
            _draw_errors(column.subplots(), arrays, name)
    return drawing


def _draw_errors(axes: Axes, arrays: dict[str, np.ndarray], name: str) -> None:
    """Every network is a point, filled with one step per array and open with one per row or filter; bars are means."""
    variants = [variant for variant in LOOKS if f"{name}_{variant}_error" in arrays]
    for place, variant in enumerate(variants):
        color = LOOKS[variant][1]
        for row, bits in ((1, 8), (0, 4)):
            for column in (0, 1):
                values = arrays[f"{name}_{variant}_error"][:, row, column] ** 0.5
                where = place + 0.36 * (column - 0.5)
                across = where + 0.13 * np.linspace(-1, 1, len(values))
                axes.plot(
                    across,
                    values,
                    "o" if bits == 8 else "^",
                    color=color,
                    ms=3,
                    mew=0.7,
                    mfc="none" if column else color,
                )
                axes.hlines(np.exp(np.log(values).mean()), where - 0.17, where + 0.17, color="black", lw=1.3)
    axes.set(yscale="log", ylabel="rms error of the logits / their scatter", title=TITLES[name])
    axes.set_xticks(range(len(variants)), [LOOKS[variant][0] for variant in variants])
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 6)
    handles = [
        axes.plot([], [], marker, color="0.5", ms=4, mfc=fill, label=label)[0]
        for marker, fill, label in (
            ("^", "0.5", "4 bits"),
            ("o", "0.5", "8 bits"),
            ("s", "0.5", "one step per array"),
            ("s", "none", "one per neuron" if name == "dense" else "one per filter"),
        )
    ]
    axes.legend(handles=handles, ncols=2, loc="upper right", fontsize=7.5)
