"""Initialisation independence: SGD with the same noise ends at one point from every start and width; GD does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Initialisation(Study):
    """Initialisation independence: SGD with the same noise ends at one point from every start and width."""
