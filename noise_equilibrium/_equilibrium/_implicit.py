"""The implicit function theorem at a point that is already a solution, to any order.

The Jacobian of n flows in n elements is a matrix for few of them, n ≤ `DENSE`. For more it is known by its products
alone, each a forward derivative of one pass over the data, and the system is solved by conjugate gradients: on an axis
of d = 512 there are 131,328 elements, and the matrix would take 138 GB.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._linalg import least_norm_solution

# The most elements of which the Jacobian is built, an axis of 32 for matrices: n passes over the data and n³ time, in
# seconds. Conjugate gradients need some hundred passes, whatever n is, but leave out null directions less sharply.
DENSE = 600
COLUMNS = 64  # at once: each holds a pass over the data
# Passes after which conjugate gradients give up, if the system is that ill-conditioned.
MOST_PASSES = 2000

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
    # A function with a derivative of its own sees only its arguments: what the flow closes over, and is differentiated,
    # must be among them.
    pure, numbers = jax.closure_convert(flow, zero)
    return _zero(pure, zero, tuple(numbers))


def _as_zero(pure: Callable[..., Vector], zero: Vector, numbers: Sequence[Array]) -> Vector:
    return zero


_zero = jax.custom_jvp(_as_zero, nondiff_argnums=(0,))


@_zero.defjvp
def _zero_jvp(pure, primals, tangents):
    """dξ = −J⁺ dF with J = ∂F/∂ξ."""
    (zero, numbers), (_, changes) = primals, tangents
    # The solution again, not `zero`: so its derivative is this rule too, and derivatives of all orders follow.
    solution = _zero(pure, zero, numbers)
    change = jax.jvp(lambda *numbers: pure(solution, *numbers), tuple(numbers), tuple(changes))[1]

    # Minus the Jacobian, for the flow is the gradient of a concave function: positive semidefinite, as both solvers
    # need it.
    def descent(x: Vector) -> Vector:
        return -jax.jvp(lambda x: pure(x, *numbers), (solution,), (x,))[1]

    size = len(solution)
    if size > DENSE:
        return solution, _least_norm_by_products(descent, change)
    units = jnp.eye(size, dtype=solution.dtype)
    columns = jax.vmap(descent)(units) if size <= COLUMNS else jax.lax.map(descent, units, batch_size=COLUMNS)
    return solution, least_norm_solution(columns.T, change)


def _least_norm_by_products(product: Callable[[Vector], Vector], right: Vector) -> Vector:
    """The same for a matrix that is known by its products."""
    return jax.lax.custom_linear_solve(product, right, _pseudo_inverse, transpose_solve=_pseudo_inverse)


def _pseudo_inverse(product: Callable[[Vector], Vector], right: Vector) -> Vector:
    """A⁺b. What b has outside of the range of A, which would make conjugate gradients diverge, A⁺(Ab) is without."""
    return _conjugate_gradients(product, _conjugate_gradients(product, product(right)))


def _conjugate_gradients(product: Callable[[Vector], Vector], right: Vector) -> Vector:
    """The solution of least norm, for a right side in the range: started at 0, all vectors stay there.

    Until the residual is small, or is all rounding in the null space, where a direction has no curvature and would go
    too far; the solvers of libraries do not stop there.
    """
    eps = float(jnp.finfo(right.dtype).eps)
    enough = eps**1.6 * jnp.vdot(right, right)  # of the squared residual
    # As in `least_norm_solution`: a curvature below n roundings of the largest is none.
    flat = 64 * len(right) * eps

    def goes_on(state: _Descent) -> Array:
        return (state.square > enough) & ~state.flat & (state.passes < MOST_PASSES)

    def step(state: _Descent) -> _Descent:
        image = product(state.direction)
        curvature, length = jnp.vdot(state.direction, image), jnp.vdot(state.direction, state.direction)
        largest = jnp.maximum(state.largest, curvature / length)
        is_flat = ~(curvature > flat * largest * length)
        # The inner choice keeps a step of infinite length out of the branch that is not taken.
        far = jnp.where(is_flat, 0, state.square / jnp.where(is_flat, 1, curvature))
        residual = state.residual - far * image
        square = jnp.vdot(residual, residual)
        direction = residual + square / state.square * state.direction
        solution = state.solution + far * state.direction
        return _Descent(solution, residual, direction, square, largest, is_flat, state.passes + 1)

    nothing = jnp.zeros((), right.dtype)
    start = _Descent(
        jnp.zeros_like(right), right, right, jnp.vdot(right, right), nothing, jnp.asarray(False), jnp.asarray(0)
    )
    return jax.lax.while_loop(goes_on, step, start).solution


class _Descent(NamedTuple):
    """The state of conjugate gradients: `square` is that of the residual, `flat` says that a direction is null."""

    solution: Vector
    residual: Vector
    direction: Vector
    square: Float[Array, ""]
    largest: Float[Array, ""]
    flat: Bool[Array, ""]
    passes: Int[Array, ""]
