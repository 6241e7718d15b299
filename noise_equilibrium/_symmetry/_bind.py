"""From what a user calls a symmetry to one that knows its parameters."""

from typing import Any

from jaxtyping import PyTree

from ._exponential import BoundExponential
from ._symmetry import AbstractSymmetry, BoundSymmetry

Bound = BoundSymmetry | BoundExponential


def bind(symmetry: Any, params: PyTree) -> Bound:
    """`symmetry.bind(params)` for work that takes one symmetry of any kind.

    Raises:
        ValueError: for anything else, a sequence of symmetries included.
    """
    if not isinstance(symmetry, AbstractSymmetry):
        raise ValueError(f"symmetry is {symmetry!r}; expected one Symmetry.")
    return symmetry.bind(params)


def bind_legs(symmetry: Any, params: PyTree, what: str) -> BoundSymmetry:
    """`bind` for work that needs a symmetry made of legs.

    Raises:
        ValueError: for anything else, exponential symmetries included.
    """
    bound = bind(symmetry, params)
    if not isinstance(bound, BoundSymmetry):
        raise ValueError(f"{what} got {type(symmetry).__name__}; expected a Symmetry made of legs.")
    return bound
