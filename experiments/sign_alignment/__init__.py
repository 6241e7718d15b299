"""Section 5.1: noise makes all neurons of a rank-one factorisation agree in sign; gradient descent does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class SignAlignment(Study):
    """Section 5.1: noise makes all neurons of a rank-one factorisation agree in sign; gradient descent does not."""
