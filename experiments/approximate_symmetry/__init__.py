"""Section 5.4: a symmetry that a term ζ ℓ₁ breaks, from ζ = 0 to large, in theory and under SGD."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class ApproximateSymmetry(Study):
    """Section 5.4: a broken symmetry settles between the noise equilibrium and the minimum of what breaks it."""
