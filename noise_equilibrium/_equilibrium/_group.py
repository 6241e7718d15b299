"""What a joint search needs of a group: products of motions, exponentials, and elements as vectors of numbers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._numbers import cast
from .._symmetry import Bound, BoundSymmetry
from . import _psd


def identity(symmetry: Bound, dtype: Any) -> Any:
    """The motion that moves nothing."""
    if not isinstance(symmetry, BoundSymmetry):
        assert symmetry.powers is not None
        return jnp.ones(len(symmetry.powers), dtype)
    one = symmetry.public(jnp.ones(symmetry.shape, dtype))
    if symmetry.algebra.rank == 2:
        one = jnp.broadcast_to(jnp.eye(symmetry.size, dtype=dtype), one.shape)
    return {power: one for power in _powers(symmetry)}


def _powers(symmetry: BoundSymmetry) -> list[float]:
    return [1, -1] if symmetry.algebra.rank == 2 else list(dict.fromkeys(leg.power for leg in symmetry.legs))


def compose(symmetry: Bound, first: Any, second: Any) -> Any:
    """One motion after another."""
    if isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank == 2:
        return jax.tree_util.tree_map(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST), first, second)
    return jax.tree_util.tree_map(jnp.multiply, first, second)


def exponential(symmetry: Bound, element: Array) -> Any:
    """The motion of e^{element}."""
    if not isinstance(symmetry, BoundSymmetry):
        return jnp.exp(element * cast(symmetry.powers, element))
    inside = element.reshape(symmetry.shape)
    return {
        power: symmetry.public(symmetry.algebra.exponential(cast(power, inside) * inside))
        for power in _powers(symmetry)
    }


def dimension(symmetry: Bound) -> int:
    """How many numbers an element has."""
    if not isinstance(symmetry, BoundSymmetry):
        return 1
    size = {0: 1, 1: symmetry.size, 2: symmetry.size * (symmetry.size + 1) // 2}[symmetry.algebra.rank]
    return symmetry.blocks * size


def coordinates(symmetry: Bound, value: Array) -> Float[Array, " n"]:
    """An element or charge as numbers, in an orthonormal basis for Tr[AB]."""
    if not isinstance(symmetry, BoundSymmetry) or symmetry.algebra.rank < 2:
        return value.ravel()
    rows, columns = jnp.triu_indices(symmetry.size)
    weights = jnp.where(rows == columns, 1, jnp.sqrt(2)).astype(value.dtype)
    return (value.reshape(symmetry.shape)[:, rows, columns] * weights).ravel()


def element_of(symmetry: Bound, numbers: Float[Array, " n"]) -> Array:
    """The inverse of `coordinates`."""
    if not isinstance(symmetry, BoundSymmetry):
        return numbers.reshape(())
    if symmetry.algebra.rank < 2:
        return symmetry.public(numbers.reshape(symmetry.shape))
    rows, columns = jnp.triu_indices(symmetry.size)
    halves = jnp.where(rows == columns, 0.5, jnp.sqrt(0.5)).astype(numbers.dtype)
    upper = jnp.zeros(symmetry.shape, numbers.dtype)
    upper = upper.at[:, rows, columns].set(numbers.reshape(symmetry.blocks, -1) * halves)
    return symmetry.public(upper + upper.mT)


def without_rotation(plus: Float[Array, "d d"], minus: Float[Array, "d d"]) -> tuple[Array, Array, Array, Array]:
    """What a product of motions does apart from a rotation of its axis: P alone.

    Args:
        plus: the product A of the motions of + legs; P O if it is regular, O orthogonal.
        minus: the product B of those of − legs; P⁻¹ O.

    Returns:
        O, the polar factor of A + B outside of what died; log P; and the projectors on what went to 0 and to ∞.
    """
    eye = jnp.eye(len(plus), dtype=plus.dtype)
    to_zero, to_infinity = _lost(plus), _lost(minus)
    finite = eye - to_zero - to_infinity
    both = finite @ (plus + minus)
    rank = jnp.round(jnp.trace(finite)).astype(jnp.int32)
    root = _psd.pinv(_psd.sqrt(both.T @ both, rank), rank)
    rotation = both @ root
    p = finite @ plus @ rotation.T @ finite
    return rotation, _psd.log((p + p.T) / 2 + eye - finite), to_zero, to_infinity


def _lost(motion: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The projector on the directions of the axis that a motion sends to 0."""
    motion = jax.lax.stop_gradient(motion)
    left, values, _ = jnp.linalg.svd(motion)
    lost = jnp.where(values <= 64 * len(values) * jnp.finfo(values.dtype).eps * values[0], left, 0)
    return lost @ lost.T
