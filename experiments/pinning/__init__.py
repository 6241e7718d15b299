"""Who wins along a broken symmetry, the noise or the loss: pinning numbers and rest points against SGD."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Pinning(Study):
    """Who wins along a broken symmetry, the noise or the loss: pinning numbers and rest points against SGD."""
