"""What an optimiser remembers of gradients, when the parameters move along an orbit: it moves contragrediently."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._double import single
from .._group import AbstractGroup
from .._parameters import is_parameter, split
from .._symmetry import AbstractSymmetry, bind

# What the states of optax call means of squares of gradients.
SQUARES = ("nu", "nu_max", "sum_of_squares", "e_g", "exp_avg_sq")


def along_with(
    state: Any, params: PyTree, symmetries: Sequence[AbstractSymmetry], elements: Sequence[Array], *, reset: bool
) -> Any:
    """The state of an optimiser after its parameters were moved by e^{element} of every symmetry.

    Args:
        state: any pytree; what in it has the structure and the shapes of params follows them, also where a mask of
            optax stands in place of some.
        params: the parameters before the motion.
        symmetries: in the order in which they moved.
        elements: one each; directions without a finite one are left alone.
        reset: whether it is set to zero, instead of moved.
    """
    groups = [bind(symmetry, params) for symmetry in symmetries]
    leaves, structure = jax.tree_util.tree_flatten(params)

    def is_like_params(part: Any) -> bool:
        found, form = jax.tree_util.tree_flatten(part, is_leaf=_is_masked)
        if form != structure or all(map(_is_masked, found)):
            return False
        pairs = zip(found, leaves, strict=True)
        return all(_is_masked(one) or (is_parameter(one) and one.shape == jnp.shape(leaf)) for one, leaf in pairs)

    def follow(path: Any, part: Any) -> Any:
        if not is_like_params(part):
            return part
        given = jax.tree_util.tree_leaves(part, is_leaf=_is_masked)
        # What is masked counts as zero, and zero stays zero along an orbit.
        full = [jnp.zeros_like(leaf) if _is_masked(one) else one for one, leaf in zip(given, leaves, strict=True)]
        if reset:
            full = [jnp.zeros_like(leaf) for leaf in full]
        else:
            arrays, rebuild = split(jax.tree_util.tree_unflatten(structure, full))
            squared = bool(path) and getattr(path[-1], "name", None) in SQUARES
            for group, element in zip(groups, elements, strict=True):
                arrays = _moved(group, arrays, element, squared)
            full = jax.tree_util.tree_leaves(rebuild(arrays))
        kept = [one if _is_masked(one) else new for one, new in zip(given, full, strict=True)]
        return jax.tree_util.tree_unflatten(structure, kept)

    return jax.tree_util.tree_map_with_path(follow, state, is_leaf=is_like_params)


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _moved(group: AbstractGroup, arrays: list[Array], element: Array, squared: bool) -> list[Array]:
    """Of gradients, e^{−power × element}; of their squares the squares of these, entry by entry."""
    finite = jnp.where(jnp.isfinite(element), element, 0)
    factors = group.exponential(group.internal(-finite))
    if squared:
        if not group.legs:  # the matrix of a generator, whose entries are never built
            return arrays
        # (Σ_k g_k P_kl)² is Σ_k g_k² P_kl² on average where entries of a gradient are uncorrelated: all squares tell.
        factors = jax.tree_util.tree_map(lambda factor: factor**2, single(factors))
    return group.multiply(arrays, factors)
