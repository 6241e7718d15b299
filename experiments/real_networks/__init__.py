"""Networks for digits, as people train them: mean charges are those of the law at the mean noise."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class RealNetworks(Study):
    """Networks for digits, as people train them: mean charges are those of the law at the mean noise."""
