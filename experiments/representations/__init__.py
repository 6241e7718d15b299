"""Figures 6 and 9: SGD aligns the representations of nonlinear networks with their errors; GD does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Representations(Study):
    """Figures 6 and 9: SGD aligns the representations of nonlinear networks with their errors; GD does not."""
