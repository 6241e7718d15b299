"""How a sweep is cut into units of work: blocks of one shape, a function of the configuration alone.

A unit is one value of every static axis, and a block of values of the float axes and of seeds. It is computed at once,
and it is one chunk of every array of a store.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._work import OPERATIONS_PER_SECOND, Work
from ._axes import Axis
from ._run_key import point_words

# A unit that is interrupted is computed again: about this much is lost of each worker. To write it takes milliseconds.
UNIT_SECONDS = 1.0
UNIT_BYTES = 256 * 2**20
# Below this ratio of work on elements to work on launches a batch is too small to be efficient.
EFFICIENT = 8.0
MANY = 1024  # runs, to tell what each of them costs from what they share


class Unit(NamedTuple):
    """One unit of work.

    Attributes:
        group: the position on every static axis.
        region: the block of runs, a slice for each axis and one for the seeds.
    """

    group: tuple[int, ...]
    region: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the block."""
        return tuple(part.stop - part.start for part in self.region)


class Grid(NamedTuple):
    """The runs of a sweep, along its axes and then along its seeds, and the blocks they are cut into.

    Attributes:
        axes: the axes.
        seeds: the seeds.
        extents: the shape of a block; blocks at the end of an axis may be smaller.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    extents: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis, and the number of seeds."""
        return (*(len(axis.values) for axis in self.axes), len(self.seeds))

    @property
    def batch_size(self) -> int:
        """The number of runs in a whole block."""
        return math.prod(self.extents)

    def units(self) -> list[Unit]:
        """All units, those of one program after each other."""
        blocks = [
            [slice(start, min(start + extent, length)) for start in range(0, length, extent)]
            for length, extent in zip(self.shape, self.extents, strict=True)
        ]
        units = [Unit(self._group(region), region) for region in itertools.product(*blocks)]
        return sorted(units, key=lambda unit: unit.group)

    def _group(self, region: tuple[slice, ...]) -> tuple[int, ...]:
        return tuple(part.start for axis, part in zip(self.axes, region, strict=False) if not axis.is_traced)

    def static_point(self, group: tuple[int, ...]) -> dict[str, Any]:
        """The values of the static axes at a position."""
        static = [axis for axis in self.axes if not axis.is_traced]
        return {axis.name: axis.values[place] for axis, place in zip(static, group, strict=True)}

    def runs(self, unit: Unit) -> list[tuple[dict[str, Any], int]]:
        """The point and the seed of every run of a unit, in the order of its block."""
        places = itertools.product(*(range(part.start, part.stop) for part in unit.region))
        return [self.run_at(place) for place in places]

    def run_at(self, place: Sequence[int]) -> tuple[dict[str, Any], int]:
        """The point and the seed of one run."""
        point = {axis.name: axis.values[index] for axis, index in zip(self.axes, place, strict=False)}
        return point, self.seeds[place[-1]]

    def inputs(self, unit: Unit) -> tuple[np.ndarray, list[np.ndarray]]:
        """What a batch needs: the words for the key of each run, and the value of each float axis in each run.

        A block at the end of an axis is filled up with its last run, so that one program serves all blocks.
        """
        runs = self.runs(unit)
        words = {}
        for point, _ in runs:
            values = tuple(point.values())
            if values not in words:
                words[values] = point_words(point)
        rows = [(*words[tuple(point.values())], seed) for point, seed in runs]
        fill = np.minimum(np.arange(self.batch_size), len(runs) - 1)
        numbers = [
            np.array([point[axis.name] for point, _ in runs], np.float64)[fill] for axis in self.axes if axis.is_traced
        ]
        return np.array(rows, np.uint32)[fill], numbers


def extents_of(axes: tuple[Axis, ...], seeds: tuple[int, ...], runs: int) -> tuple[int, ...]:
    """The shape of a block of at most `runs` runs: along the seeds first, then along the last float axis, and so on.

    Along an axis the blocks are as equal as they can be, so that little is computed only to fill up the last one.
    """
    extents, left = [], max(runs, 1)
    for length, is_traced in [(len(seeds), True), *((len(axis.values), axis.is_traced) for axis in reversed(axes))]:
        blocks = -(-length // left)
        extents.append(-(-length // blocks) if is_traced else 1)
        left //= extents[-1]
    return tuple(reversed(extents))


def runs_in_a_unit(works: Sequence[Callable[[int], Work]]) -> int:
    """How many runs make a unit of about a second that fits into memory, whichever program it belongs to.

    A single run may last longer than that. Then a unit holds as many as make the time go into numbers rather than into
    launching operations: without that a long sweep of small networks would be several times slower.

    Args:
        works: for each program the work of a batch, by its number of runs.
    """
    return max(1, min(map(_runs, works)))


def _runs(work: Callable[[int], Work]) -> int:
    one, many = work(1), work(MANY)
    # What runs share, such as a data set, costs and takes its memory once for a batch, and drops out of the difference.
    operations = max((many.operations - one.operations) / (MANY - 1), 1.0)
    live_bytes = max((many.live_bytes - one.live_bytes) / (MANY - 1), 1.0)
    per_batch = max(one.operations - operations, 0.0) + one.launches
    in_time = (UNIT_SECONDS * OPERATIONS_PER_SECOND - per_batch) / operations
    efficient = EFFICIENT * per_batch / operations
    return int(min(max(in_time, efficient), UNIT_BYTES / live_bytes, 2**20))
