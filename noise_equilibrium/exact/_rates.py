"""Rates that are known in closed form: the alignment of signs, and the growth of a norm."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def sign_alignment_rate(
    noise_scale: Any, var_x: Any, var_noise: Any, gap: Any = 0.0, weight_decay: Any = 0.0
) -> Float[Array, ""]:
    """The rate at which every charge u_k u_l − w_k w_l of ℓ = (Σ_k u_k w_k x − y)² decays in continuous time.

    C_kl(t) = C_kl(0) exp(−4γt − 2σ² ∫Var(a) dt), a = 2 r x; for x ~ N(0, σ_x²), y = v x + ε, ε ~ N(0, σ_ε²),

        κ = 4γ + 2σ² Var(a),    Var(a) = 4σ_x² (σ_ε² + 2σ_x² Δ²),    Δ = Σ_k u_k w_k − v.

    All charges vanish in the end: u uᵀ = w wᵀ, so w = ±u, and the signs of u_k w_k are all equal (Section 5.1).

    Args:
        noise_scale: σ² = η/(2S).
        var_x: σ_x².
        var_noise: σ_ε².
        gap: Δ, 0 at the minimum; E Δ² may be put in by its root.
        weight_decay: γ.

    Not checked: that the variances and γ are not negative, and that x and ε are Gaussian.

    Source: theory, "Solvable case".

    Examples:
        >>> import noise_equilibrium as ne
        >>> sgd = ne.SGD(learning_rate=0.005, batch_size=1)
        >>> round(float(ne.exact.sign_alignment_rate(sgd.noise_scale, 1.0, 0.25)), 6)  # 8σ²σ_x²σ_ε²
        0.005
    """
    variance = 4 * jnp.asarray(var_x) * (jnp.asarray(var_noise) + 2 * jnp.asarray(var_x) * jnp.asarray(gap) ** 2)
    return 4 * jnp.asarray(weight_decay) + 2 * jnp.asarray(noise_scale) * variance


def scale_invariant_norm(
    norm: Any, noise: Any, noise_scale: Any, times: ArrayLike, weight_decay: Any = 0.0
) -> Float[Array, " times"]:
    """‖θ(t)‖ of a scale-invariant loss under the SDE, with its angles at rest (ours; Eq. (24), Figures 1 and 7).

        ‖θ(t)‖⁴ = ‖θ(0)‖⁴ e^{−8γt} + 4σ²K (1 − e^{−8γt})/(8γ),    K = ‖θ‖² Tr Σ(θ),

    so that ‖θ‖⁴ grows by 4σ²K t without weight decay, and goes to σ²K/(2γ) with it.

    Args:
        norm: ‖θ(0)‖.
        noise: K, which does not depend on ‖θ‖.
        noise_scale: σ² = η/(2S).
        times: times, η × steps.
        weight_decay: γ ≥ 0.

    Not checked: the signs of these numbers, and that the direction of θ is at its minimum from the start.

    Source: Eq. (7) for the charge ‖θ‖² with Tr Σ(θ) = K/‖θ‖²; theory, "Scaling in closed form".

    Examples:
        >>> import noise_equilibrium as ne
        >>> ne.exact.scale_invariant_norm(1.0, 2.0, 0.5, [0.0, 3.75]).tolist()  # 1, (1 + 4·0.5·2·3.75)^{1/4}
        [1.0, 2.0]
    """
    times, decay = jnp.asarray(times), jnp.asarray(weight_decay)
    exponent = 8 * decay * times
    # (1 − e^{−x})/x, which is 1 at 0.
    # `expm1` loses no digits where γt is small; the inner choice keeps 0/0 out of derivatives.
    share = jnp.where(exponent == 0, 1, -jnp.expm1(-exponent) / jnp.where(exponent == 0, 1, exponent))
    grown = 4 * jnp.asarray(noise_scale) * jnp.asarray(noise) * times * share
    return (jnp.asarray(norm) ** 4 * jnp.exp(-exponent) + grown) ** 0.25
