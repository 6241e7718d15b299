"""Sharpness, and the largest learning rate at which gradient descent stays at a minimum of the linear autoencoder."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import noise_equilibrium as ne
from noise_equilibrium.models.two_layer_linear import Params

STEPS = 1500  # of gradient descent from beside a minimum
RANGE = (0.02, 1.0)  # of learning rates that are searched
HALVINGS = 11
SIDE = 1e-5  # how far beside it
ALONE = 0.98  # of ‖∇²L v‖, and no negative eigenvalue is in v to more than two per cent of what is measured


def sharpness(loss: Callable[[PyTree], Array], params: PyTree, key: Array, steps: int) -> Array:
    """The largest eigenvalue of ∇²L by power iteration, of ∇²L + ‖∇²L‖ if one of about its size is negative."""
    theta, unflatten = ne.flatten(params)
    gradient = jax.grad(lambda theta: loss(unflatten(theta)))

    def product(vector: Array) -> Array:
        return jax.jvp(gradient, (theta,), (vector,))[1]

    start = jax.random.normal(key, theta.shape, theta.dtype)

    def iterated(place: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        shift = jnp.where(place == 0, 0, found[1])

        def step(_: Any, state: tuple[Array, tuple[Array, Array]]) -> tuple[Array, tuple[Array, Array]]:
            vector = state[0]
            image = product(vector)
            new = image + shift * vector
            return new / jnp.linalg.norm(new), (jnp.vdot(vector, image), jnp.linalg.norm(image))

        # vᵀ∇²L v is ‖∇²L v‖ at the eigenvector of a positive one, and less where two of opposite signs compete.
        count = jnp.where((place == 0) | (found[0] < ALONE * found[1]), steps, 0)
        return jax.lax.fori_loop(0, count, step, (start / jnp.linalg.norm(start), found))[1]

    # One loop in another: the product, whose compilation is what takes time, is in the program once.
    return jax.lax.fori_loop(0, 2, iterated, (jnp.zeros((), theta.dtype),) * 2)[0]


@eqx.filter_jit
def all_sharpness(problem: ne.Problem, points: PyTree, keys: Array, steps: int) -> Array:
    """That of all points, which are stacked in front."""
    return jax.lax.map(lambda pair: sharpness(problem.risk, pair[0], pair[1], steps), (points, keys))


@eqx.filter_jit
def gd_minimum(problem: ne.Problem, starts: Params) -> Params:
    """Where GD at a small rate takes them."""
    return jax.vmap(lambda start: ne.simulate(problem, ne.GD(0.01), start, 3000, every=3000).params)(starts)


@eqx.filter_jit
def _leaves(problem: ne.Problem, minima: Params, teacher: Array, keys: Array, rates: Array) -> Array:
    """Whether GD goes away from the minima: whether the excess loss ever is larger than at first, or not finite.

    Below 2/λ_max every component of the deviation shrinks, and the excess with them.
    """

    def excess(params: Params) -> Array:
        return jnp.sum((params.up @ params.down - teacher) ** 2)

    def one(minimum: Params, key: Array, rate: Array) -> Array:
        theta, unflatten = ne.flatten(minimum)
        beside = unflatten(theta + SIDE * jax.random.normal(key, theta.shape, theta.dtype))
        run = ne.simulate(problem, ne.GD(rate), beside, STEPS, observe={"excess": excess}, every=10)
        seen = run.observed["excess"]
        return ~jnp.all(seen[1:] <= seen[0])

    return jax.vmap(one)(minima, keys, rates)


def largest_stable_rate(problem: ne.Problem, minima: Params, teacher: Array, key: Array) -> np.ndarray:
    """That of GD beside each of these minima, by bisection of the logarithm; by at most RANGE/2^HALVINGS off."""
    count = len(minima.up)
    keys = jax.random.split(key, count)
    low, high = (np.full(count, np.log(end)) for end in RANGE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gone = np.asarray(_leaves(problem, minima, teacher, keys, jnp.exp(jnp.asarray(middle))))
        low, high = np.where(gone, low, middle), np.where(gone, middle, high)
    return np.exp((low + high) / 2)
