"""The drift along the valley by Hessian–vector products, averaged over draws of the linearised process.

The stationary covariance of dx = −Hx dt + √Σ dW is the mean over noises n ~ N(0, Σ) of the solution C of
HC + CH = nnᵀ. In the Krylov space of H and n, with H = V T Vᵀ there, it is V Y Vᵀ with TY + YT = ‖n‖² e₁e₁ᵀ, a small
equation: what is simulated by time steps elsewhere is solved here, for all times at once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._flow import AbstractLaw, krylov
from .._linalg import eigh
from .._noise import noise_weights
from .._numbers import jit
from .._parameters import flatten
from .._problem import Problem, weighted_gradient
from ._curvature import Curvature, Vector, curvature_of
from ._law import valley_scales
from ._motion import FLAT_OF_SLOPE, Motion, flat_share, relative_slope
from ._stationary import halved, kinds_of

DRAWS = 8  # in a group, which is projected on the valley as one
LEAST_GROUPS, MOST_GROUPS = 8, 128
ENOUGH = 0.05  # of the velocity, for its standard error
BASIS, BASIS_BYTES = 96, 2**30
LEAST_BASIS = 16
MOST_PRODUCTS = 2000  # of one projection


@jit
def sampled_motion(problem: Problem, params: PyTree, law: AbstractLaw, key: PRNGKeyArray | None) -> Motion:
    """The motion, its standard error included."""
    with jax.default_matmul_precision("highest"):
        here = curvature_of(problem, params)
        theta, dtype = here.theta, here.theta.dtype
        key = jax.random.key(0) if key is None else key
        scale, decay = valley_scales(law, problem, dtype)
        most = min(BASIS, max(LEAST_BASIS, BASIS_BYTES // (len(theta) * dtype.itemsize)), len(theta))
        slope = here.slope(theta)
        any_vector = jax.random.normal(jax.random.fold_in(key, 0), theta.shape, dtype)
        spectrum = eigh(krylov(here.product, any_vector, most)[1])[0]
        largest = jnp.max(jnp.abs(spectrum))
        size = jnp.linalg.norm(theta)
        level = FLAT_OF_SLOPE * jnp.linalg.norm(slope) / jnp.where(size > 0, size, 1)
        floor = jnp.stack([jnp.zeros((), dtype), jnp.maximum(flat_share(dtype) * largest, level)])

        def draw(key: PRNGKeyArray) -> tuple[Vector, Array, Array, Array]:
            for_noise, for_signs = jax.random.split(key)
            weights = noise_weights(for_noise, problem.num_samples, dtype)
            noise = flatten(weighted_gradient(problem, params, problem.data, weights))[0].astype(dtype)
            return _of_noise(here, noise, floor, most, for_signs)

        def group(place: Array) -> tuple[Vector, Array, Array, Array]:
            keys = jax.random.split(jax.random.fold_in(key, place + 1), DRAWS)
            bends, flats, squares, losses = jax.lax.map(draw, keys)
            along = _on_valley(here, jnp.mean(bends, axis=0))
            return along, jnp.mean(flats), jnp.mean(squares), jnp.mean(losses)

        def goes_on(state: tuple[Array, ...]) -> Array:
            count, mean, spread, *_ = state
            unsure = ~(_error(count, spread) <= ENOUGH * jnp.linalg.norm(mean))
            return (count < LEAST_GROUPS) | (unsure & (count < MOST_GROUPS))

        def more(state: tuple[Array, ...]) -> tuple[Array, ...]:
            """One group more in the mean and the sum of squared deviations (Welford)."""
            count, mean, spread, *sums = state
            value, *others = group(count)
            deviation = value - mean
            mean = mean + deviation / (count + 1).astype(dtype)
            spread = spread + jnp.vdot(deviation, value - mean)
            return count + 1, mean, spread, *(total + other for total, other in zip(sums, others, strict=True))

        nothing = jnp.zeros((), dtype)
        start = (jnp.asarray(0), jnp.zeros_like(theta), nothing, nothing, nothing, nothing)
        count, mean, spread, flat, noise, lost = jax.lax.while_loop(goes_on, more, start)
        groups = count.astype(dtype)
        left = lost / groups * jnp.linalg.norm(mean)  # what the Krylov spaces were too small for
        return Motion(
            velocity=-scale * mean - 2 * decay * _on_valley(here, theta),
            diffusion=2 * scale * flat / groups,
            share=jnp.where(noise > 0, flat / jnp.where(noise > 0, noise, 1), 0),
            error=scale * jnp.sqrt(_error(count, spread) ** 2 + left**2),
            slope=relative_slope(slope, theta, largest),
            least=jnp.where(largest > 0, jnp.min(spectrum) / jnp.where(largest > 0, largest, 1), 0),
        )


def _error(count: Array, spread: Array) -> Float[Array, ""]:
    """The standard error of a mean of vectors, in norm; +inf of a single one."""
    number = count.astype(spread.dtype)
    return jnp.where(count > 1, jnp.sqrt(spread / jnp.maximum(number * (number - 1), 1)), jnp.inf)


def _of_noise(
    here: Curvature, noise: Vector, floor: Array, most: int, key: PRNGKeyArray
) -> tuple[Vector, Array, Array, Array]:
    """∇(x'ᵀ∇²L x) for E x x'ᵀ = C, HC + CH = nnᵀ; the square of n along the valley and of n; and what C is short of."""
    basis, projected, beyond = krylov(here.product, noise, most)
    values, turns = eigh(projected)
    kinds = kinds_of(values, floor)
    length = jnp.linalg.norm(noise)
    parts = length * turns[0]  # of the noise along the Ritz vectors
    inside = halved(kinds, parts[:, None] * parts)
    weights, axes = eigh(inside)
    signs = jax.random.rademacher(key, weights.shape, weights.dtype) * jnp.sqrt(jnp.abs(weights))
    first, second = (turns @ (axes @ chosen) @ basis[:most] for chosen in (signs, signs * jnp.sign(weights)))
    # The residual of the large equation is ‖β e_mᵀY‖ twice over; divided by twice the least curvature across.
    least = jnp.min(jnp.where(kinds.across, values, jnp.inf))
    short = jnp.linalg.norm(beyond * (turns[-1] @ inside)) / (jnp.sqrt(2) * least)
    whole = jnp.linalg.norm(inside)
    lost = jnp.where(whole > 0, short / jnp.where(whole > 0, whole, 1), 0)
    return here.bend(first, second), jnp.sum(jnp.where(kinds.flat, parts**2, 0)), length**2, lost


def _on_valley(here: Curvature, vector: Vector) -> Vector:
    """P_T v = v − z, with z = H⁺Hv from Hz = Hv: the right side is in the range, and so are all iterates."""
    tolerance = 1e-9 if jnp.finfo(vector.dtype).eps < 1e-12 else 1e-5
    inside, _ = jax.scipy.sparse.linalg.cg(here.product, here.product(vector), tol=tolerance, maxiter=MOST_PRODUCTS)
    return vector - inside
