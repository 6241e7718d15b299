"""The results of a sweep without a store."""

from collections.abc import Iterable, Mapping

import numpy as np

from ._engine import Block
from ._plan import Plan
from ._units import Grid, Unit


class Memory:
    """Arrays of all runs, filled unit by unit.

    Args:
        plan: the sweep.
    """

    def __init__(self, plan: Plan):
        shape = plan.grid.shape
        self._done = np.zeros(shape, bool)
        self._arrays = {output.name: np.zeros(shape + output.shape, output.dtype) for output in plan.recorded}
        self._arrays["diverged"] = np.zeros(shape, bool)
        self.constants = plan.constant_values()

    def write(self, unit: Unit, block: Block) -> None:
        """Keep what a unit computed."""
        for name, array in block.arrays.items():
            self._arrays[name][unit.region] = array
        self._done[unit.region] = block.done

    def in_turn(self, grid: Grid, groups: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], bool]:
        """Nothing is known beforehand."""
        return {}

    def remember(self, grid: Grid, group: tuple[int, ...], in_turn: bool) -> None:
        """Nothing comes after this call."""

    def done(self) -> np.ndarray:
        """Which runs are done."""
        return self._done

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The results, with `diverged`."""
        return self._arrays
