"""Lyapunov's equation, whose derivatives need no eigenvectors."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from .._linalg import eigh

Matrix = Float[Array, "n n"]


def lyapunov_solution(matrix: Matrix, right: Matrix) -> Matrix:
    """X of GX + XG = S for a positive definite G."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    sums = values[:, None] + values

    def solve(_: Callable[[Matrix], Matrix], right: Matrix) -> Matrix:
        return vectors @ ((vectors.T @ right @ vectors) / sums) @ vectors.T

    return jax.lax.custom_linear_solve(lambda x: matrix @ x + x @ matrix, right, solve, transpose_solve=solve)
