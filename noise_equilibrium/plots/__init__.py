"""Panels of figures: runs against theory, matrix elements in time, matrices element by element.

Nothing here computes, and no room that computes imports it. Colours are safe for the colour-blind, and every series
differs from its neighbours by its line or marker too, so that a figure can be read in grey.
"""

from ._diagnosis import diagnosis
from ._panels import elements, elementwise, lines, runs, theory
from ._style import GD, SDE, SGD, Series, figure
from ._tree import Tree, tree

__all__ = [
    "GD",
    "SDE",
    "SGD",
    "Series",
    "Tree",
    "diagnosis",
    "elements",
    "elementwise",
    "figure",
    "lines",
    "runs",
    "theory",
    "tree",
]
