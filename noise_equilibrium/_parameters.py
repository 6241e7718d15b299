"""Which leaves of a pytree are parameters, and in which order they stand in a flat vector.

A parameter is a floating-point array (JAX or NumPy). Everything else in the tree, such as an activation function, an
integer table or a Python number, is carried along untouched. The order is that of `jax.tree_util.tree_leaves`, each
array in C order: it is the order of the rows of Σ and of the generator A.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ._meshes import replicated


def is_array(leaf: Any) -> bool:
    """True for JAX and NumPy arrays, traced ones included."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def is_parameter(leaf: Any) -> bool:
    """True for floating-point arrays: the leaves that are trained."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def split(params: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """Separate the parameters from the rest of a pytree.

    Args:
        params: any pytree.

    Returns:
        The parameter arrays in tree order, and `rebuild`, which puts such a list back in their places.

    Raises:
        ValueError: if there is no parameter at all, or if some leaf is complex.
    """
    leaves, treedef = jax.tree_util.tree_flatten(params)
    places = [place for place, leaf in enumerate(leaves) if is_parameter(leaf)]
    for leaf in leaves:
        if is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"params has a leaf of dtype {leaf.dtype}; expected real parameters. "
                "Keep the real and imaginary parts as two real arrays."
            )
    if not places:
        raise ValueError(
            f"params has no floating-point array among its {len(leaves)} leaves; expected at least one. "
            "Give parameters as arrays, for example jnp.asarray(1.0) instead of 1.0."
        )

    def rebuild(arrays: list[Array]) -> PyTree:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return jax.tree_util.tree_unflatten(treedef, filled)

    return [jnp.asarray(leaves[place]) for place in places], rebuild


def without_numbers(arrays: Sequence[Array]) -> list[jax.ShapeDtypeStruct]:
    """Arrays as far as a trace needs them: shapes and types, and not where they lie."""
    kinds = [jax.typeof(array) for array in arrays]
    return [jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type) for kind in kinds]


def widest_dtype(arrays: Sequence[Array]) -> jnp.dtype:
    """The widest dtype among arrays: that of numbers which belong to all of them."""
    return max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)


def accumulation_dtype(arrays: Sequence[Array]) -> jnp.dtype:
    """The dtype for sums of products of arrays: their widest, and at least single precision."""
    widest = widest_dtype(arrays)
    return widest if widest.itemsize >= 4 else jnp.dtype(jnp.float32)


def flatten(params: PyTree) -> tuple[Float[Array, " P"], Callable[[Float[Array, " P"]], PyTree]]:
    """All parameters as one vector θ, in the order of Σ's rows and of the generator A.

    Args:
        params: any pytree; its floating-point arrays are the parameters.

    Returns:
        The vector of all P parameters (tree order, each array in C order), and `unflatten`, its inverse, which also
        restores shapes, dtypes and the leaves that are not parameters.

    Raises:
        ValueError: if params holds no floating-point array, or a complex one.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> vector, unflatten = ne.flatten({"w": jnp.ones((2, 2)), "name": "layer"})
        >>> vector.shape, unflatten(2 * vector)["w"].tolist()
        ((4,), [[2.0, 2.0], [2.0, 2.0]])
    """
    arrays, rebuild = split(params)
    # Along explicit axes of a mesh JAX refuses the concatenation.
    vector, restore = ravel_pytree([replicated(array) for array in arrays])
    return vector, lambda vector: rebuild(restore(vector))
