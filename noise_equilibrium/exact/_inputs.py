"""What the closed forms take: a teacher and two covariances, checked as far as they are known at call time."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._linalg import eigh


def teacher_arrays(V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike) -> tuple[Array, Array, Array]:
    """V, Σ_x and Σ_ε in the dtype of V.

    Raises:
        ValueError: if V is no finite matrix, or a covariance does not fit it or is not symmetric positive definite.
    """
    V = _matrix(V, "V")
    d_y, d_x = V.shape
    return V, covariance(cov_x, d_x, "cov_x", V.dtype), covariance(cov_noise, d_y, "cov_noise", V.dtype)


def covariance(matrix: ArrayLike, size: int, name: str, dtype: Any) -> Float[Array, "d d"]:
    """A covariance of this size.

    Raises:
        ValueError: if it has another shape, or is known and not symmetric positive definite.
    """
    if jnp.shape(matrix) != (size, size):
        raise ValueError(f"{name} has shape {jnp.shape(matrix)}; expected {(size, size)} to fit the weights.")
    if not isinstance(matrix, jax.core.Tracer):
        known = np.asarray(matrix, np.float64)
        values = np.linalg.eigvalsh(known) if np.isfinite(known).all() else np.array([np.nan])
        # Below a rounding of single precision, in which a covariance may come, a direction cannot be told from an empty
        # one.
        if not np.allclose(known, known.T) or not values[0] > 1e-7 * values[-1]:
            raise ValueError(
                f"{name} is not symmetric positive definite (least eigenvalue {values[0]:.3g}); expected inputs and "
                "label noise in every direction: without noise there no finite equilibrium is selected."
            )
    return jnp.asarray(matrix, dtype)


def weights(matrices: Sequence[ArrayLike]) -> list[Array]:
    """The weights [W_1, …, W_D] of a chain of layers.

    Raises:
        ValueError: if one is no matrix, or two neighbours do not fit.
    """
    arrays = [_matrix(matrix, f"weight {place + 1}") for place, matrix in enumerate(matrices)]
    for place, (lower, upper) in enumerate(itertools.pairwise(arrays)):
        if upper.shape[1] != lower.shape[0]:
            raise ValueError(
                f"weights {place + 1} and {place + 2} have shapes {lower.shape} and {upper.shape}; expected the "
                "columns of the second to be as many as the rows of the first."
            )
    return arrays


def symmetric_root(matrix: Float[Array, "d d"], power: float = 0.5) -> Float[Array, "d d"]:
    """The symmetric root Σ^{1/2} of a covariance, or another power of it."""
    values, vectors = eigh(matrix)
    values = jnp.maximum(values, jnp.finfo(values.dtype).eps * values[-1])  # rounding must not make one negative
    return (vectors * values**power) @ vectors.T


def _matrix(matrix: ArrayLike, name: str) -> Array:
    array = jnp.asarray(matrix)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected a matrix.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise ValueError(f"{name} holds a number that is not finite.")
    return array
