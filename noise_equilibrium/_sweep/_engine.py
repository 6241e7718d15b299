"""Computing units, and finding the runs that raise among those of a unit."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._errors import SweepError
from ._traced_run import Batch, Program, trace
from ._units import Grid, Unit

Results = dict[str, np.ndarray]
# One after the other is chosen if it is faster by more than two clocks of one program differ.
CLEARLY = 0.8


class Block(NamedTuple):
    """What a unit computed.

    Attributes:
        arrays: the results, each of the shape of the unit followed by its own.
        done: which runs are done; the results of the others mean nothing.
        failures: what each of the others raised, by its place in the block.
    """

    arrays: Results
    done: np.ndarray
    failures: dict[int, str]


class Engine:
    """Computes units of one sweep, and keeps the program compiled that it used last.

    Args:
        run: the function of the user.
        grid: the runs.
        key: the data of the key of the sweep.
        kept: the names of the results to keep.
        programs: programs traced already.
        unroll: see `trace`.
        in_turn: where the static axes are at these positions, whether runs are taken one after the other.
        remember: where that is not known for a program with convolutions it is timed on the first unit, and this is
            told. Without it such runs are taken all at once, as all others are.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        grid: Grid,
        key: np.ndarray,
        kept: Sequence[str],
        programs: Mapping[tuple[int, ...], Program] | None = None,
        unroll: int | None = None,
        in_turn: Mapping[tuple[int, ...], bool] | None = None,
        remember: Callable[[tuple[int, ...], bool], None] | None = None,
    ):
        self._run, self._grid, self._key, self._kept = run, grid, key, tuple(kept)
        self._unroll, self._in_turn, self._remember = unroll, dict(in_turn or {}), remember
        self._traced_runs = dict(programs or {})
        self._compiled: tuple[tuple[int, ...], Batch] | None = None

    def program(self, group: tuple[int, ...]) -> Program:
        """The program at a position of the static axes."""
        if group not in self._traced_runs:
            point = self._grid.static_point(group)
            self._traced_runs[group] = trace(self._run, self._grid.axes, point, self._unroll)
        return self._traced_runs[group]

    def compute(self, unit: Unit) -> Block:
        """Compute one unit.

        Raises:
            SweepError: if it does not fit into the memory of the device.
        """
        words, numbers = self._grid.inputs(unit)
        count = int(np.prod(unit.shape))
        batch = self._batch(unit.group, words, numbers)

        def attempt(lanes: np.ndarray) -> Results:
            return batch(self._key, words[lanes], [number[lanes] for number in numbers])

        results, failures = run_all(attempt, batch.size, count)
        done = np.ones(count, bool)
        done[list(failures)] = False
        arrays = {name: value[:count].reshape(unit.shape + value.shape[1:]) for name, value in results.items()}
        return Block(arrays, done.reshape(unit.shape), failures)

    def _batch(self, group: tuple[int, ...], words: np.ndarray, numbers: list[np.ndarray]) -> Batch:
        compiled = self._compiled  # taken once: threads of one process share an engine
        if compiled is None or compiled[0] != group:
            compiled = group, self._compile(group, words, numbers)
            self._compiled = compiled
        return compiled[1]

    def _compile(self, group: tuple[int, ...], words: np.ndarray, numbers: list[np.ndarray]) -> Batch:
        program, size = self.program(group), self._grid.batch_size
        if group in self._in_turn or self._remember is None or not program.convolves or size == 1:
            return Batch(program, self._kept, size, self._in_turn.get(group, False))
        ways = {in_turn: Batch(program, self._kept, size, in_turn) for in_turn in (False, True)}
        try:
            seconds = {in_turn: _seconds(batch, self._key, words, numbers) for in_turn, batch in ways.items()}
            chosen = seconds[True] < CLEARLY * seconds[False]
        except Exception:  # of a run that raises, which is found out where it is computed; nothing was measured
            return ways[False]
        self._in_turn[group] = chosen
        self._remember(group, chosen)
        return ways[chosen]


def _seconds(batch: Batch, key: np.ndarray, words: np.ndarray, numbers: list[np.ndarray]) -> float:
    start = time.perf_counter()
    batch(key, words, numbers)
    return time.perf_counter() - start


def run_all(attempt: Callable[[np.ndarray], Results], lanes: int, count: int) -> tuple[Results, dict[int, str]]:
    """The results of a batch, and what its runs raised that could not be done.

    One run that raises takes the whole batch down with it. So the runs are tried in halves, until those that raise are
    known. Each stays in its own lane of the batch, and the lanes of the others are given to one that is tried: what is
    good comes out to the last bit as if nothing had been wrong.

    Args:
        attempt: computes the runs with these numbers, one for each lane.
        lanes: the number of lanes.
        count: how many of them hold a run; the rest repeat the last one.
    """
    failures: dict[int, str] = {}
    results: Results = {}

    def tried(chosen: Sequence[int]) -> bool:
        nonlocal results
        order = np.full(lanes, chosen[0])
        order[list(chosen)] = list(chosen)
        try:
            results = attempt(order)
        except Exception as error:
            # XLA has no exception of its own for it, only this word.
            if "RESOURCE_EXHAUSTED" in str(error):
                raise SweepError(
                    f"a unit of {lanes} runs does not fit into the memory of the device; give unit= a smaller number. "
                    f"({_last_line(error)})"
                ) from error
            if len(chosen) == 1:
                failures[chosen[0]] = _last_line(error)
            return False
        return True

    def narrow(chosen: Sequence[int]) -> None:
        if not tried(chosen) and len(chosen) > 1:
            narrow(chosen[: len(chosen) // 2])
            narrow(chosen[len(chosen) // 2 :])

    narrow(range(count))
    good = [place for place in range(count) if place not in failures]
    if failures and good and not tried(good):
        raise SweepError("runs raise together and not by themselves, so that none of them can be blamed.")
    return results if good else {}, failures


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
