"""The implicit function theorem at a point that is already a solution, to any order."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linalg import eigh

Vector = Float[Array, " n"]


def implicit_zero(flow: Callable[[Vector], Vector], size: int, dtype: Any) -> Vector:
    """ξ = 0, with the derivatives of the solution ξ of flow(ξ) = 0; nothing is computed until one is taken.

    Args:
        flow: a function that vanishes at 0, and is there the gradient of a concave function; it may close over numbers
            that are being differentiated.
        size: the length of ξ.
        dtype: its dtype.

    Directions in which the flow does not change, as where nothing acts or a leg is empty, are not moved: the solution
    is that of least norm.
    """
    zero = jnp.zeros(size, dtype)
    pure, numbers = jax.closure_convert(flow, zero)
    return _zero(pure, zero, tuple(numbers))


def _as_zero(pure: Callable[..., Vector], zero: Vector, numbers: Sequence[Array]) -> Vector:
    return zero


_zero = jax.custom_jvp(_as_zero, nondiff_argnums=(0,))


@_zero.defjvp
def _zero_jvp(pure, primals, tangents):
    (zero, numbers), (_, changes) = primals, tangents
    solution = _zero(pure, zero, numbers)
    change = jax.jvp(lambda *numbers: pure(solution, *numbers), tuple(numbers), tuple(changes))[1]
    jacobian = jax.jacfwd(lambda x: pure(x, *numbers))(solution)
    return solution, _least_norm_solution(-jacobian, change)


def _least_norm_solution(matrix: Float[Array, "n n"], right: Vector) -> Vector:
    """The solution of least norm of a symmetric positive semidefinite system."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    known = values > 64 * len(values) * jnp.finfo(values.dtype).eps * values[-1]
    inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)

    def solve(_: Callable[[Vector], Vector], right: Vector) -> Vector:
        return vectors @ (inverse * (vectors.T @ right))

    # The matrix is symmetric here, where the flow vanishes, but its change need not be.
    return jax.lax.custom_linear_solve(lambda x: matrix @ x, right, solve, transpose_solve=solve)
