"""Eq. (1): the SDE is what SGD does to first order in η, measured by the order of the weak error."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class WeakOrder(Study):
    """Eq. (1): the SDE is what SGD does to first order in η, measured by the order of the weak error."""
