"""How figures look: sizes, fonts, and one colour, line and marker for each dynamics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Series:
    """How one kind of run is drawn.

    Attributes:
        label: its name in legends.
        color: safe for the colour-blind, and of its own lightness.
        line: its line style.
        marker: its marker in scatter plots.
    """

    label: str
    color: str
    line: Any = "-"
    marker: str = "o"


SGD = Series("SGD", "#0072B2", "-", "o")
SDE = Series("SDE", "#E69F00", (0, (4, 1.5)), "s")
GD = Series("GD", "#8B3A1E", "-.", "x")


@contextmanager
def figure(width: float, height: float, columns: int) -> Iterator[tuple[Figure, list[SubFigure]]]:
    """A new figure in columns, in the style of this program until the block ends; pyplot's global state is not touched.

    Args:
        width: in inches.
        height: in inches.
        columns: how many sub-figures side by side.
    """
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawing)
        grid = drawing.add_gridspec(1, columns)
        yield drawing, [drawing.add_subfigure(grid[0, column]) for column in range(columns)]
