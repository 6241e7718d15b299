"""Figure 4: with a warmup of the learning rate, noise carries the network to where the high rate is stable."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Warmup(Study):
    """Figure 4: with a warmup of the learning rate, noise carries the network to where the high rate is stable."""
