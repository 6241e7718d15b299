"""Equalisation before weights are rounded to few bits: what it gains on trained networks, and why."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Equalisation(Study):
    """Equalisation before weights are rounded to few bits: what it gains on trained networks, and why."""
