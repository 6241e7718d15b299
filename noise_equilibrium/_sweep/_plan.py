"""The plan of a sweep: every program traced, results compared, units cut; nothing is computed yet."""

import itertools
import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ._axes import Axis
from ._errors import SweepError
from ._results import Output
from ._traced_run import Program, RunRaised, trace
from ._units import Grid, extents_of, runs_in_a_unit

FORMAT = 1  # of a store


class Plan(NamedTuple):
    """A sweep that is ready to run.

    Attributes:
        grid: its runs and their units.
        key: the data of its key.
        outputs: what every run returns.
        varies: for each coordinate among them the traced axes on which it may depend.
        constants: the coordinates that are the same for all runs; they are not stored run by run.
        programs: for each position on the static axes its program.
        raised: for each position where `run` raised what it raised.
        unroll: the steps in a turn of the loops, as the user asked for.
    """

    grid: Grid
    key: np.ndarray
    outputs: tuple[Output, ...]
    varies: dict[str, frozenset[str]]
    constants: tuple[str, ...]
    programs: dict[tuple[int, ...], Program]
    raised: dict[tuple[int, ...], BaseException]
    unroll: int | None = None

    @property
    def recorded(self) -> tuple[Output, ...]:
        """What is stored for every run."""
        return tuple(output for output in self.outputs if output.name not in self.constants)

    def constant_values(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Dimensions and values of the coordinates that are the same for all runs.

        Raises:
            ValueError: if the index of a dimension is not the same for every value of the static axes.
        """
        found: dict[str, np.ndarray] = {}
        for group, program in self.programs.items():
            for name, value in program.constants(self.constants).items():
                if not np.array_equal(found.setdefault(name, value), value):
                    raise ValueError(
                        f"the index of dimension {name!r} at {self.grid.static_point(group)} differs from that in "
                        "other cells; expected the same in all. Give it another name, to make it a coordinate along "
                        f"{name!r} that may differ."
                    )
        dims = {output.name: output.dims for output in self.outputs}
        return {name: (dims[name], value) for name, value in found.items()}

    def identity(self) -> dict[str, Any]:
        """What must agree for a store to be continued, as JSON can hold it."""
        groups = itertools.chain(self.programs, self.raised)
        return {
            "format": FORMAT,
            "versions": {name: value for name, value in versions().items() if name in PINNED},
            "precision": str(jax.numpy.result_type(float)),
            "axes": {axis.name: {"kind": axis.kind, "values": list(axis.values)} for axis in self.grid.axes},
            "seeds": list(self.grid.seeds),
            "key": [int(word) for word in self.key],
            "results": {output.name: [list(output.dims), list(output.shape), output.dtype] for output in self.outputs},
            "computation": {
                json.dumps(self.grid.static_point(group)): self.programs[group].digest
                if group in self.programs
                else None
                for group in sorted(groups)
            },
        }


PINNED = ("noise_equilibrium", "jax", "jaxlib")  # another version of these may compute other numbers


def versions() -> dict[str, str]:
    """The versions of what computes and keeps the numbers."""
    found = {"python": platform.python_version()}
    for name in (*PINNED, "numpy", "xarray", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree that is not installed
            found[name] = "unknown"
    return found


def make_plan(
    run: Callable[..., Any],
    axes: tuple[Axis, ...],
    seeds: tuple[int, ...],
    key: PRNGKeyArray,
    unit: int | None,
    stored: tuple[int, ...] | None = None,
    unroll: int | None = None,
) -> Plan:
    """Trace a run at every point of the static axes, and cut the sweep into units.

    Args:
        run: the function of the user.
        axes: the axes.
        seeds: the seeds.
        key: the key of the sweep.
        unit: the number of runs in a unit that the user asked for.
        stored: the extents of the units of an existing store, which hold unless the user asks for others.
        unroll: see `trace`.

    Raises:
        ValueError: if the results differ in names, shapes or dtypes between cells, and what `trace` raises.
        SweepError: if `run` raises at every point.
    """
    static = [axis for axis in axes if not axis.is_traced]
    programs: dict[tuple[int, ...], Program] = {}
    raised: dict[tuple[int, ...], BaseException] = {}
    for group in itertools.product(*(range(len(axis.values)) for axis in static)):
        point = {axis.name: axis.values[place] for axis, place in zip(static, group, strict=True)}
        try:
            programs[group] = trace(run, axes, point, unroll)
        except RunRaised as error:
            raised[group] = error.reason
            continue
        _require_same(programs, group, static)
    if not programs:
        first = next(iter(raised.values()))
        raise SweepError(f"run raised in every cell, first {type(first).__name__}: {first}") from first
    outputs = next(iter(programs.values())).outputs
    varies: dict[str, frozenset[str]] = {}
    for program in programs.values():
        for name, needed in program.varies.items():
            varies[name] = varies.get(name, frozenset()) | needed
    for output in outputs:
        if output.is_coordinate and output.dims == (output.name,) and varies[output.name]:
            raise ValueError(
                f"coordinate {output.name!r} is the index of its dimension and depends on "
                f"{', '.join(sorted(varies[output.name]))}; expected the same numbers in every run. Give it another "
                f"name, to make it a coordinate along {output.name!r} that may differ."
            )
    constants = tuple(
        output.name
        for output in outputs
        if output.is_coordinate and not varies[output.name] and (output.dims == (output.name,) or not static)
    )
    if unit is None and stored is not None:
        extents = stored
    else:
        extents = extents_of(axes, seeds, unit or runs_in_a_unit([program.work for program in programs.values()]))
    grid = Grid(axes, seeds, extents)
    return Plan(grid, np.asarray(jax.random.key_data(key)), outputs, varies, constants, programs, raised, unroll)


def _require_same(programs: Mapping[tuple[int, ...], Program], group: tuple[int, ...], static: list[Axis]) -> None:
    """Compare the results at one point of the static axes with those at the first one."""
    first = next(iter(programs))
    if programs[first].outputs == programs[group].outputs:
        return
    here, there = (
        {output.name: f"{output.dtype} {dict(zip(output.dims, output.shape, strict=True))}" for output in outputs}
        for outputs in (programs[first].outputs, programs[group].outputs)
    )
    differing = next((name for name in {**here, **there} if here.get(name) != there.get(name)), "coordinates")
    points = [{axis.name: axis.values[place] for axis, place in zip(static, at, strict=True)} for at in (first, group)]
    one, other = here.get(differing, "missing"), there.get(differing, "missing")
    raise ValueError(
        f"result {differing!r} is {one} at {points[0]} and {other} at {points[1]}; expected the same names, shapes and "
        "dtypes in every cell. Return a summary whose shape does not depend on the axis, or sweep over that axis in "
        "separate calls."
    )


def differences(old: Any, new: Mapping[str, Any]) -> list[str]:
    """In words, what distinguishes the identity of a store from that of a sweep; empty if nothing does."""
    if not isinstance(old, Mapping) or old.get("format") != new["format"]:
        found = old.get("format") if isinstance(old, Mapping) else None
        return [f"the format of the store is {found!r} and this version writes {new['format']!r}"]
    said = []
    for name, is_version in [*((name, True) for name in new["versions"]), ("precision", False)]:
        was, now = (side["versions"].get(name) if is_version else side.get(name) for side in (old, new))
        if was != now:
            said.append(f"{name} was {was} and is {now}")
    for name in {**old["axes"], **new["axes"]}:
        was, now = old["axes"].get(name), new["axes"].get(name)
        if was != now:
            said.append(f"axis {name!r} was {_values(was)} and is {_values(now)}")
    if list(old["axes"]) != list(new["axes"]) and set(old["axes"]) == set(new["axes"]):
        said.append(f"the axes were in the order {list(old['axes'])} and are in the order {list(new['axes'])}")
    if old["seeds"] != new["seeds"]:
        said.append(f"the seeds were {_short(old['seeds'])} and are {_short(new['seeds'])}")
    if old["key"] != new["key"]:
        said.append("the key is another one")
    if old["results"] != new["results"]:
        said.append(f"the results were {old['results']} and are {new['results']}")
    if said:
        return said  # what follows is a consequence of these
    # A cell in which `run` raised has no digest: it is no other computation, only a missing one.
    changed = [
        point
        for point, digest in new["computation"].items()
        if digest is not None and old["computation"].get(point) not in (None, digest)
    ]
    if changed:
        where = "" if changed == ["{}"] else f" at {', '.join(changed[:3])}" + (" and others" if changed[3:] else "")
        said.append(f"the computation{where} is another one: run, or an array that it closes over, has changed")
    return said


def _values(axis: Any) -> str:
    return "absent" if axis is None else f"{_short(axis['values'])} ({axis['kind']})"


def _short(values: list[Any]) -> str:
    return str(values) if len(values) <= 8 else f"[{values[0]}, {values[1]}, … {values[-1]}] ({len(values)} values)"
