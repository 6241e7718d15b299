"""Figure 7: noise makes the norms of normalised networks grow as predicted; weight decay makes them settle."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class NormGrowth(Study):
    """Figure 7: noise makes the norms of normalised networks grow as predicted; weight decay makes them settle."""
