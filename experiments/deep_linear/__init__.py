"""Figure 5: SGD brings deep linear networks to the aligned, balanced solution of Theorem 5.4; GD does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class DeepLinear(Study):
    """Figure 5: SGD brings deep linear networks to the aligned, balanced solution of Theorem 5.4; GD does not."""
