"""The three algebras: which elements B a leg symmetry may have, and how e^B acts.

Inside, a leg is a stack of matrices of shape (H, m, k): H blocks (1 unless the leg has any), the symmetry axis last,
everything else in m. Elements and charges then have the shape

    scalar (H,),    diagonal (H, k),    symmetric (H, k, k),

and the public shapes drop the H when there is a single block.
"""

import abc
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._group import times
from .._numbers import cast


@dataclass(frozen=True)
class Algebra(abc.ABC):
    """The set of elements of a leg symmetry."""

    @property
    @abc.abstractmethod
    def rank(self) -> int:
        """How many axes an element of one block has: 0, 1 or 2."""

    @abc.abstractmethod
    def shape(self, blocks: int, size: int) -> tuple[int, ...]:
        """The shape of elements and charges for H blocks of an axis of k entries each."""

    @abc.abstractmethod
    def product(self, left: Float[Array, "H m k"], right: Float[Array, "H m k"]) -> Array:
        """leftᵀ right, contracted with everything the algebra cannot see."""

    @abc.abstractmethod
    def apply(self, leg: Float[Array, "H m k"], factor: Any) -> Float[Array, "H m k"]:
        """The leg with its axis multiplied by an element of the algebra or by P, in the leg's dtype."""


class Scalar(Algebra):
    """One number per block."""

    @property
    def rank(self) -> int:
        return 0

    def shape(self, blocks: int, size: int) -> tuple[int, ...]:
        return (blocks,)

    def product(self, left: Float[Array, "H m k"], right: Float[Array, "H m k"]) -> Float[Array, " H"]:
        return jnp.sum(left * right, axis=(1, 2))

    def apply(self, leg: Float[Array, "H m k"], factor: Float[Array, " H"]) -> Float[Array, "H m k"]:
        return leg * cast(factor, leg)[:, None, None]


class Diagonal(Algebra):
    """One number per index of the axis."""

    @property
    def rank(self) -> int:
        return 1

    def shape(self, blocks: int, size: int) -> tuple[int, ...]:
        return (blocks, size)

    def product(self, left: Float[Array, "H m k"], right: Float[Array, "H m k"]) -> Float[Array, "H k"]:
        return jnp.sum(left * right, axis=1)

    def apply(self, leg: Float[Array, "H m k"], factor: Float[Array, "H k"]) -> Float[Array, "H m k"]:
        return leg * cast(factor, leg)[:, None, :]


class Symmetric(Algebra):
    """A symmetric matrix on the axis."""

    @property
    def rank(self) -> int:
        return 2

    def shape(self, blocks: int, size: int) -> tuple[int, ...]:
        return (blocks, size, size)

    def product(self, left: Float[Array, "H m k"], right: Float[Array, "H m k"]) -> Float[Array, "H k k"]:
        return jnp.einsum("hmk,hml->hkl", left, right, precision=jax.lax.Precision.HIGHEST)

    def apply(self, leg: Float[Array, "H m k"], factor: Any) -> Float[Array, "H m k"]:
        return times(leg, factor)


ALGEBRAS: dict[str, Algebra] = {"scalar": Scalar(), "diagonal": Diagonal(), "symmetric": Symmetric()}
