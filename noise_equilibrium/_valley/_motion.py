"""The slow motion along the minima: what is known of it, and the warnings that belong to it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._per_sample import warn_user

# Curvatures below this share of the largest are none: of double precision, and of single.
FLAT = {True: 1e-6, False: 1e-4}
# ‖∇L‖/(h‖θ‖), h the largest curvature, gives the directions of the valley curvatures of up to about this share of h.
FARTHEST = 1e-3
FLAT_OF_SLOPE = 8.0


class ValleyMotion(eqx.Module):
    """The slow motion of SGD along the minima of the data loss, per unit of time η × steps.

    Attributes:
        velocity: the drift, decay included; a pytree like params.
        diffusion: 2σ² Tr[P_TΣ], the square of the distance that noise along the valley moves the parameters per unit of
            time, a random walk on top of the drift; 0 to rounding where all directions of the valley are symmetries.
        share: Tr[P_TΣ]/Tr Σ, the part of the noise that is along the valley.
        error: the standard error of the velocity, in norm; 0 where nothing was sampled.
        slope: ‖∇L‖/(h‖θ‖), h the largest curvature: how far params are from a minimum.
        least: the smallest curvature as a share of the largest; negative beyond rounding at a saddle.
    """

    velocity: PyTree
    diffusion: Float[Array, ""]
    share: Float[Array, ""]
    error: Float[Array, ""]
    slope: Float[Array, ""]
    least: Float[Array, ""]


class Motion(NamedTuple):
    """The same with the velocity as one vector."""

    velocity: Float[Array, " P"]
    diffusion: Float[Array, ""]
    share: Float[Array, ""]
    error: Float[Array, ""]
    slope: Float[Array, ""]
    least: Float[Array, ""]


def flat_share(dtype: Any) -> float:
    """The share of the largest curvature below which a curvature is none."""
    return FLAT[bool(jnp.finfo(dtype).eps < 1e-12)]


def relative_slope(slope: Float[Array, " P"], theta: Float[Array, " P"], largest: Array) -> Float[Array, ""]:
    """‖∇L‖/(h‖θ‖), 0/0 := 0."""
    steep, size = jnp.linalg.norm(slope), largest * jnp.linalg.norm(theta)
    return jnp.where(steep == 0, 0, jnp.where(size > 0, steep / jnp.where(size > 0, size, 1), jnp.inf))


def require_minimum(slope: Any, least: Any, flat: float, what: str) -> None:
    """Raise a ValueError outside of transformations, if a point is no minimum of the loss.

    Args:
        slope: the relative slope there.
        least: the smallest curvature as a share of the largest.
        flat: the share that is none.
        what: the work, for messages.
    """
    if isinstance(slope, jax.core.Tracer):
        return
    slope, least = float(slope), float(least)
    mend = "Start from a minimum, such as ne.predict(...).minimum."
    if not slope <= FARTHEST:
        raise ValueError(
            f"{what} is about minima of the data loss, and ‖∇L‖ is {slope:.3g} of the largest curvature times ‖θ‖; "
            f"expected at most {FARTHEST}. {mend}"
        )
    if not least >= -max(flat, FLAT_OF_SLOPE * slope):
        raise ValueError(
            f"{what} is about minima of the data loss, and this point is a saddle: the least curvature is {least:.3g} "
            f"of the largest. {mend}"
        )


def warn_along(share: Any, flat: float, what: str) -> None:
    """Warn outside of transformations, if noise acts along the valley."""
    if not isinstance(share, jax.core.Tracer) and float(share) > flat:
        warn_user(
            f"{float(share):.3g} of the gradient noise is along the valley, which SGD also diffuses on: {what} is the "
            "drift alone; see .diffusion of valley_motion."
        )
