"""Linear systems whose derivatives need no eigenvectors: of least norm, and Lyapunov's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linalg import eigh

Vector = Float[Array, " n"]
Matrix = Float[Array, "n n"]


def least_norm_solution(matrix: Matrix, right: Vector) -> Vector:
    """The solution of least norm of a symmetric positive semidefinite system with its right side in the range."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    known = values > 64 * len(values) * jnp.finfo(values.dtype).eps * values[-1]
    inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)

    def solve(_: Callable[[Vector], Vector], right: Vector) -> Vector:
        return vectors @ (inverse * (vectors.T @ right))

    return jax.lax.custom_linear_solve(lambda x: matrix @ x, right, solve, transpose_solve=solve)


def lyapunov_solution(matrix: Matrix, right: Matrix) -> Matrix:
    """X of GX + XG = S for a positive definite G."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    sums = values[:, None] + values

    def solve(_: Callable[[Matrix], Matrix], right: Matrix) -> Matrix:
        return vectors @ ((vectors.T @ right @ vectors) / sums) @ vectors.T

    return jax.lax.custom_linear_solve(lambda x: matrix @ x + x @ matrix, right, solve, transpose_solve=solve)
