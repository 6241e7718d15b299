"""The valley of a minimum, ker H, and the spread of SGD across it: H Cov + Cov H = Σ."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linalg import eigh

Matrix = Float[Array, "P P"]


class Stationary(NamedTuple):
    """What a Hessian and a noise say of the valley.

    Attributes:
        covariance: Cov, of both directions across the valley, or one across and one along.
        along: P_T, the projector on the valley.
        inverse: H⁺ on the range of H.
        curvatures: the eigenvalues of H, ascending; without derivatives.
    """

    covariance: Matrix
    along: Matrix
    inverse: Matrix
    curvatures: Float[Array, " P"]


@jax.custom_jvp
def stationary(hessian: Matrix, sigma: Matrix, floor: Float[Array, " 2"]) -> Stationary:
    """Cov, P_T and H⁺, with first derivatives at repeated eigenvalues too, as long as the ranks do not change.

    Args:
        hessian: H, symmetric.
        sigma: Σ, symmetric.
        floor: two numbers: the share of the largest curvature, and the size, below which a curvature is none.
            Directions of negative curvature beyond it, where there is no minimum, are neither along nor across.
    """
    values, vectors = eigh(hessian)
    return _stationary(kinds_of(values, floor), vectors, sigma)._replace(curvatures=values)


class Spectrum(NamedTuple):
    """Curvatures, 0 unless across the valley, and which of them are across and along."""

    values: Float[Array, " P"]
    across: Any
    flat: Any


def kinds_of(values: Array, floor: Array) -> Spectrum:
    """Which of ascending curvatures are across the valley, and which along it."""
    least = jnp.maximum(floor[0] * jnp.max(jnp.abs(values)), floor[1])
    across, flat = values > least, jnp.abs(values) <= least
    return Spectrum(jnp.where(across, values, 0), across, flat)


def _stationary(kinds: Spectrum, vectors: Matrix, sigma: Matrix) -> Stationary:
    inside = _product(vectors.T, sigma, vectors)
    inverse = jnp.where(kinds.across, 1 / jnp.where(kinds.across, kinds.values, 1), 0)
    return Stationary(
        _product(vectors, halved(kinds, inside), vectors.T),
        _product(jnp.where(kinds.flat, vectors, 0), vectors.T),
        _product(vectors * inverse, vectors.T),
        kinds.values,
    )


def halved(kinds: Spectrum, inside: Matrix) -> Matrix:
    """The solution X of HX + XH = … in the eigenbasis of H, where at least one direction is across and none is odd."""
    usable = kinds.across | kinds.flat
    paired = (kinds.across[:, None] | kinds.across) & usable[:, None] & usable
    sums = kinds.values[:, None] + kinds.values
    return jnp.where(paired, inside / jnp.where(paired, sums, 1), 0)


@stationary.defjvp
def _stationary_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Any, Any]:
    """From H Cov + Cov H = Σ − P_TΣP_T and from P_T as a function of H, in the eigenbasis of H.

    dP_T turns the valley: −H⁺dH P_T and its transpose; nothing else of it depends on eigenvectors.
    """
    (matrix, sigma, floor), (change, noise, _) = primals, tangents
    values, vectors = eigh(matrix)
    kinds = kinds_of(values, floor)
    found = _stationary(kinds, vectors, sigma)._replace(curvatures=values)
    along, inverse, covariance = found.along, found.inverse, found.covariance
    change = (change + change.T) / 2
    turned = -_product(inverse, change, along)
    d_along = turned + turned.T
    d_noise = noise - _product(d_along, sigma, along) - _product(along, sigma, d_along) - _product(along, noise, along)
    right = d_noise - _product(change, covariance) - _product(covariance, change)
    d_covariance = _product(vectors, halved(kinds, _product(vectors.T, right, vectors)), vectors.T)
    # P_T Cov P_T = 0 while P_T turns.
    back = _product(along, d_along, covariance, along)
    d_covariance = d_covariance - back - back.T
    squares = _product(inverse, inverse, change, along)
    d_inverse = squares + squares.T - _product(inverse, change, inverse)
    return found, Stationary(d_covariance, d_along, d_inverse, jnp.zeros_like(values))


def _product(*factors: Array) -> Array:
    product = factors[0]
    for factor in factors[1:]:
        product = jnp.matmul(product, factor, precision=jax.lax.Precision.HIGHEST)
    return product
