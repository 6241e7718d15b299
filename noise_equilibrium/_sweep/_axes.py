"""The axes of a sweep: names, values, and whether a value is traced or compiled in."""

import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

KINDS = {"f": "float", "i": "int", "u": "int", "b": "bool", "U": "string"}
SEED = "seed"
RESERVED = {"key", SEED, "done", "diverged"}
# A seed is folded into a key as one word.
MAX_SEED = 2**32


class Axis(NamedTuple):
    """One axis.

    Attributes:
        name: the argument of `run` that it sets.
        values: its values, Python numbers or strings.
        kind: "float", "int", "bool" or "string".
    """

    name: str
    values: tuple[Any, ...]
    kind: str

    @property
    def is_traced(self) -> bool:
        """Whether its values cross the compiled program as numbers; the others are compiled in."""
        return self.kind == "float"

    def coordinate(self) -> np.ndarray:
        """The values as an array."""
        return np.asarray(self.values)


def read_axes(axes: Any) -> tuple[Axis, ...]:
    """The axes a user gave, checked.

    Raises:
        ValueError: if they are no mapping of name → values, a name is no identifier or is taken, or the values are not
            one-dimensional, are none, are repeated, or are of no known kind.
    """
    if not isinstance(axes, Mapping):
        raise ValueError(f"axes is {type(axes).__name__}; expected a dict of name → values.")
    return tuple(_axis(name, values) for name, values in axes.items())


def _axis(name: Any, values: Any) -> Axis:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
        raise ValueError(
            f"axis {name!r} cannot have this name; expected the name of an argument of run, other than "
            f"{', '.join(sorted(RESERVED))}."
        )
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Iterable):
        raise ValueError(f"axis {name!r} is {values!r}; expected a sequence of values, in their order.")
    array = np.asarray(values if hasattr(values, "dtype") else list(values))
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"axis {name!r} has shape {array.shape}; expected one dimension and at least one value.")
    kind = KINDS.get(array.dtype.kind)
    if kind is None:
        raise ValueError(
            f"axis {name!r} is an array of dtype {array.dtype}; expected floats (traced), or ints, bools or strings "
            "(compiled in). Sweep over an int or a name, and look the object up inside run."
        )
    unpacked = array.tolist()
    if kind == "float" and not np.isfinite(array).all():
        raise ValueError(f"axis {name!r} holds {array[~np.isfinite(array)][0]}; expected finite numbers.")
    if len(set(unpacked)) < len(unpacked):
        raise ValueError(f"axis {name!r} repeats a value: {unpacked}; expected different ones. Repeat runs by seeds.")
    return Axis(name, tuple(unpacked), kind)


def read_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds a user gave: a number of them, or the seeds themselves.

    Raises:
        ValueError: if there are none, one is repeated, or one is not an integer from 0 to 2³² − 1.
    """
    array = np.arange(seeds) if hasattr(seeds, "__index__") and np.ndim(seeds) == 0 else np.asarray(seeds)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"seeds is {seeds!r}; expected how many, at least 1, or a sequence of integers.")
    if array.min() < 0 or array.max() >= MAX_SEED or len(np.unique(array)) < array.size:
        raise ValueError(f"seeds is {seeds!r}; expected different integers from 0 to 2³² − 1.")
    return tuple(array.tolist())


def require_arguments(run: Callable[..., Any], axes: tuple[Axis, ...]) -> None:
    """Raise a ValueError unless `run(key, **point)` is a call that `run` accepts."""
    if not callable(run):
        raise ValueError(f"run is {run!r}; expected a function run(key, **point) -> dict of arrays.")
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):  # some built-in callables have no signature: the call itself will tell
        return
    try:
        signature.bind(None, **{axis.name: None for axis in axes})
    except TypeError as error:
        names = ", ".join(axis.name for axis in axes) or "none"
        raise ValueError(
            f"run{signature} does not accept these axes ({names}): {error}. Expected run(key, **point), with one "
            "argument for each axis."
        ) from None
