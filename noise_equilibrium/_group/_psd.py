"""Functions of symmetric positive semidefinite matrices of known rank, differentiable to any order.

Eigenvectors give the values and never the derivatives. A derivative is written with the functions themselves and the
solution of a linear equation, so it is right at equal eigenvalues and at rank deficiency; it assumes that the rank does
not change, which is what a smooth family of singular matrices has. Ranks are traced integers: shapes stay d × d, and
what lies outside the range is zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._linalg import eigh, expm

Matrix = Float[Array, "d d"]
Rank = Int[Array, ""]
SQUARINGS = 3


def spectrum(matrix: Matrix, rank: Rank) -> tuple[Float[Array, " d"], Matrix]:
    """Eigenvalues, zero outside the `rank` largest, and eigenvectors."""
    values, vectors = eigh(matrix)
    return jnp.where(jnp.arange(len(values)) >= len(values) - rank, values, 0), vectors


def largest(matrix: Matrix) -> Float[Array, ""]:
    """The largest eigenvalue, up to a factor d^(1/8) too much: (Tr M⁸)^(1/8)."""
    size = jnp.trace(matrix)
    power, exponent = matrix / jnp.where(size > 0, size, 1), 1
    logarithm = jnp.log(jnp.where(size > 0, size, 1))
    for _ in range(SQUARINGS):
        # Divided by its trace every time: the eighth power itself would leave the range of the numbers.
        power, exponent = power @ power, 2 * exponent
        trace = jnp.trace(power)
        power = power / jnp.where(trace > 0, trace, 1)
        logarithm = logarithm + jnp.log(jnp.where(trace > 0, trace, 1)) / exponent
    return jnp.where(size > 0, jnp.exp(logarithm), 0)


def lyapunov(matrix: Matrix, right: Matrix, cut: float | None = None) -> Matrix:
    """The X with M X + X M = right, zero where M acts as zero on both sides.

    Args:
        matrix: M.
        right: the right side.
        cut: sums of two eigenvalues up to this share of the largest are zero; 8dε if not given, and 0 where M is known
            to be regular.
    """
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    sums = values[:, None] + values[None, :]
    # Sums of eigenvalues are as good as these: to 8dε of the largest.
    share = 8 * len(values) * float(jnp.finfo(values.dtype).eps) if cut is None else cut
    known = sums > share * values[-1]
    inverse = jnp.where(known, 1 / jnp.where(known, sums, 1), 0)

    def solve(_: Callable[[Matrix], Matrix], right: Matrix) -> Matrix:
        return vectors @ (inverse * (vectors.T @ right @ vectors)) @ vectors.T

    # Symmetric for Tr[XY]; the equation itself is what is differentiated, so that gaps of eigenvalues never appear.
    return jax.lax.custom_linear_solve(lambda x: matrix @ x + x @ matrix, right, solve, symmetric=True)


@jax.custom_jvp
def pinv(matrix: Matrix, rank: Rank) -> Matrix:
    """The pseudo-inverse of a matrix of this rank."""
    values, vectors = spectrum(matrix, rank)
    inverse = jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
    return (vectors * inverse) @ vectors.T


@pinv.defjvp
def _pinv_jvp(primals: tuple[Matrix, Rank], tangents: tuple[Matrix, Rank]) -> tuple[Matrix, Matrix]:
    """dM⁺ at constant rank."""
    (matrix, rank), (change, _) = primals, tangents
    inverse = pinv(matrix, rank)
    # Golub and Pereyra (1973): at constant rank the range turns too, and `across` is what that adds to −M⁺ dM M⁺.
    outside = jnp.eye(len(matrix), dtype=matrix.dtype) - matrix @ inverse
    across = inverse @ inverse @ change @ outside
    return inverse, across + across.T - inverse @ change @ inverse


@jax.custom_jvp
def sqrt(matrix: Matrix, rank: Rank) -> Matrix:
    """The square root of a matrix of this rank."""
    values, vectors = spectrum(matrix, rank)
    # The smallest of the eigenvalues inside may be negative by rounding.
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


@sqrt.defjvp
def _sqrt_jvp(primals: tuple[Matrix, Rank], tangents: tuple[Matrix, Rank]) -> tuple[Matrix, Matrix]:
    """The solution of R dR + dR R = dM for R² = M, at constant rank."""
    (matrix, rank), (change, _) = primals, tangents
    root = sqrt(matrix, rank)
    inverse = pinv(root, rank)
    inside = root @ inverse
    outside = jnp.eye(len(matrix), dtype=matrix.dtype) - inside
    # From the range to its complement the root of one side is 0, so there R dR = dM: no equation is left to solve.
    across = inverse @ change @ outside
    return root, inside @ lyapunov(root, inside @ change @ inside) @ inside + across + across.T


@jax.custom_jvp
def log(matrix: Matrix) -> Matrix:
    """The logarithm of a positive definite matrix."""
    values, vectors = eigh(matrix)
    return (vectors * jnp.log(values)) @ vectors.T


@log.defjvp
def _log_jvp(primals: tuple[Matrix], tangents: tuple[Matrix]) -> tuple[Matrix, Matrix]:
    """The inverse of the derivative of the exponential."""
    (matrix,), (change,) = primals, tangents
    exponent = log(matrix)
    values, vectors = eigh(jax.lax.stop_gradient(exponent))
    half = (values[:, None] - values[None, :]) / 2
    # (e^a − e^b)/(a − b) = e^{(a+b)/2} sinh(h)/h with h = (a − b)/2, which has no cancellation.
    sinhc = jnp.where(half == 0, 1, jnp.sinh(half) / jnp.where(half == 0, 1, half))
    slopes = jnp.exp((values[:, None] + values[None, :]) / 2) * sinhc

    def derivative_of_exp(direction: Matrix) -> Matrix:
        return jax.jvp(expm, (exponent,), (direction,))[1]

    def solve(_: Callable[[Matrix], Matrix], right: Matrix) -> Matrix:
        return vectors @ ((vectors.T @ right @ vectors) / slopes) @ vectors.T

    return exponent, jax.lax.custom_linear_solve(derivative_of_exp, change, solve, symmetric=True)
