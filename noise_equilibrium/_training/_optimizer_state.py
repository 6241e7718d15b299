"""What an optimiser remembers of gradients, when the parameters move along an orbit: it moves contragrediently."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._double import single
from .._group import AbstractGroup
from .._parameters import is_parameter, split
from .._symmetry import AbstractSymmetry, bind

# What the states of optax call means of squares of gradients.
SQUARES = ("nu", "nu_max", "sum_of_squares")


def along_with(
    state: Any, params: PyTree, symmetries: Sequence[AbstractSymmetry], elements: Sequence[Array], *, reset: bool
) -> Any:
    """The state of an optimiser after its parameters were moved by e^{element} of every symmetry.

    Args:
        state: any pytree; what in it has the structure and the shapes of params follows them.
        params: the parameters before the motion.
        symmetries: in the order in which they moved.
        elements: one each; directions without a finite one are left alone.
        reset: whether it is set to zero, instead of moved.
    """
    groups = [bind(symmetry, params) for symmetry in symmetries]
    structure = jax.tree_util.tree_structure(params)
    shapes = [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(params)]

    def is_like_params(part: Any) -> bool:
        if jax.tree_util.tree_structure(part) != structure:
            return False
        leaves = jax.tree_util.tree_leaves(part)
        return [jnp.shape(leaf) for leaf in leaves] == shapes and all(map(is_parameter, leaves))

    def follow(path: Any, part: Any) -> Any:
        if not is_like_params(part):
            return part
        if reset:
            return jax.tree_util.tree_map(jnp.zeros_like, part)
        arrays, rebuild = split(part)
        squared = bool(path) and getattr(path[-1], "name", None) in SQUARES
        for group, element in zip(groups, elements, strict=True):
            arrays = group.multiply(arrays, _factors(group, element, squared))
        return rebuild(arrays)

    return jax.tree_util.tree_map_with_path(follow, state, is_leaf=is_like_params)


def _factors(group: AbstractGroup, element: Array, squared: bool) -> Any:
    """Of gradients, e^{−power × element}; of their squares the squares of these, entry by entry."""
    finite = jnp.where(jnp.isfinite(element), element, 0)
    factors = group.exponential(group.internal(-finite))
    if not squared:
        return factors
    # (Σ_k g_k P_kl)² is Σ_k g_k² P_kl² on average where entries of a gradient are uncorrelated: all that squares tell.
    return jax.tree_util.tree_map(lambda factor: factor**2, jax.tree_util.tree_map(single, factors))
