"""What a joint search needs of a group: products of motions, exponentials, and elements as vectors of numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._double import in_double
from .._linalg import eigh, inv
from .._numbers import cast
from .._symmetry import Bound, BoundSymmetry, is_matrix
from . import _psd
from ._geometric_mean import image

Matrix = Float[Array, "d d"]


def identity(symmetry: Bound, dtype: Any) -> Any:
    """The motion that moves nothing."""
    if not isinstance(symmetry, BoundSymmetry):
        assert symmetry.powers is not None
        return jnp.ones(len(symmetry.powers), dtype)
    one = symmetry.public(jnp.ones(symmetry.shape, dtype))
    if not is_matrix(symmetry):
        return dict.fromkeys(_powers(symmetry), one)
    one = jnp.broadcast_to(jnp.eye(symmetry.size, dtype=dtype), one.shape)
    return in_double(lambda one: dict.fromkeys([1, -1], one), one, keep=True)


def _powers(symmetry: BoundSymmetry) -> list[float]:
    return list(dict.fromkeys(leg.power for leg in symmetry.legs))


def compose(symmetry: Bound, first: Any, second: Any) -> Any:
    """One motion after another."""

    def product(first: Any, second: Any) -> Any:
        multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST) if is_matrix(symmetry) else jnp.multiply
        return jax.tree_util.tree_map(multiply, first, second)

    return in_double(product, first, second, keep=True) if is_matrix(symmetry) else product(first, second)


def nearby(symmetry: Bound, element: Array) -> Any:
    """A motion near the identity for each element near 0: e^{element} to first order, and an exact group element."""
    if not isinstance(symmetry, BoundSymmetry):
        return jnp.exp(element * cast(symmetry.powers, element))
    if is_matrix(symmetry):

        def matrices(element: Array) -> Any:
            plus = jnp.eye(symmetry.size, dtype=element.dtype) + element
            return {1: plus, -1: inv(plus)}

        return in_double(matrices, element, keep=True)
    return {power: jnp.exp(cast(power, element) * element) for power in _powers(symmetry)}


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


def further_limits(symmetry: Bound, limits: tuple[Any, Any], motion: Any, more: tuple[Any, Any]) -> tuple[Any, Any]:
    """The directions that went to 0 and to ∞, with more of them that did after a motion, seen from the start.

    A limit of the axis after a motion (A of + legs, B of − legs) is one of the axis before it: 𝓑 ← B 𝓑 and 𝓒 ← A 𝓒.
    """
    if not is_matrix(symmetry):
        return jnp.maximum(limits[0], more[0]), jnp.maximum(limits[1], more[1])

    def carried(motion: Any, limits: tuple[Array, Array], more: tuple[Array, Array]) -> tuple[Array, ...]:
        to_zero, to_infinity = (over_blocks(symmetry, _range)(limit) for limit in more)
        moved = over_blocks(symmetry, image)
        return limits[0] + moved(motion[-1], to_zero), limits[1] + moved(motion[1], to_infinity)

    return in_double(carried, jax.lax.stop_gradient(motion), limits, more, keep=True)  # pyright: ignore[reportReturnType]


def over_blocks(symmetry: BoundSymmetry, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of matrices, for what has the charge's shape."""
    return function if symmetry.blocks == 1 else jax.vmap(function)


def without_rotation(symmetry: BoundSymmetry, motion: Any, limits: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """What a product of motions does apart from a rotation of its axis: P alone.

    Args:
        symmetry: a matrix symmetry.
        motion: the product A of the motions of + legs; P O if it is regular, O orthogonal; and the product B of those
            of − legs; P⁻¹ O.
        limits: positive on the directions that died on the way, see `further_limits`.

    Returns:
        The motion without O, the polar factor of A + B outside of what died; log P; and the projectors on what went to
        0 and to ∞.
    """

    def turned_back(motion: Any, limits: tuple[Array, Array]) -> tuple[Any, Array, Array, Array]:
        rotation, *rest = over_blocks(symmetry, _rotation)(motion[1], motion[-1], limits)
        return {power: factor @ rotation.mT for power, factor in motion.items()}, *rest

    with jax.default_matmul_precision("highest"):
        return in_double(turned_back, motion, limits, keep=True)


def _rotation(plus: Matrix, minus: Matrix, limits: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    eye = jnp.eye(len(plus), dtype=plus.dtype)
    to_zero, to_infinity = _range(limits[0]), _range(limits[1])
    finite = eye - _range(limits[0] + limits[1])
    both = finite @ (plus + minus)
    rank = jnp.round(jnp.trace(finite)).astype(int)
    root = _psd.pinv(_psd.sqrt(both.T @ both, rank), rank)
    rotation = both @ root
    p = finite @ plus @ rotation.T @ finite
    return rotation, _psd.log((p + p.T) / 2 + eye - finite), to_zero, to_infinity


def _range(matrix: Matrix) -> Matrix:
    """The projector on the range of a sum of projectors."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    inside = jnp.where(values > jnp.finfo(values.dtype).eps ** 0.5, vectors, 0)
    return inside @ inside.T
