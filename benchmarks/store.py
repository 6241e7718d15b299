"""A store of many units: `python -m benchmarks.store [UNITS ...]`.

Seconds to make it, to open it when nothing and when everything is done, and milliseconds to append a unit, at the
beginning and at the end; bytes of metadata. A unit is ten runs of three numbers. The flags of the units in between are
written as files, as zarr would have written them.
"""

import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from noise_equilibrium._sweep._axes import read_axes, read_seeds
from noise_equilibrium._sweep._dataset import attributes_of, dataset_of
from noise_equilibrium._sweep._engine import Block
from noise_equilibrium._sweep._plan import Plan, make_plan
from noise_equilibrium._sweep._store import Store, open_store, store_path
from noise_equilibrium._sweep._units import Unit

RUNS, SOME = 10, 50


def plan_of(units: int) -> Plan:
    """Ten rates and as many seeds as units, ten runs a unit."""

    def run(key: jax.Array, *, rate: Any) -> dict[str, jax.Array]:
        return {"x": rate * jax.random.uniform(key, (3,))}

    rates = np.linspace(1, 2, 10).tolist()
    return make_plan(run, read_axes({"rate": rates}), read_seeds(units), jax.random.key(0), RUNS)


def block(unit: Unit) -> Block:
    """What a unit might have computed."""
    return Block(
        {"x": np.ones((*unit.shape, 3)), "diverged": np.zeros(unit.shape, bool)}, np.ones(unit.shape, bool), {}
    )


def appended(store: Store, units: list[Unit]) -> float:
    """Milliseconds for a unit."""
    taken = []
    for unit in units:
        start = time.perf_counter()
        store.write(unit, block(unit))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def fill(path: Path, plan: Plan) -> None:
    """The flags of every unit that is not there yet."""
    counts = [-(-length // extent) for length, extent in zip(plan.grid.shape, plan.grid.extents, strict=True)]
    for name, flag in (("diverged", False), ("done", True)):
        content = np.full(plan.grid.extents, flag).tobytes()
        for place in np.ndindex(*counts):
            file = path / name / "c" / "/".join(map(str, place))
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def look(path: Path, plan: Plan) -> tuple[Store, int]:
    """What every call does first: the store, and how many units are to do."""
    store = open_store(store_path(path), plan, attributes_of(plan))
    done = store.done()
    store.diverged()
    return store, sum(not done[unit.region].all() for unit in plan.grid.units())


def row(units: int, folder: Path) -> None:
    """One size."""
    plan, path = plan_of(units), folder / f"{units}"
    every = plan.grid.units()
    make, store = timed(lambda: open_store(store_path(path), plan, attributes_of(plan)))
    first = appended(store, every[:SOME])
    begin, (_, left) = timed(lambda: look(path, plan))
    assert left == len(every) - SOME
    fill(path, plan)
    last = appended(store, every[-SOME:])
    resume, (store, left) = timed(lambda: look(path, plan))
    assert left == 0
    finish, _ = timed(lambda: dataset_of(plan, store, attributes_of(plan)))
    plain, _ = timed(lambda: xarray.open_zarr(path))
    metadata = sum(file.stat().st_size for file in [path / "zarr.json", *path.glob("*/zarr.json")])
    print(
        f"{len(every):8}{make:8.2f}{begin:10.2f}{resume:12.2f}{finish:10.2f}{plain:8.2f}{first:10.1f}{last:8.1f}"
        f"{metadata / 1e3:12.0f}{metadata / math.prod(plan.grid.shape):9.1f}",
        flush=True,
    )
    shutil.rmtree(path)


def main(*units: int) -> None:
    """Print the table."""
    print(f"jax {jax.__version__}, dtype {jnp.result_type(float)}; seconds, and ms to append a unit at either end")
    head = ("units", "make", "open", "open, done", "dataset", "xarray", "append", "last", "metadata kB", "B/run")
    widths = (8, 8, 10, 12, 10, 8, 10, 8, 12, 9)
    print("".join(f"{name:>{width}}" for name, width in zip(head, widths, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        for count in units or (1000, 10_000, 100_000):
            row(count, Path(folder))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
