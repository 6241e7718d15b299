"""The drift along the valley from the whole Hessian and the whole Σ."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._double import in_double
from .._flow import AbstractLaw
from .._noise import gradient_covariance
from .._numbers import jit
from .._problem import Problem
from ._curvature import bend_of, curvature_of, hessian
from ._law import valley_scales
from ._motion import FLAT_OF_SLOPE, Motion, flat_share, relative_slope
from ._stationary import Stationary, stationary


@jit
def dense_motion(problem: Problem, params: PyTree, law: AbstractLaw) -> Motion:
    """The motion; first derivatives are right where the ranks of H and of Cov do not change."""
    with jax.default_matmul_precision("highest"):
        here = curvature_of(problem, params)
        theta, dtype = here.theta, here.theta.dtype
        scale, decay = valley_scales(law, problem, dtype)
        slope = here.slope(theta)
        sigma = gradient_covariance(problem, params).astype(dtype)
        found = stationary_at(hessian(here), sigma, slope, theta)
        along, largest = found.along, jnp.max(jnp.abs(found.curvatures))
        velocity = -scale * (along @ bend_of(here, found.covariance)) - 2 * decay * (along @ theta)
        flat = along @ sigma @ along
        noise = jnp.trace(sigma)
        share = jnp.where(noise > 0, jnp.trace(flat) / jnp.where(noise > 0, noise, 1), 0)

        def held() -> Array:
            # What keeps a random walk along the valley on it: the valley is curved (Itô).
            return -scale * (found.inverse @ bend_of(here, flat))

        velocity = velocity + jax.lax.cond(share > flat_share(dtype), held, lambda: jnp.zeros_like(velocity))
        return Motion(
            velocity=velocity,
            diffusion=2 * scale * jnp.trace(flat),
            share=share,
            error=jnp.zeros((), dtype),
            slope=relative_slope(slope, theta, largest),
            least=jnp.where(largest > 0, found.curvatures[0] / jnp.where(largest > 0, largest, 1), 0),
        )


def stationary_at(
    matrix: Float[Array, "P P"], sigma: Float[Array, "P P"], slope: Float[Array, " P"], theta: Float[Array, " P"]
) -> Stationary:
    """`stationary` in double precision, with the flat directions told by the precision and the slope of the point."""
    share = jnp.asarray(flat_share(theta.dtype), theta.dtype)
    steep, size = jnp.linalg.norm(slope), jnp.linalg.norm(theta)
    floor = jnp.stack([share, FLAT_OF_SLOPE * steep / jnp.where(size > 0, size, 1)])

    def plain(*arrays: Any) -> tuple[Any, ...]:
        return tuple(stationary(*arrays))

    return Stationary(*in_double(plain, matrix, sigma, jax.lax.stop_gradient(floor)))
