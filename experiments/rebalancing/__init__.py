"""Beyond Figure 4: does moving to the noise equilibrium, at once or every k steps, replace a warmup?"""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Rebalancing(Study):
    """Beyond Figure 4: does moving to the noise equilibrium, at once or every k steps, replace a warmup?"""
