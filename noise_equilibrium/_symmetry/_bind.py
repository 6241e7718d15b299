"""From what a user calls a symmetry, or several, to ones that know their parameters."""

import reprlib
from collections.abc import Sequence
from typing import Any, TypeGuard, TypeVar

import equinox as eqx
from jaxtyping import PyTree

from ._exponential import BoundExponential, ExponentialSymmetry
from ._symmetry import AbstractSymmetry, BoundSymmetry

Bound = BoundSymmetry | BoundExponential
T = TypeVar("T")


class BoundSymmetries(eqx.Module):
    """The symmetries of a call that takes one or a sequence of them, and answers in the same form.

    Attributes:
        each: the symmetries, bound to the parameters.
        several: whether they came as a sequence.
    """

    each: tuple[Bound, ...]
    several: bool = eqx.field(static=True)

    def as_given(self, values: Sequence[T]) -> T | tuple[T, ...]:
        """One value for each symmetry: as a tuple for a sequence, by itself for a single symmetry."""
        return tuple(values) if self.several else values[0]


def is_matrix(symmetry: Bound) -> TypeGuard[BoundSymmetry]:
    """Whether a symmetry multiplies its legs by matrices, which are kept in double precision."""
    return isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank == 2


def is_scaling(symmetry: Bound) -> TypeGuard[BoundSymmetry]:
    """Whether a symmetry multiplies its legs by numbers."""
    return isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank < 2


def leaves_of(symmetry: Bound, count: int) -> set[int]:
    """Which of so many parameters a symmetry moves."""
    return {leg.index for leg in symmetry.legs} if isinstance(symmetry, BoundSymmetry) else set(range(count))


def bind(symmetry: Any, params: PyTree) -> Bound:
    """`symmetry.bind(params)` for work that takes one symmetry of any kind.

    Raises:
        ValueError: for anything else, a sequence of symmetries included.
    """
    if not isinstance(symmetry, AbstractSymmetry):
        raise ValueError(f"symmetry is {symmetry!r}; expected one Symmetry.")
    return symmetry.bind(params)


def bind_each(symmetry: Any, params: PyTree, what: str) -> BoundSymmetries:
    """The symmetries of work that takes one or several and needs the spectra of their generators.

    Args:
        symmetry: a symmetry, or a sequence of at least one.
        params: the parameters, any pytree.
        what: the work, for messages.

    Raises:
        ValueError: for anything else; for a matrix-free generator; for a symmetry that does not fit params.
    """
    several = isinstance(symmetry, Sequence) and not isinstance(symmetry, str) and len(symmetry) > 0
    given: list[Any] = list(symmetry) if several else [symmetry]
    for place, one in enumerate(given):
        if not isinstance(one, AbstractSymmetry):
            name = f"symmetry[{place}]" if several else "symmetry"
            raise ValueError(f"{name} is {reprlib.repr(one)}; expected a Symmetry, or a sequence of at least one.")
        if isinstance(one, ExponentialSymmetry):
            one.require_matrix(what)
    return BoundSymmetries(tuple(one.bind(params) for one in given), several)
