"""Symmetric uniform rounding of weights, and the error of the output that its law predicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

GRIDS = {"tensor": None, "channel": 0}
"""Whose largest entry decides the step: that of the whole array, or that of each row or filter."""


def is_weight(leaf: Array) -> bool:
    """Whether an array is one of weights: biases are kept in full, as is usual."""
    return leaf.ndim > 1


def largest(weight: Array, grid: str) -> Array:
    """max |w| over what shares a step, with the axes kept."""
    axes = None if GRIDS[grid] is None else tuple(range(1, weight.ndim))
    return jnp.max(jnp.abs(weight), axis=axes, keepdims=True)


def most(bits: int) -> int:
    """The m of a grid −m Δ, …, mΔ of so many bits."""
    return 2 ** (bits - 1) - 1


def step(weight: Array, bits: int, grid: str, fewer: int | Array = 0) -> Array:
    """Δ of the grid whose last point, or the one that is so many before it, is the largest entry."""
    return largest(weight, grid) / (most(bits) - fewer)


def rounded(params: PyTree, bits: int, grid: str, fewer: int | Array = 0) -> PyTree:
    """The nearest point of the grid for every weight; a grid of fewer points rounds in another way."""

    def one(weight: Array) -> Array:
        if not is_weight(weight):
            return weight
        size = step(weight, bits, grid, fewer)
        return size * jnp.round(weight / size)

    return jax.tree_util.tree_map(one, params)


def sensitivities(logits: Callable[[PyTree, Array], Array], params: PyTree, x: Array) -> PyTree:
    """The mean over inputs of Σ_k (∂f_k/∂w)² of every weight."""

    def add(total: PyTree, one: Array) -> tuple[PyTree, None]:
        jacobian = jax.jacrev(logits)(params, one)
        return jax.tree_util.tree_map(lambda sum, part: sum + jnp.sum(part**2, axis=0), total, jacobian), None

    total, _ = jax.lax.scan(add, jax.tree_util.tree_map(jnp.zeros_like, params), x)
    return jax.tree_util.tree_map(lambda leaf: leaf / len(x), total)


def predicted_error(
    params: PyTree, sensitivity: PyTree, bits: int, grid: str, fewer: int | Array = 0
) -> Float[Array, ""]:
    """E‖f_rounded − f‖² for independent errors of variance Δ²/12, to first order.

    A largest entry is on its grid. Were it elsewhere, all rows would have it at the same place between two points, and
    their errors would add up instead of being independent.
    """

    def one(weight: Array, slope: Any) -> Array:
        if not is_weight(weight):
            return jnp.zeros((), weight.dtype)
        # Filters that a search has equalised are equal to 1e-8.
        free = jnp.abs(weight) < (1 - 1e-6) * largest(weight, grid)
        return jnp.sum(jnp.where(free, slope, 0) * step(weight, bits, grid, fewer) ** 2) / 12

    return sum(jax.tree_util.tree_leaves(jax.tree_util.tree_map(one, params, sensitivity)), jnp.zeros(()))
