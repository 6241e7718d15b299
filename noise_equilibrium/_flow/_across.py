"""The projector on the complement of an orbit, without the directions of the orbit."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._group import AbstractGroup
from .._parameters import accumulation_dtype, split

Vector = Float[Array, " P"]


def across_orbit(group: AbstractGroup, params: PyTree) -> Callable[[Vector], Vector]:
    """The map of v to v without its part along the orbit, all Aθ; for a matrix symmetry, of all invertible matrices."""
    arrays, _ = split(params)
    dtype = accumulation_dtype([array for array in group.only(arrays) if array is not None])
    project = group.across([array.astype(dtype) for array in arrays])

    def of_vector(vector: Vector) -> Vector:
        parts = project([part.astype(dtype) for part in _parts(vector, [array.shape for array in arrays])])
        return jnp.concatenate([part.ravel() for part in parts]).astype(vector.dtype)

    return of_vector


def _parts(vector: Vector, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """A vector in the order of `flatten` as arrays."""
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    return [part.reshape(shape) for part, shape in zip(jnp.split(vector, ends[:-1]), shapes, strict=True)]
