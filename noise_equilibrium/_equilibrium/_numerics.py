"""Small numerics that every search needs: relative flows, and norms with derivatives."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def relative_flow(lowers: Array, raises: Array) -> Float[Array, ""]:
    """‖T − R‖ / (‖T‖ + ‖R‖), 0/0 := 0, with derivative 0 where the flow vanishes."""
    numerator, denominator = norm(raises - lowers), norm(raises) + norm(lowers)
    # Two choices: where only the result is chosen, the derivative of 0/0 in the other branch would make that of both
    # NaN.
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def norm(array: Array) -> Float[Array, ""]:
    """The 2-norm of all entries, with derivative 0 at 0."""
    # The root of a sum of squares has an infinite slope at 0, and 0 · ∞ is NaN: hence again two choices.
    square = jnp.sum(array**2)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
