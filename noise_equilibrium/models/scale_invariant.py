"""Regression by a direction: ℓ = (x·θ/‖θ‖ − y)², which does not know ‖θ‖; in two dimensions the toy of Figure 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._symmetry import scaling

Params = Float[Array, " d"]
"""θ, not zero."""


def predict(params: Params, x: Float[Array, " d"]) -> Float[Array, ""]:
    """x·θ/‖θ‖."""
    return jnp.vdot(x, params) / jnp.linalg.norm(params)


def loss(params: Params, sample: tuple[Float[Array, " d"], Float[Array, ""]]) -> Float[Array, ""]:
    """(x·θ/‖θ‖ − y)²; no factor ½. Not differentiable at θ = 0."""
    x, y = sample
    return (predict(params, x) - y) ** 2


symmetry = scaling()
"""θ → (1+ρ)θ; its charge is ‖θ‖², Eq. (24)."""
