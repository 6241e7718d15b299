"""The data set that a sweep returns."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray

from .._keys import IMPLEMENTATION
from ._axes import SEED
from ._in_memory import Memory
from ._plan import Plan, versions
from ._store import IDENTITY, IN_TURN, Store


def attributes_of(plan: Plan) -> dict[str, str]:
    """What there is to know about how the numbers came about."""
    devices = jax.local_devices()
    configuration = {
        "axes": {axis.name: {"kind": axis.kind, "values": list(axis.values)} for axis in plan.grid.axes},
        "seeds": list(plan.grid.seeds),
        "unit": list(plan.grid.extents),
    }
    return {
        **versions(),
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "dtype": str(jax.numpy.result_type(float)),
        "prng": IMPLEMENTATION,
        "key": " ".join(str(int(word)) for word in plan.key),
        "configuration": json.dumps(configuration),
    }


def dataset_of(plan: Plan, kept: Memory | Store, attributes: Mapping[str, str]) -> xarray.Dataset:
    """The results with their dimensions, coordinates and attributes.

    A coordinate has the axes on which it may depend and no others. If runs are missing a variable `done` says which,
    and their floating-point results are NaN.
    """
    data = _stored(kept) if isinstance(kept, Store) else _remembered(plan, kept, attributes)
    axes = plan.grid.axes
    done = data["done"].copy(data=kept.done())
    is_complete = bool(done.all())
    names = {output.name for output in plan.recorded if output.is_coordinate}
    if not is_complete:
        data = data.assign({name: _masked(data[name], done) for name in data.variables if SEED in data[name].dims})
    coordinates: dict[str, Any] = {}
    for name in names:
        shared = [axis.name for axis in axes if axis.is_traced and axis.name not in plan.varies[name]]
        shared += [] if SEED in plan.varies[name] else [SEED]
        coordinates[name] = _along_others(data[name], done, shared)
    data = data.drop_vars([*names, *(["done"] if is_complete else [])])
    data = data.assign_coords({axis.name: axis.coordinate() for axis in axes} | coordinates)
    order = [output.name for output in plan.outputs if not output.is_coordinate]
    return data[[*order, "diverged", *([] if is_complete else ["done"])]]


def _stored(store: Store) -> xarray.Dataset:
    data = store.dataset()
    for name in (IDENTITY, IN_TURN):
        data.attrs.pop(name, None)
    return data


def _remembered(plan: Plan, memory: Memory, attributes: Mapping[str, str]) -> xarray.Dataset:
    names = (*(axis.name for axis in plan.grid.axes), SEED)
    dims = {output.name: output.dims for output in plan.outputs}
    variables: dict[str, Any] = {
        name: ((*names, *dims.get(name, ())), array) for name, array in memory.arrays().items()
    }
    variables["done"] = names, memory.done()
    coords = {**memory.constants, SEED: ((SEED,), np.asarray(plan.grid.seeds, np.int64))}
    return xarray.Dataset(variables, coords, dict(attributes))


def _masked(array: xarray.DataArray, done: xarray.DataArray) -> xarray.DataArray:
    return array.where(done, np.nan if array.dtype.kind in "fc" else array.dtype.type(0))


def _along_others(array: xarray.DataArray, done: xarray.DataArray, shared: list[str]) -> xarray.DataArray:
    """A coordinate without the axes that it does not depend on: its values in the first run along them that is done."""
    if not shared:
        return array
    if bool(done.all()):
        return array.isel(dict.fromkeys(shared, 0), drop=True)
    first = done.stack(_shared=shared).argmax("_shared")
    return array.stack(_shared=shared).isel(_shared=first).drop_vars(["_shared", *shared], errors="ignore")
