"""Figure 8: how SGD converges to the noise equilibrium over the learning rate, the batch size and the width."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Convergence(Study):
    """Figure 8: how SGD converges to the noise equilibrium over the learning rate, the batch size and the width."""
