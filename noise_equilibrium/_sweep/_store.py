"""A store: a zarr directory that survives anything that happens to the processes which fill it.

One chunk of every array is one unit. A unit writes its results first and its chunk of `done` last, and each chunk
appears whole, under its name, or not at all (zarr writes a file beside it and renames it; hence zarr ≥ 3.1.6). Nothing
but `done` says what is finished: a unit that was interrupted is computed again, over whatever it left. The store itself
is built beside its place and renamed. What is not promised is what a file system loses when the power fails.
"""

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr

from ._axes import SEED
from ._engine import Block
from ._plan import Plan, differences
from ._units import Grid, Unit

IDENTITY = "sweep"  # the attribute with what must agree
IN_TURN = "in turn"  # the attribute with what was found faster
FRESH = "remove it, or give store= another path"


class Store:
    """An existing store, open for writing.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path):
        self.path = path
        # Not the metadata gathered in one file, which may be older than those of the store itself.
        self._group = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
        self._arrays: dict[str, Any] = dict(self._group.arrays())

    def write(self, unit: Unit, block: Block) -> None:
        """Keep what a unit computed: its results first, and last that they are there."""
        for name, array in block.arrays.items():
            self._arrays[name][unit.region] = array
        self._arrays["done"][unit.region] = block.done

    def done(self) -> np.ndarray:
        """Which runs are done."""
        return self._flags("done")

    def diverged(self) -> np.ndarray:
        """Which runs have diverged, where they are done."""
        return self._flags("diverged")

    def _flags(self, name: str) -> np.ndarray:
        """A flag of every run, from the files themselves: zarr takes some twenty times as long for each."""
        array = self._arrays[name]
        if array.compressors:  # of a store that an earlier version made
            return np.asarray(array[...])
        flags = np.zeros(array.shape, bool)
        for place, content in _chunks(str(self.path / name / "c"), array.ndim):
            region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, array.chunks, strict=True))
            inside = flags[region]  # a chunk at the end of an axis is filled up
            inside[...] = np.frombuffer(content, bool).reshape(array.chunks)[tuple(slice(n) for n in inside.shape)]
        return flags

    def in_turn(self, grid: Grid, groups: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], bool]:
        """For each program of which it is known whether its runs are taken one after the other."""
        known: Any = self._group.attrs.get(IN_TURN, {})
        named = {group: json.dumps(grid.static_point(group)) for group in groups}
        return {group: known[name] for group, name in named.items() if name in known}

    def remember(self, grid: Grid, group: tuple[int, ...], in_turn: bool) -> None:
        """Keep what was found, so that the next call takes the runs in the same way."""
        known: Any = self._group.attrs.get(IN_TURN, {})
        self._group.attrs[IN_TURN] = {json.dumps(grid.static_point(group)): in_turn} | known
        _consolidate(self.path)

    def dataset(self) -> xarray.Dataset:
        """All that is in the store; arrays are read when they are used."""
        return xarray.open_zarr(self.path, chunks=None, consolidated=False, zarr_format=3)


def _chunks(folder: str, depth: int, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Place and content of every chunk of an array that has been written."""
    if depth == 0:
        with open(folder, "rb") as file:
            yield place, file.read()
    elif os.path.isdir(folder):
        for name in os.listdir(folder):
            if name.isdecimal():  # and no file that is being written
                yield from _chunks(os.path.join(folder, name), depth - 1, (*place, int(name)))


def store_path(store: Any) -> Path:
    """The path of a store, or of one to be.

    Raises:
        ValueError: if there is a file, or a folder that is neither empty nor a store of a sweep.
    """
    if not isinstance(store, str | os.PathLike):
        raise ValueError(f"store is {store!r}; expected the path of a folder.")
    path = Path(store).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"store {path} is a file; expected the path of a folder: {FRESH}.")
    if path.is_dir() and any(path.iterdir()) and _identity(path) is None:
        raise ValueError(f"store {path} is a folder that holds something else than a sweep; give store= another path.")
    return path


def stored_extents(path: Path) -> tuple[int, ...] | None:
    """The shape of the units of a store, which are its chunks; None if it is still to be made."""
    group: Any = _open(path)
    return tuple(group["done"].chunks) if group is not None and "done" in group else None


def open_store(path: Path, plan: Plan, attributes: Mapping[str, str]) -> Store:
    """Open the store of a sweep, and make it first if there is none.

    Raises:
        ValueError: if it belongs to another sweep, which is left as it is; or if it cannot be made.
    """
    identity = plan.identity()
    if not path.exists() or not any(path.iterdir()):
        constants = plan.constant_values()
        try:
            _build(path, plan, identity, constants, attributes)
        except OSError as error:
            raise ValueError(f"store {path} cannot be made: {error}. Expected a folder that can be written.") from error
    old = _identity(path)
    said, extents = differences(old, identity), stored_extents(path)
    if not said and extents != plan.grid.extents:
        said = [f"a unit of work was {extents} runs along the axes and is {plan.grid.extents}"]
    if said:
        raise ValueError(
            f"store {path} belongs to another sweep and is left as it is: {'; '.join(said)}. To begin anew, {FRESH}."
        )
    store = Store(path)
    assert old is not None
    _complete(store, old, identity)
    return store


def _identity(path: Path) -> Any:
    """What a store says it belongs to; None for a folder that is no store of a sweep."""
    group = _open(path)
    return None if group is None else group.attrs.get(IDENTITY)


def _open(path: Path) -> zarr.Group | None:
    try:
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    except (FileNotFoundError, ValueError, KeyError):  # no group, or metadata that are not zarr's
        return None


def _build(
    path: Path,
    plan: Plan,
    identity: Mapping[str, Any],
    constants: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
    attributes: Mapping[str, str],
) -> None:
    """Make an empty store beside its place, and move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, and so in the same file system, where a rename is one step.
    scratch = path.parent / f".{path.name}.{uuid.uuid4().hex}.building"
    try:
        coordinates = [output.name for output in plan.recorded if output.is_coordinate]
        attrs = {**attributes, IDENTITY: identity, **({"coordinates": " ".join(coordinates)} if coordinates else {})}
        group = zarr.create_group(scratch, zarr_format=3, attributes=attrs)
        _create_arrays(group, plan.grid, plan)
        fixed = {axis.name: ((axis.name,), axis.coordinate()) for axis in plan.grid.axes}
        fixed[SEED] = (SEED,), np.asarray(plan.grid.seeds, np.int64)
        for name, (dims, value) in {**fixed, **constants}.items():
            text = value.dtype.kind == "U"
            array: Any = group.create_array(
                name, shape=value.shape, dtype=str if text else value.dtype, dimension_names=dims
            )
            array[...] = value.astype(object) if text else value
        _consolidate(scratch)
        os.rename(scratch, path)
    except OSError:
        if not path.is_dir() or _identity(path) is None:  # else another process was faster, and its store will do
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _create_arrays(group: Any, grid: Grid, plan: Plan) -> None:
    names = (*(axis.name for axis in grid.axes), SEED)
    for name, dims, shape, dtype, options in [
        *((output.name, output.dims, output.shape, output.dtype, {}) for output in plan.recorded),
        ("diverged", (), (), "bool", {"compressors": None}),
        ("done", (), (), "bool", {"compressors": None}),
    ]:
        group.create_array(
            name,
            shape=(*grid.shape, *shape),
            chunks=(*grid.extents, *(max(length, 1) for length in shape)),
            dtype=dtype,
            dimension_names=(*names, *dims),
            # What nobody has written reads as 0: `done` is False there.
            fill_value=0,
            **options,
        )


def _complete(store: Store, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Write down the computations of cells where `run` raised when the store was made and raises no more."""
    computation = {
        point: digest if digest is not None else old["computation"].get(point)
        for point, digest in new["computation"].items()
    }
    if computation != old["computation"]:
        store._group.attrs[IDENTITY] = {**old, "computation": computation}
        _consolidate(store.path)


def _consolidate(path: Path) -> None:
    """Gather all metadata in one file, so that `xarray.open_zarr(path)` finds them there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other readers of zarr may not know such a file; they do not need it
        zarr.consolidate_metadata(path, zarr_format=3)
