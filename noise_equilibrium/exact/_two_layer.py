"""The noise equilibrium of a two-layer linear network: Theorem 5.2."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._linalg import svd
from .._validate import integer
from ..models.two_layer_linear import Params
from ._deep_linear import deep_linear_equilibrium
from ._inputs import covariance, symmetric_root, weights


def two_layer_equilibrium(V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike, width: int) -> Params:
    """The noise equilibrium at the global minimum without weight decay: Theorem 5.2, W Σ̄_x Wᵀ = Uᵀ Σ̄_ε U, Eq. (14).

    Bars: divided by the trace. With fewer hidden units than rank V the product UW is the best one of that rank, and
    Tr Σ_ε in Σ̄_ε is replaced by the risk E‖r‖², which holds the unfitted part of x (the correction to Eq. (15)).

    Args:
        V: the teacher, (d_y, d_x), of any rank.
        cov_x: Σ_x, (d_x, d_x), positive definite.
        cov_noise: Σ_ε, (d_y, d_y), positive definite.
        width: d_h, the number of hidden units.

    Returns:
        (U, W), of shapes (d_y, d_h) and (d_h, d_x), as `models.two_layer_linear.Params`. One representative: hidden
        layers that differ by a rotation are equivalent; compare UUᵀ and WᵀW.

    Raises:
        ValueError: for shapes that do not fit, or covariances that are not positive definite.

    Source: theory, "Two-layer linear network".

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> U, W = ne.exact.two_layer_equilibrium(np.diag([4.0, 1.0]), np.eye(2), np.eye(2), 2)
        >>> np.round(U @ U.T, 4).tolist(), np.round(W.T @ W, 4).tolist()
        ([[4.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]])
    """
    down, up = deep_linear_equilibrium(V, cov_x, cov_noise, [width])
    return Params(up, down)


def balanced_factors(product: ArrayLike, down_noise: ArrayLike, up_noise: ArrayLike, width: int) -> Params:
    """The factors of a product that balance given noise, W Γ_W Wᵀ = Uᵀ Γ_U U: Theorem 5.2 at any point, Eq. (13).

    With √Γ_U UW √Γ_W = L S' Rᵀ: √Γ_U U = L √S' and W √Γ_W = √S' Rᵀ, up to a rotation of the hidden layer.

    Args:
        product: UW, (d_y, d_x), of rank at most the width (the rest is cut off).
        down_noise: Γ_W = E[‖r‖²xxᵀ] − KᵀK + (γ/2σ²) I, (d_x, d_x), positive definite; see `residual_moments`.
        up_noise: Γ_U = E[‖x‖²rrᵀ] − KKᵀ + (γ/2σ²) I, (d_y, d_y), positive definite.
        width: d_h.

    Returns:
        (U, W), of shapes (d_y, d_h) and (d_h, d_x).

    Raises:
        ValueError: for shapes that do not fit, or Γ that are not positive definite.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> U, W = ne.exact.balanced_factors(6 * np.eye(1), 4 * np.eye(1), np.eye(1), 1)
        >>> round(float(abs(U[0, 0])), 4), round(float(abs(W[0, 0])), 4)  # 4 w² = u², u w = 6
        (3.4641, 1.7321)
    """
    (product,) = weights([product])
    d_y, d_x = product.shape
    width = integer(width, "width", 1)
    down_noise = covariance(down_noise, d_x, "down_noise", product.dtype)
    up_noise = covariance(up_noise, d_y, "up_noise", product.dtype)
    with jax.default_matmul_precision("highest"):
        left, values, right = svd(symmetric_root(up_noise) @ product @ symmetric_root(down_noise))
        root = jnp.sqrt(values[:width])
        up = symmetric_root(up_noise, -0.5) @ (left[:, :width] * root)
        down = (root[:, None] * right[:width]) @ symmetric_root(down_noise, -0.5)
    return Params(_padded(up, (d_y, width)), _padded(down, (width, d_x)))


def balanced_minimum(V: ArrayLike, width: int) -> Params:
    """The factors of V of least norm, UᵀU = WWᵀ: where small weight decay alone puts them.

    The baseline of Figure 3. It is the noise equilibrium for white inputs and white noise of equal dimension.

    Args:
        V: the product, (d_y, d_x).
        width: d_h, at least rank V (the rest is cut off).

    Returns:
        (U, W), of shapes (d_y, d_h) and (d_h, d_x).

    Raises:
        ValueError: if V is no matrix.
    """
    (V,) = weights([V])
    return balanced_factors(V, jnp.eye(V.shape[1], dtype=V.dtype), jnp.eye(V.shape[0], dtype=V.dtype), width)


def _padded(matrix: Array, shape: tuple[int, int]) -> Float[Array, "a b"]:
    rows, columns = (size - have for size, have in zip(shape, matrix.shape, strict=True))
    return jnp.pad(matrix, ((0, rows), (0, columns)))
