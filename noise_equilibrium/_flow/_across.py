"""The projector on the complement of an orbit, without the directions of the orbit."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._linalg import eigh
from .._numbers import cast
from .._parameters import accumulation_dtype, flatten, split
from .._symmetry import Bound, BoundSymmetry
from .._symmetry._leg import BoundLeg

Vector = Float[Array, " P"]


def across_orbit(symmetry: Bound, params: PyTree) -> Callable[[Vector], Vector]:
    """The map of v to v without its part along the orbit, all Aθ; for a matrix symmetry, of all invertible matrices.

    With T(B) = Aθ for the element B, that part is T(T*T)⁻¹T*v. For scalar and diagonal elements T*T is a number each.
    For a matrix, under which + legs go to θB and − legs to −θBᵀ, T*T B = Q₊B + BQ₋ (Sylvester), solved in the
    eigenbases of Q±: d³, where the directions are d² vectors of P numbers. A direction whose length is the share s of
    the longest is projected out to ε/s². That suffices: along the orbit of a minimum there is no curvature.
    """
    arrays, _ = split(params)
    if not isinstance(symmetry, BoundSymmetry):
        tangent = symmetry.apply(flatten(params)[0])
        square = jnp.vdot(tangent, tangent)
        return lambda vector: vector - jnp.vdot(tangent, vector) / jnp.where(square > 0, square, 1) * tangent
    dtype = accumulation_dtype([arrays[leg.index] for leg in symmetry.legs])
    legs = {leg: leg.to_matrix(arrays[leg.index].astype(dtype)) for leg in symmetry.legs}
    of_matrices = symmetry.algebra.rank == 2
    solve = _solver(symmetry, legs)
    product, apply = symmetry.algebra.product, symmetry.algebra.apply

    def element(parts: list[Array]) -> Array:
        """T*v."""
        total = jnp.zeros(symmetry.shape, dtype)
        for leg, matrix in legs.items():
            part = leg.to_matrix(parts[leg.index].astype(dtype))
            backward = of_matrices and leg.power < 0
            total = total + cast(leg.power, total) * (product(part, matrix) if backward else product(matrix, part))
        return total

    def project(vector: Vector) -> Vector:
        parts = _parts(vector, [array.shape for array in arrays])
        inside = solve(element(parts))
        for leg, matrix in legs.items():
            factor = cast(leg.power, inside) * (inside.mT if of_matrices and leg.power < 0 else inside)
            moved = leg.from_matrix(apply(matrix, factor), arrays[leg.index])
            parts[leg.index] = parts[leg.index] - moved.astype(vector.dtype)
        return jnp.concatenate([part.ravel() for part in parts])

    return project


def _solver(symmetry: BoundSymmetry, legs: dict[BoundLeg, Array]) -> Callable[[Array], Array]:
    """(T*T)⁻¹, 0 on elements that do not move the parameters."""
    grams = {+1: [], -1: []}
    for leg, matrix in legs.items():
        gram = symmetry.algebra.gram(matrix)
        grams[1 if leg.power > 0 else -1].append(cast(leg.power**2, gram) * gram)
    plus, minus = (sum(side, jnp.zeros(symmetry.shape, next(iter(legs.values())).dtype)) for side in grams.values())
    if symmetry.algebra.rank < 2:
        both = plus + minus
        return lambda element: element * _inverse(both, jnp.zeros_like(both))
    (high, turn_plus), (low, turn_minus) = (eigh(side) for side in (plus, minus))
    sums = high[:, :, None] + low[:, None, :]
    floor = 8 * symmetry.size * jnp.finfo(sums.dtype).eps * jnp.max(sums, axis=(1, 2), keepdims=True)
    inverse = _inverse(sums, floor)
    return lambda element: turn_plus @ ((turn_plus.mT @ element @ turn_minus) * inverse) @ turn_minus.mT


def _inverse(values: Array, floor: Array) -> Array:
    return jnp.where(values > floor, 1 / jnp.where(values > floor, values, 1), 0)


def _parts(vector: Vector, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """A vector in the order of `flatten` as arrays."""
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    return [part.reshape(shape) for part, shape in zip(jnp.split(vector, ends[:-1]), shapes, strict=True)]
