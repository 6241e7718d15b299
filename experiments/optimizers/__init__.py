"""Momentum and Adam: which symmetries, charges and equilibria survive another optimiser, and which do not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Optimizers(Study):
    """Momentum and Adam: which symmetries, charges and equilibria survive another optimiser, and which do not."""
