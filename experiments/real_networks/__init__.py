"""Networks and a decoder on real data: mean charges are those of the law at the mean noise."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class RealNetworks(Study):
    """Networks and a decoder on real data: mean charges are those of the law at the mean noise."""
