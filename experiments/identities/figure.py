"""The figure: the relative error of every identity, over its mark."""

import numpy as np
from matplotlib.figure import Figure

from experiments._metrics import Metric
from noise_equilibrium import plots


def draw(metrics: list[Metric], values: np.ndarray) -> Figure:
    """Identities with an error that is to vanish; the other statements are in the table only.

    Args:
        metrics: of all statements.
        values: what each instance gave, of shape (instances, statements).
    """
    places = [place for place, metric in enumerate(metrics) if 0 < metric.high < 1e-3]
    with plots.figure(9, 0.21 * len(places) + 0.9, columns=1) as (drawing, (whole,)):
        axes = whole.subplots()
        for row, place in enumerate(places):
            shown = np.maximum(values[:, place], 1e-18)  # what is exactly zero is drawn at the edge
            axes.plot(shown, np.full(len(shown), row), "o", color=plots.SGD.color, ms=4, alpha=0.7)
            axes.plot(metrics[place].high, row, "|", color="black", ms=10, mew=1.5)
        axes.set(xscale="log", xlim=(5e-19, 1e-4), ylim=(len(places) - 0.5, -0.5), yticks=range(len(places)))
        axes.set_yticklabels([metrics[place].name for place in places], fontsize=7)
        axes.set_xlabel("error of every instance (dots) and the mark (black)")
        axes.grid(axis="x", lw=0.3)
    return drawing
