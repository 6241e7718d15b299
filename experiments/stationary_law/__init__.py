"""The stationary law of a balanced product: its density over the noise scale, and the transition to collapse."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class StationaryLaw(Study):
    """The stationary law of a balanced product: its density over the noise scale, and the transition to collapse."""
