"""The optimisers of the study, and the law of momentum read off the parameters of a run alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

BETAS = (0.5, 0.9)
MEMORY = 0.999  # β₂


class State(NamedTuple):
    """Of `one_number_per_matrix`: the number of steps, and means of the gradients and of their mean squares."""

    steps: Array
    mean: PyTree
    square: PyTree


def one_number_per_matrix(rate: float, memory: float = 0.9) -> optax.GradientTransformation:
    """Adam with one v for every array, the mean over its entries, as in Adam-mini.

    Args:
        rate: η.
        memory: β₁.
    """

    def init(params: PyTree) -> State:
        zeros = jax.tree_util.tree_map(jnp.zeros_like, params)
        return State(
            jnp.zeros((), jnp.int32), zeros, jax.tree_util.tree_map(lambda leaf: jnp.zeros((), leaf.dtype), params)
        )

    def update(gradients: PyTree, state: State, params: PyTree = None) -> tuple[PyTree, State]:
        del params
        count = state.steps + 1
        mean = jax.tree_util.tree_map(lambda old, g: memory * old + (1 - memory) * g, state.mean, gradients)
        square = jax.tree_util.tree_map(
            lambda old, g: MEMORY * old + (1 - MEMORY) * jnp.mean(g**2), state.square, gradients
        )

        def move(mean: Array, square: Array) -> Array:
            steps = count.astype(mean.dtype)
            return -rate * (mean / (1 - memory**steps)) / (jnp.sqrt(square / (1 - MEMORY**steps)) + 1e-8)

        return jax.tree_util.tree_map(move, mean, square), State(count, mean, square)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def with_momentum(rate: float) -> dict[str, optax.GradientTransformation]:
    """SGD, and momentum of the same η/(1−β), by name."""
    return {
        "SGD": optax.sgd(rate),
        **{f"momentum {beta:g}": optax.sgd(rate * (1 - beta), momentum=beta) for beta in BETAS},
    }


def adaptive(rate: float) -> dict[str, optax.GradientTransformation]:
    """Adam with one v for each matrix, and Adam, by name."""
    return {"one v per matrix": one_number_per_matrix(rate), "Adam": optax.adam(rate, 0.9, MEMORY)}


def kept_charges(path: tuple[np.ndarray, np.ndarray], rate: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """What a step of momentum moves C(θ − ηβ/(1−β) m) by, and η²/(1−β)² (ĝᵀAĝ + 2β mᵀAĝ), both for every step.

    The velocity and the gradient are read off the parameters: m_t = (θ_{t−1} − θ_t)/η, ĝ_t = m_{t+1} − βm_t.

    Args:
        path: U and W at every step, in double precision.
        rate: η.
        beta: β.
    """
    effective = rate / (1 - beta)
    speeds = [-(leaf[1:] - leaf[:-1]) / rate for leaf in path]
    gradients = [speed[1:] - beta * speed[:-1] for speed in speeds]
    shifted = [leaf[1:] - effective * beta * speed for leaf, speed in zip(path, speeds, strict=True)]

    def product(left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
        """The symmetric part of U₁ᵀU₂ − W₁W₂ᵀ."""
        found = left[0].swapaxes(-1, -2) @ right[0] - left[1] @ right[1].swapaxes(-1, -2)
        return (found + found.swapaxes(-1, -2)) / 2

    charge = product(shifted, shifted)
    before = [speed[:-1] for speed in speeds]
    law = effective**2 * (product(gradients, gradients) + 2 * beta * product(before, gradients))
    return charge[1:] - charge[:-1], law
