"""Numbers that only scale: kept as the user gave them, traced when they cross a `jit`.

A learning rate, a weight decay or a noise scale must never cause a recompilation, and must keep its double precision
until the precision of the computation is known. So objects store Python numbers, and `jit` below turns them into
weakly typed arrays at the moment of the call.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._meshes import on_automatic_axes

P = ParamSpec("P")
R = TypeVar("R")


class Traced(eqx.Module):
    """Base of the objects whose Python floats are numbers of the computation and cross a `jit` as traced values.

    Parameters are not of this kind: a Python float among them is a constant of the model.
    """


def as_number(value: Any) -> Any:
    """Python and NumPy scalars as a Python float; arrays, tracers and functions as they are."""
    if isinstance(value, numbers.Real | np.generic) and not isinstance(value, bool | np.bool_):
        return float(value)
    return value


def require(condition: Callable[[np.ndarray], Any], value: Any, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds for every element of a value known at call time."""
    if isinstance(value, jax.core.Tracer) or callable(value):
        return
    known = np.asarray(value)
    if not jnp.issubdtype(known.dtype, jnp.number) or not np.all(condition(known)):
        raise ValueError(message)


def require_scalar(value: Any, name: str) -> None:
    """Raise a ValueError unless a value is one number; schedules, which are functions, pass."""
    if not callable(value) and jnp.ndim(value) != 0:
        raise ValueError(f"{name} has shape {jnp.shape(value)}; expected one number. Use jax.vmap over several.")


def cast(number: Any, like: Array) -> Array:
    """A number in the dtype of an array, so that dtypes follow the parameters and never the number."""
    return jnp.asarray(number).astype(like.dtype)


def all_finite(leaves: Sequence[Any]) -> Array:
    """Whether every entry of every array is finite."""
    flags = jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    # Without the barrier XLA writes out one `and` per array, and all of them again wherever the answer is used: the
    # time to compile then grows as the square of the number of layers.
    return jax.lax.optimization_barrier(flags).all()


def jit(function: Callable[P, R], rows_of: Callable[P, PyTree] | None = None) -> Callable[P, R]:
    """`equinox.filter_jit` that also traces the Python floats in `Traced` objects, and takes arrays on any mesh.

    Args:
        function: of any arguments.
        rows_of: see `on_automatic_axes`.
    """
    compiled = eqx.filter_jit(on_automatic_axes(function, rows_of))

    def traced(argument: Any) -> Any:
        if not isinstance(argument, Traced):
            return argument
        return jax.tree_util.tree_map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, argument)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        arguments = [traced(argument) for argument in args]
        return compiled(*arguments, **{name: traced(argument) for name, argument in kwargs.items()})  # pyright: ignore[reportCallIssue]

    return call
