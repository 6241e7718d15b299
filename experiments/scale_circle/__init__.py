"""Figure 1: noise pushes a scale-invariant model outwards and balances a rescaling; gradient descent does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class ScaleCircle(Study):
    """Figure 1: noise pushes a scale-invariant model outwards and balances a rescaling; gradient descent does not."""
