"""The panels."""

import numpy as np
from matplotlib.axes import Axes

from ._style import Series


def runs(axes: Axes, time: np.ndarray, values: np.ndarray, series: Series) -> None:
    """Several runs of one kind against time: their mean, in a band from the lowest to the highest.

    Args:
        axes: the panel.
        time: (rows,).
        values: (runs, rows).
        series: how they are drawn.
    """
    axes.plot(time, values.mean(axis=0), color=series.color, linestyle=series.line, label=series.label)
    axes.fill_between(time, values.min(axis=0), values.max(axis=0), color=series.color, alpha=0.2, linewidth=0)


def theory(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None = "theory") -> None:
    """A prediction, as a thin black line over the runs."""
    axes.plot(x, y, color="black", linewidth=0.9, linestyle=(0, (1, 1)), label=label, zorder=5)


def lines(axes: Axes, time: np.ndarray, values: np.ndarray) -> None:
    """Several quantities of one run against time, from dark to light grey.

    Args:
        axes: the panel.
        time: (rows,).
        values: (rows, quantities).
    """
    for place, column in enumerate(values.T):
        axes.plot(time, column, color=str(0.1 + 0.5 * place / max(values.shape[1] - 1, 1)), linewidth=1.1)


def elements(axes: Axes, time: np.ndarray, matrices: np.ndarray, count: int = 10) -> None:
    """`count` elements of a symmetric matrix against time: half on the diagonal (solid), half beside it (dashed).

    Args:
        axes: the panel.
        time: (rows,).
        matrices: (rows, d, d).
        count: how many elements; the first ones.
    """
    on, beside = (count + 1) // 2, count // 2
    lines(axes, time, np.stack([matrices[:, place, place] for place in range(on)], axis=1))
    for place in range(beside):
        shade = str(0.1 + 0.5 * place / max(beside - 1, 1))
        axes.plot(time, matrices[:, place, place + 1], color=shade, linewidth=1.1, linestyle="--")
    axes.plot([], [], color="0.2", label="diagonal")
    axes.plot([], [], color="0.2", linestyle="--", label="off-diagonal")


def elementwise(axes: Axes, x: np.ndarray, y: np.ndarray, series: Series) -> None:
    """The elements of one matrix against those of another; equal matrices lie on the diagonal.

    Args:
        axes: the panel.
        x: any shape.
        y: the same shape.
        series: how they are drawn.
    """
    axes.scatter(
        x.ravel(),
        y.ravel(),
        s=7,
        marker=series.marker,
        color=series.color,
        alpha=0.5,
        linewidths=0.7,
        label=series.label,
    )
