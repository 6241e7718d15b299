"""The global minimum of a linear network, in the coordinates in which its equilibrium is diagonal."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._linalg import svd
from ._inputs import symmetric_root


class Minimum(NamedTuple):
    """The best product P of rank at most k, and √Σ_ε P √Σ_x = L S' Rᵀ.

    Attributes:
        left: L, orthonormal columns.
        values: S', descending; zeros beyond the rank.
        right: R, orthonormal columns.
        fitted: whether a singular value counts, or is zero to rounding.
        up: Σ_ε^{-1/2} L.
        down: Rᵀ Σ_x^{-1/2}.
        trace_x: Tr Σ_x.
        risk: E‖r‖² = Tr Σ_ε + Tr[ΔᵀΔΣ_x], Δ = P − V what is left unfitted.
    """

    left: Float[Array, "d_y k"]
    values: Float[Array, " k"]
    right: Float[Array, "d_x k"]
    fitted: Array
    up: Float[Array, "d_y k"]
    down: Float[Array, "k d_x"]
    trace_x: Float[Array, ""]
    risk: Float[Array, ""]


def global_minimum(V: Array, cov_x: Array, cov_noise: Array, size: int) -> Minimum:
    """The global minimum of E‖P x − y‖² over matrices P of rank at most `size`.

    P √Σ_x is the best approximation of V √Σ_x of that rank; for V of smaller rank P = V. Where two singular values at
    the cut are equal, one of the minima.
    """
    root_x, root_noise = symmetric_root(cov_x), symmetric_root(cov_noise)
    whitened, unfitted = V @ root_x, jnp.zeros((), V.dtype)
    k = min(size, *V.shape)
    if size < min(V.shape):
        outer, values, inner = svd(whitened)
        whitened = (outer[:, :k] * values[:k]) @ inner[:k]
        # Tr[ΔᵀΔΣ_x] is what the best approximation leaves over: the squares of the singular values that are cut off.
        unfitted = jnp.sum(values[k:] ** 2)
    left, values, right = svd(root_noise @ whitened)
    left, values, right = left[:, :k], values[:k], right[:k].T
    # Singular values err by some dε of the largest.
    fitted = values > 8 * max(V.shape) * jnp.finfo(V.dtype).eps * values[0]
    return Minimum(
        left=left,
        values=jnp.where(fitted, values, 0),
        right=right,
        fitted=fitted,
        up=symmetric_root(cov_noise, -0.5) @ left,
        down=right.T @ symmetric_root(cov_x, -0.5),
        trace_x=jnp.trace(cov_x),
        risk=jnp.trace(cov_noise) + unfitted,
    )
