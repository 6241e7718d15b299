"""Theorem 4.5: how closely a charge follows an equilibrium that drifts and diffuses."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class MovingTarget(Study):
    """Theorem 4.5: how closely a charge follows an equilibrium that drifts and diffuses."""
