"""Figures 6 and 9: nonlinear two-layer networks learn aligned layers; few samples undo it."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Representations(Study):
    """Figures 6 and 9: nonlinear two-layer networks learn aligned layers; few samples undo it."""
