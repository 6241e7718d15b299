"""What users hand in, functions and data: checked, and brought into the form of pytrees."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ._parameters import is_array


def pure(function: Callable[..., Any], expected: str) -> Callable[..., Any]:
    """A plain function as a pytree without leaves; a callable pytree, such as a module, as it is."""
    if not callable(function):
        raise ValueError(f"got {type(function).__name__}; expected a function {expected}.")
    is_plain = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if is_plain else function


def check_data(data: PyTree) -> None:
    """Raise a ValueError unless data is a pytree whose leaves share a leading axis of at least one sample."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError("data has no array; expected a pytree whose leaves share a leading axis of N samples.")
    lengths = {}
    for path, leaf in leaves:
        name = "data" + jax.tree_util.keystr(path)
        if not is_array(leaf) or leaf.ndim == 0:
            raise ValueError(
                f"{name} is {'a scalar' if is_array(leaf) else type(leaf).__name__}; expected an array with a leading "
                "axis of N samples. Put constants of the problem into the loss instead."
            )
        lengths[name] = leaf.shape[0]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"the leaves of data differ in length ({listed}); expected one leading axis of N samples.")
    if 0 in lengths.values():
        raise ValueError("data holds 0 samples; expected at least 1.")
