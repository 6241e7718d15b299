"""What a run returns, and how its own dimensions are named."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._dynamics import AbstractSummary, Trajectory
from .._parameters import is_array
from ._axes import RESERVED, Axis

RECORDS = "step"  # the dimension of the records of a Trajectory


class Labelled(eqx.Module):
    """Arrays whose leading axes have names and coordinates; made by `labelled`."""

    value: PyTree
    dims: tuple[str, ...] = eqx.field(static=True)
    coords: dict[str, Array]
    may_be_nan: bool = eqx.field(static=True, default=False)


class Output(NamedTuple):
    """One array that a run returns.

    Attributes:
        name: its name in the data set.
        dims: the names of its axes.
        shape: its shape.
        dtype: its dtype, as NumPy spells it.
        is_coordinate: whether it is a coordinate of other results.
        may_be_nan: whether a NaN in it does not mean that the run diverged, as in the time of what never happened.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    is_coordinate: bool
    may_be_nan: bool = False


def labelled(value: PyTree, dims: str | Sequence[str], **coords: Any) -> Labelled:
    """Name the leading axes of what a run returns, and give them coordinates.

    Args:
        value: an array, or a pytree of arrays whose leading axes have the same meaning.
        dims: the names of these leading axes; further axes get names of their own.
        coords: name → array. One named like a dimension is its index: one-dimensional, and the same for every run.
            Any other belongs to the leading dimensions, as many as it has axes, and may differ from cell to cell, as
            the time of a step does with the learning rate.

    Returns:
        What `run` puts in place of the value in the dict that it returns to `sweep`.

    Raises:
        ValueError: for names that are no strings or repeated, and arrays with fewer axes, or other lengths, than named.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> loss = ne.labelled(jnp.array([4.0, 2.0, 1.0]), "step", step=jnp.arange(3), time=0.1 * jnp.arange(3))
        >>> loss.dims
        ('step',)
    """
    names = (dims,) if isinstance(dims, str) else tuple(dims)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"dims is {dims!r}; expected different names, one for each leading axis.")
    lengths: dict[str, int] = {}

    def check(what: str, array: Any, own: tuple[str, ...]) -> None:
        shape = jnp.shape(array)
        if len(shape) < len(own):
            raise ValueError(f"{what} has shape {shape}; expected the leading axes {own}.")
        for name, length in zip(own, shape, strict=False):
            if lengths.setdefault(name, length) != length:
                raise ValueError(f"{what} has {length} entries along {name!r}; expected {lengths[name]}.")

    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        check(f"a labelled value{jax.tree_util.keystr(path)}", leaf, names)
    for name, array in coords.items():
        own = (name,) if name in names else names[: jnp.ndim(array)]
        if jnp.ndim(array) == 0 or jnp.ndim(array) > len(own):
            raise ValueError(f"coordinate {name!r} has shape {jnp.shape(array)}; expected the axes {own or names}.")
        check(f"coordinate {name!r}", array, own)
    return Labelled(value, names, {name: jnp.asarray(array) for name, array in coords.items()})


def read_result(result: Any, axes: tuple[Axis, ...]) -> tuple[tuple[Output, ...], list[Array]]:
    """The arrays in what a run returned, with their names, and the coordinates after the values.

    Raises:
        ValueError: if it is no dict of arrays or Trajectory, a name is taken or ambiguous, or one dimension has two
            lengths.
    """
    if not isinstance(result, Mapping | Trajectory):
        raise ValueError(
            f"run returned {type(result).__name__}; expected a dict of name → array (nested dicts are fine), or what "
            "ne.simulate returns."
        )
    found: dict[str, tuple[Output, Array]] = {}
    coordinates: dict[str, tuple[Output, Array]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(
        jax.tree_util.tree_map(_unpacked, result, is_leaf=_is_trajectory),
        is_leaf=lambda node: isinstance(node, Labelled),
    )
    for path, node in leaves:
        marked = node if isinstance(node, Labelled) else Labelled(node, (), {})
        for inner, leaf in jax.tree_util.tree_leaves_with_path(marked.value):
            name = _name((*path, *inner))
            if name in found:
                raise ValueError(f"run returned two results named {name!r}; expected different names.")
            found[name] = _output(name, leaf, marked.dims, False, marked.may_be_nan)
        for name, array in marked.coords.items():
            is_index = name in marked.dims
            full = name if is_index else _name((*path[:-1], jax.tree_util.DictKey(name)))
            dims = (name,) if is_index else marked.dims[: array.ndim]
            _, known = coordinates.setdefault(full, _output(full, array, dims, True))
            # The arrays of a dict that one call of `labelled` got have one and the same object as their coordinate.
            if known is not array and not is_index:
                raise ValueError(
                    f"run returned two coordinates named {full!r}; expected one. Label both results in one call of "
                    "ne.labelled, as a dict, or give the coordinates different names."
                )
    if not found:
        raise ValueError("run returned no arrays; expected a dict of name → array.")
    both = [*found.values(), *coordinates.values()]
    _check_names([output for output, _ in both], axes)
    return tuple(output for output, _ in both), [array for _, array in both]


def _is_trajectory(node: Any) -> bool:
    return isinstance(node, Trajectory)


def _unpacked(node: Any) -> Any:
    """A Trajectory as what a sweep keeps of it: its records and its fate, and not the parameters."""
    if not isinstance(node, Trajectory):
        return node
    # What is summed up over a run has no rows. The fate of a run is told by `diverged_at` alone, since a summary may be
    # NaN without it: a first time is where there was none.
    summed = {name for name, value in node.observed.items() if isinstance(value, AbstractSummary)}
    summaries = {name: Labelled(node.observed[name], (), {}, True) for name in summed}
    records = {name: value for name, value in node.observed.items() if name not in summed}
    coords = {RECORDS: node.step, "time": node.time}
    return {"": Labelled(records, (RECORDS,), coords), "diverged_at": node.diverged_at, **summaries}


def _name(path: Sequence[Any]) -> str:
    parts = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    return ".".join(part for part in parts if part)


def _output(
    name: str, leaf: Any, dims: tuple[str, ...], is_coordinate: bool, may_be_nan: bool = False
) -> tuple[Output, Array]:
    if not is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
        raise ValueError(f"run returned {type(leaf).__name__} as {name!r}; expected an array.")
    array = jnp.asarray(leaf)
    if array.dtype == jnp.bfloat16:
        array = array.astype(jnp.float32)  # NumPy, and so the data set, has no bfloat16
    if array.dtype != jnp.bool_ and not jnp.issubdtype(array.dtype, jnp.number):
        raise ValueError(f"run returned an array of dtype {array.dtype} as {name!r}; expected numbers or bools.")
    own = (*dims, *(f"{name}_{i}" for i in range(array.ndim - len(dims))))
    return Output(name, own, tuple(array.shape), str(array.dtype), is_coordinate, may_be_nan), array


def _check_names(outputs: list[Output], axes: tuple[Axis, ...]) -> None:
    taken = RESERVED | {axis.name for axis in axes}
    lengths: dict[str, int] = {}
    names = [output.name for output in outputs]
    dims = {name for output in outputs for name in output.dims}
    for output in outputs:
        for name in (output.name, *output.dims):
            # The names of a store are folders of zarr, which keeps `__` and zarr.json for itself.
            if name in taken or not name or "/" in name or name.startswith((".", "__")) or name == "zarr.json":
                raise ValueError(
                    f"run returned {output.name!r} with dimensions {output.dims}; {name!r} cannot be a name here. "
                    f"Taken are {', '.join(sorted(taken))}."
                )
        is_index = output.is_coordinate and output.dims == (output.name,)
        if names.count(output.name) > 1 or (output.name in dims and not is_index):
            raise ValueError(
                f"{output.name!r} names two things, among results, coordinates and dimensions; rename one."
            )
        for name, length in zip(output.dims, output.shape, strict=True):
            if lengths.setdefault(name, length) != length:
                raise ValueError(
                    f"dimension {name!r} has {lengths[name]} entries in one result and {length} in {output.name!r}; "
                    "expected one length. Name the axes of one of them differently with ne.labelled."
                )
