"""Section 4.2: the noise equilibrates faster than the loss settles, or slower, as σ² decides."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class TimeScales(Study):
    """Section 4.2: the noise equilibrates faster than the loss settles, or slower, as σ² decides."""
