"""The trace of the Hessian of linear networks: Proposition 5.3 and Eq. (15)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._validate import integer
from ._inputs import covariance, teacher_arrays, weights
from ._minimum import global_minimum


def hessian_trace(U: ArrayLike, W: ArrayLike, cov_x: ArrayLike) -> Float[Array, ""]:
    """Tr ∇²L = 2(d_y Tr[W Σ_x Wᵀ] + Tr[Σ_x] Tr[UᵀU]) for L = E‖UWx − y‖², at every point: Proposition 5.3.

    It does not depend on y: ℓ is quadratic in U and in W. Weight decay adds 2γ for every parameter.

    Args:
        U: (d_y, d_h).
        W: (d_h, d_x).
        cov_x: Σ_x = E[xxᵀ], (d_x, d_x), positive definite.

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is not positive definite.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> float(ne.exact.hessian_trace(np.eye(2), 3 * np.eye(2), np.eye(2)))  # 2(2·18 + 2·2)
        80.0
    """
    return deep_hessian_trace([W, U], cov_x)


def deep_hessian_trace(params: Sequence[ArrayLike], cov_x: ArrayLike) -> Float[Array, ""]:
    """Tr ∇²L of L = E‖W_D ⋯ W_1 x − y‖², at every point (ours).

        Tr ∇²L = 2 Σ_i ‖W_D ⋯ W_{i+1}‖² Tr[(W_{i−1} ⋯ W_1) Σ_x (W_{i−1} ⋯ W_1)ᵀ],

    an empty product is the identity.

    Args:
        params: [W_1, …, W_D].
        cov_x: Σ_x = E[xxᵀ], (d_x, d_x), positive definite.

    Raises:
        ValueError: for no weight, shapes that do not fit, or a covariance that is not positive definite.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> float(ne.exact.deep_hessian_trace([np.eye(1), 2 * np.eye(1), 3 * np.eye(1)], np.eye(1)))  # 2(6² + 3² + 2²)
        98.0
    """
    layers = weights(params)
    if not layers:
        raise ValueError("params is empty; expected the weights [W_1, …, W_D], at least one.")
    cov_x = covariance(cov_x, layers[0].shape[1], "cov_x", layers[0].dtype)
    with jax.default_matmul_precision("highest"):
        inputs = [cov_x]
        for weight in layers[:-1]:
            inputs.append(weight @ inputs[-1] @ weight.T)
        outputs = [jnp.eye(layers[-1].shape[0], dtype=cov_x.dtype)]
        for weight in layers[:0:-1]:
            outputs.append(outputs[-1] @ weight)
        terms = [jnp.trace(gram) * jnp.sum(rest**2) for gram, rest in zip(inputs, reversed(outputs), strict=True)]
    return 2 * jnp.sum(jnp.stack(terms))


def initial_hessian_trace(cov_x: ArrayLike, width: int, d_out: int, var_up: Any, var_down: Any) -> Float[Array, ""]:
    """E Tr ∇²L = 2 d_y d_h Tr[Σ_x] (σ_U² + σ_W²) of independent weights with mean zero: Eq. (15), left.

    The names of initialisations are ambiguous, so variances are asked for. In the paper "Xavier" is 1/(d + d_h) for
    both layers, not Glorot's 2/(fan-in + fan-out), and "Kaiming" is 1/fan-in: 1/d_h for U and 1/d_x for W.

    Args:
        cov_x: Σ_x, (d_x, d_x), positive definite.
        width: d_h.
        d_out: d_y.
        var_up: σ_U², the variance of the entries of U.
        var_down: σ_W², that of the entries of W.

    Raises:
        ValueError: for a covariance that is not positive definite, or sizes that are no positive integers.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> d, d_h = 8, 16
        >>> float(ne.exact.initial_hessian_trace(np.eye(d), d_h, d, 1 / d_h, 1 / d))  # 2d(d + d_h), at equilibrium 4d²
        384.0
    """
    cov_x = covariance(cov_x, jnp.shape(cov_x)[0], "cov_x", jnp.result_type(float))
    total = jnp.asarray(var_up, cov_x.dtype) + jnp.asarray(var_down, cov_x.dtype)
    return 2 * integer(d_out, "d_out", 1) * integer(width, "width", 1) * jnp.trace(cov_x) * total


def equilibrium_hessian_trace(V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike, width: int) -> Float[Array, ""]:
    """Tr ∇²L at the noise equilibrium of Theorem 5.2, at the global minimum: Eq. (15), right, in general.

        Tr ∇²L = 2( d_y √(Tr Σ_x/ρ) Tr S' + √(ρ Tr Σ_x) Tr[S' Lᵀ Σ_ε⁻¹ L] ),    √Σ_ε UW √Σ_x = L S' Rᵀ, ρ = E‖r‖².

    Autoencoding of isotropic data with d_h ≥ d: 4d². With d_h < d and noise σ_ε²: 2 d d_h (a² + a⁻²),
    a⁴ = (d − d_h + dσ_ε²)/(dσ_ε²), above the paper's 4 d d_h, because the residual holds the unfitted part of x.

    Args:
        V: the teacher, (d_y, d_x), of any rank.
        cov_x: Σ_x, positive definite.
        cov_noise: Σ_ε, positive definite.
        width: d_h.

    Raises:
        ValueError: for shapes that do not fit, or covariances that are not positive definite.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> round(float(ne.exact.equilibrium_hessian_trace(np.eye(8), np.eye(8), 0.25 * np.eye(8), 3)), 1)
        115.5
    """
    V, cov_x, cov_noise = teacher_arrays(V, cov_x, cov_noise)
    with jax.default_matmul_precision("highest"):
        there = global_minimum(V, cov_x, cov_noise, integer(width, "width", 1))
        inputs = jnp.sqrt(there.trace_x / there.risk) * jnp.sum(there.values)
        outputs = jnp.sqrt(there.trace_x * there.risk) * jnp.sum(there.values * jnp.sum(there.up**2, axis=0))
    return 2 * (V.shape[0] * inputs + outputs)


def flattest_hessian_trace(V: ArrayLike, cov_x: ArrayLike) -> Float[Array, ""]:
    """The least Tr ∇²L of all global minima, 4 √(d_y Tr Σ_x) ‖V Σ_x^{1/2}‖_*, for d_h ≥ rank V.

    The noise equilibrium attains it if the label noise is isotropic and there is no weight decay; with anisotropic
    noise it is sharper.

    Args:
        V: the teacher, (d_y, d_x).
        cov_x: Σ_x, positive definite.

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is not positive definite.

    Source: theory, "Two-layer linear network" (a consequence of Proposition 5.3).
    """
    (V,) = weights([V])
    V, cov_x, _ = teacher_arrays(V, cov_x, jnp.eye(V.shape[0], dtype=V.dtype))
    there = global_minimum(V, cov_x, jnp.eye(V.shape[0], dtype=V.dtype), min(V.shape))
    return 4 * jnp.sqrt(V.shape[0] * there.trace_x) * jnp.sum(there.values)
