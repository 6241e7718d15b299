"""Momentum and Adam: exact laws of the charges, and the equilibria to which they take a network."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Optimizers(Study):
    """Momentum and Adam: exact laws of the charges, and the equilibria to which they take a network."""
