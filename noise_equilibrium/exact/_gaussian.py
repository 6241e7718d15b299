"""The noise of linear networks on Gaussian data: exact population moments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._noise import Moments
from ._inputs import teacher_arrays, weights


class ResidualMoments(NamedTuple):
    """Moments of the input x and the residual r = UWx − y.

    Attributes:
        risk: E‖r‖².
        cross: K = E[r xᵀ], (d_y, d_x); the gradient of the risk in UW is 2K.
        down: E[‖r‖²xxᵀ] − KᵀK, (d_x, d_x): Γ_W of Eq. (13) without weight decay.
        up: E[‖x‖²rrᵀ] − KKᵀ, (d_y, d_y): Γ_U likewise.
    """

    risk: Float[Array, ""]
    cross: Float[Array, "d_y d_x"]
    down: Float[Array, "d_x d_x"]
    up: Float[Array, "d_y d_y"]


def residual_moments(product: ArrayLike, V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike) -> ResidualMoments:
    """The moments of x and r = UWx − y for x ~ N(0, Σ_x), y = Vx + ε, ε ~ N(0, Σ_ε), at any product UW.

    With Δ = UW − V,

        E[‖r‖²xxᵀ] = (Tr[ΔᵀΔΣ_x] + Tr Σ_ε) Σ_x + 2 Σ_x ΔᵀΔ Σ_x,
        E[‖x‖²rrᵀ] = Δ (Tr[Σ_x] Σ_x + 2Σ_x²) Δᵀ + Tr[Σ_x] Σ_ε,        K = Δ Σ_x.

    Args:
        product: UW, (d_y, d_x).
        V: the teacher, (d_y, d_x).
        cov_x: Σ_x, positive definite.
        cov_noise: Σ_ε, positive definite.

    Raises:
        ValueError: for shapes that do not fit, or covariances that are not positive definite.

    Not checked: that x and ε are Gaussian.

    Source: theory, "Two-layer linear network" (Isserlis' theorem).
    """
    V, cov_x, cov_noise = teacher_arrays(V, cov_x, cov_noise)
    (product,) = weights([product])
    if product.shape != V.shape:
        raise ValueError(f"the product has shape {product.shape}; expected that of V, {V.shape}.")
    with jax.default_matmul_precision("highest"):
        gap = product - V
        cross = gap @ cov_x
        risk = jnp.trace(gap @ cross.T) + jnp.trace(cov_noise)
        # 2Σ_xΔᵀΔΣ_x − KᵀK = KᵀK, and 2ΔΣ_x²Δᵀ − KKᵀ = KKᵀ.
        down = risk * cov_x + cross.T @ cross
        up = jnp.trace(cov_x) * (gap @ cross.T + cov_noise) + cross @ cross.T
    return ResidualMoments(risk, cross, down, up)


def two_layer_moments(U: ArrayLike, W: ArrayLike, V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike) -> Moments:
    """The noise moments of the double rotation of ‖UWx − y‖², over the population of Gaussian data, at any point.

        M₊ = 4 W Γ_W Wᵀ,    M₋ = 4 Uᵀ Γ_U U,    M̄₊ = 4 W KᵀK Wᵀ,    M̄₋ = 4 Uᵀ KKᵀ U,    Γ of `residual_moments`.

    What `noise_moments` gives on infinitely many samples, and to rounding on `LinearTeacher.noise_matched()`.

    Args:
        U: (d_y, d_h).
        W: (d_h, d_x).
        V: the teacher, (d_y, d_x).
        cov_x: Σ_x, positive definite.
        cov_noise: Σ_ε, positive definite.

    Returns:
        `Moments`, from which any law makes a flow: `ne.SDE(0.01, 4).charge_law(problem).flow(moments)`.

    Raises:
        ValueError: for shapes that do not fit, or covariances that are not positive definite.
    """
    down, up = weights([W, U])
    with jax.default_matmul_precision("highest"):
        moments = residual_moments(up @ down, V, cov_x, cov_noise)
        return Moments(
            weight=(up.T @ up, down @ down.T),
            noise=(4 * down @ moments.down @ down.T, 4 * up.T @ moments.up @ up),
            mean=(4 * _gram(moments.cross @ down.T), 4 * _gram(moments.cross.T @ up)),
            powers=(1.0, -1.0),
        )


def _gram(matrix: Array) -> Array:
    return matrix.T @ matrix
