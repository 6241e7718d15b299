"""The entropic loss: its slope on orbits, equal noise in all layers, and shuffled SGD to second order."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Entropic(Study):
    """The entropic loss: its slope on orbits, equal noise in all layers, and shuffled SGD to second order."""
