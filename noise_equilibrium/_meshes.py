"""Arrays on a mesh with explicit axes, which is what `jax.make_mesh` makes unless it is told otherwise.

Along an explicit axis the place of an array is part of its type, and JAX refuses an operation where that of its result
is ambiguous: a sum over samples, a slice, a look-up. The computations here are full of them, and so is many a loss. So
they run with these axes automatic: the compiler chooses, the samples stay where they are, and sums travel.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

P = ParamSpec("P")
R = TypeVar("R")


def on_automatic_axes(function: Callable[P, R], rows_of: Callable[P, PyTree] | None = None) -> Callable[P, R]:
    """The same function, computed with those explicit mesh axes automatic along which an argument is sharded.

    Results are replicated along these axes. Where no argument is sharded along an explicit axis nothing changes; axes
    that a `vmap` runs over remain what they are.

    Args:
        function: of pytrees of arrays, inside of a `jit`.
        rows_of: of the same arguments, arrays whose samples the first axis of all results goes through: results then
            lie as these do along that axis, if its length allows it.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, structure = jax.tree_util.tree_flatten((args, kwargs))
        axes = {name for leaf in leaves for names in _spec(leaf) for name in names}
        if not axes:
            return function(*args, **kwargs)
        outside: AbstractMesh = next(_mesh(leaf) for leaf in leaves if any(_spec(leaf)))
        inside = outside.update_axis_types(dict.fromkeys(axes, AxisType.Auto))
        rows = () if rows_of is None else _rows(jax.tree_util.tree_leaves(rows_of(*args, **kwargs)))
        with jax.sharding.use_abstract_mesh(inside):
            leaves = [_moved(leaf, inside, [_without(names, axes) for names in _spec(leaf)]) for leaf in leaves]
            args, kwargs = jax.tree_util.tree_unflatten(structure, leaves)
            try:
                result = function(*args, **kwargs)
            except Exception as error:
                _explain(error, axes)
                raise
        return jax.tree_util.tree_map(lambda leaf: _moved(leaf, outside, _as_rows(leaf, outside, rows)), result)

    return call


def replicated(array: Array) -> Array:
    """An array that is sharded along no explicit axis."""
    return _moved(array, _mesh(array), [() for _ in array.shape]) if any(_spec(array)) else array


def _mesh(leaf: Any) -> Any:
    """The mesh that an array lies on, abstract; empty or None if there is none."""
    return jax.typeof(leaf).sharding.mesh if isinstance(leaf, Array) else None


def _spec(leaf: Any) -> list[tuple[str, ...]]:
    """For each axis of an array the explicit mesh axes that it is sharded along."""
    if not isinstance(leaf, Array):
        return []
    entries = jax.typeof(leaf).sharding.spec
    return [() if entry is None else entry if isinstance(entry, tuple) else (entry,) for entry in entries]


def _without(names: tuple[str, ...], axes: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in axes)


def _moved(leaf: Any, mesh: AbstractMesh, spec: Sequence[tuple[str, ...]]) -> Any:
    """An array of a mesh as one of the same mesh with other types of axes; anything else as it is."""
    if not _mesh(leaf):
        return leaf
    return jax.sharding.reshard(leaf, NamedSharding(mesh, PartitionSpec(*(names or None for names in spec))))


def _rows(leaves: Sequence[Any]) -> tuple[str, ...]:
    """The mesh axes that the first axis of some arrays is sharded along."""
    return next((spec[0] for leaf in leaves if (spec := _spec(leaf)) and spec[0]), ())


def _as_rows(leaf: Any, mesh: AbstractMesh, rows: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What a result is sharded along: what it is already, and its first axis like the samples if that is possible."""
    spec = _spec(leaf)
    # A length that the devices do not divide cannot be sharded.
    if spec and leaf.shape[0] % math.prod(mesh.shape[name] for name in (*spec[0], *rows)) == 0:
        spec[0] = (*spec[0], *rows)
    return spec


def _explain(error: Exception, axes: set[str]) -> None:
    """Say what became of the axes, in an error that may come of it; the words of JAX decide about this hint alone."""
    if "mesh" in str(error).lower():
        error.add_note(
            f"Data or parameters are sharded along {', '.join(map(repr, sorted(axes)))}, so this was computed with "
            "these mesh axes automatic. An array on the mesh that a function closes over cannot take part: make it an "
            "input, as a leaf of a callable module (an eqx.Module, or jax.tree_util.Partial(function, array)). And no "
            "PartitionSpec in a loss can name these axes."
        )
