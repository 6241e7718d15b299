"""Units computed elsewhere: by processes of a pool, of dask or of a cluster, anything with `submit`.

Each task carries everything it needs and writes its own region of the store, so workers need not know each other, and a
task that is lost, or run twice, does no harm.
"""

import functools
import itertools
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._engine import Block, Engine
from ._errors import SweepError
from ._in_memory import Memory
from ._plan import PINNED, Plan, versions
from ._store import Store
from ._units import Grid, Unit

# Short against a unit, which takes about a second.
POLL_SECONDS = 0.05
# Tasks that an executor has at once: more than most clusters have workers. Every look is at all of them, and each
# carries the job: without a bound the time to look would grow with the square of a sweep.
WAITING = 4096


class Job(NamedTuple):
    """What all tasks of a sweep have in common.

    Attributes:
        run: the function of the user.
        grid: the runs.
        key: the data of the key.
        kept: the names of the results to keep.
        digests: for each position on the static axes the hash of its program.
        store: where to write; None to send the results back.
        wide: whether the sweep computes in double precision.
        versions: the versions of the process that sends it.
        unroll: the steps in a turn of the loops, as the user asked for.
        in_turn: for the programs of which a store knows it, whether runs are taken one after the other.
    """

    run: Callable[..., Any]
    grid: Grid
    key: np.ndarray
    kept: tuple[str, ...]
    digests: dict[tuple[int, ...], str]
    store: Path | None
    wide: bool
    versions: dict[str, str]
    unroll: int | None
    in_turn: dict[tuple[int, ...], bool]


class Outcome(NamedTuple):
    """What became of a unit: its block (None if it was written to a store), how many runs diverged, or why it is lost.

    Attributes:
        unit: the unit.
        done: how many of its runs are done.
        diverged: how many of these diverged.
        failures: what the others raised, by their place in the unit.
        block: the results, if they were sent back.
        lost: why the whole unit is missing; empty if it is not.
    """

    unit: Unit
    done: int
    diverged: int
    failures: dict[int, str]
    block: Block | None = None
    lost: str = ""


class _Task:
    """A task that does its work when it is unpickled.

    What is submitted is `pickle.loads` and these bytes. So a worker, or a scheduler, that lacks this package fails
    inside of the task, where every executor reports what was raised, and not in the executor's own machinery, where a
    process dies without a word.
    """

    def __init__(self, job: bytes, unit: Unit, attempt: int):
        self._content = job, unit, attempt

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return perform, self._content


def perform(job: bytes, unit: Unit, attempt: int) -> Outcome:
    """Compute one unit of a job in this process; `attempt` only makes the same unit another task."""
    return _worker(job).perform(unit)


# A process gets the same job with each of its tasks, and traces and compiles it once.
@functools.lru_cache(maxsize=2)
def _worker(job: bytes) -> "_Worker":
    return _Worker(pickle.loads(job))


class _Worker:
    def __init__(self, job: Job):
        self._job = job
        here = versions()
        differing = [name for name in PINNED if here[name] != job.versions[name]]
        if differing:
            said = ", ".join(f"{name} {here[name]} instead of {job.versions[name]}" for name in differing)
            raise ValueError(f"a worker has {said}; expected the same versions everywhere.")
        self._engine = Engine(job.run, job.grid, job.key, job.kept, unroll=job.unroll, in_turn=job.in_turn)
        self._checked: set[tuple[int, ...]] = set()
        if job.store is not None and not job.store.is_dir():
            raise ValueError(f"a worker does not see the store {job.store}; expected a folder that all of them share.")
        self._store = None if job.store is None else Store(job.store)

    def perform(self, unit: Unit) -> Outcome:
        with jax.enable_x64(self._job.wide):
            if unit.group not in self._checked:
                if self._engine.program(unit.group).digest != self._job.digests[unit.group]:
                    raise ValueError(
                        "a worker traces another program than the process that sent it; expected the same "
                        "configuration of JAX, and modules that run uses in the same version, everywhere."
                    )
                self._checked.add(unit.group)
            block = self._engine.compute(unit)
        if self._store is not None:
            self._store.write(unit, block)
        return outcome_of(unit, block, keep=self._store is None)


def outcome_of(unit: Unit, block: Block, keep: bool) -> Outcome:
    """What became of a unit that was computed."""
    diverged = int(np.sum(block.arrays["diverged"][block.done])) if block.arrays else 0
    return Outcome(unit, int(block.done.sum()), diverged, block.failures, block if keep else None)


def require_executor(executor: Any) -> None:
    """Raise a ValueError for what has no `submit`, and for a pool of forked processes."""
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(f"executor is {executor!r}; expected an object with submit(function, *arguments).")
    context = getattr(executor, "_mp_context", None)  # of a concurrent.futures.ProcessPoolExecutor
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "executor forks its processes, and a fork of a process that uses JAX can hang; expected spawned ones: "
            'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")).'
        )


def submit_all(
    executor: Any, run: Callable[..., Any], plan: Plan, units: list[Unit], kept: Memory | Store
) -> Iterator[Outcome]:
    """Hand units to an executor, and tell what became of each as it ends.

    Raises:
        ValueError: if a worker lacks a module, sees no store, or computes another program.
        SweepError: if the store cannot be written.
    """
    job = Job(
        run,
        plan.grid,
        plan.key,
        (*(output.name for output in plan.recorded),),
        {group: program.digest for group, program in plan.programs.items()},
        kept.path if isinstance(kept, Store) else None,
        jnp.result_type(float) == jnp.float64,
        versions(),
        plan.unroll,
        kept.in_turn(plan.grid, plan.programs),
    )
    content = _pickled(job)
    attempt = time.time_ns()  # dask takes equal tasks for one and the same
    ahead = iter(units)

    def submitted(count: int) -> list[tuple[Unit, Any]]:
        chosen = itertools.islice(ahead, count)
        return [(unit, executor.submit(pickle.loads, pickle.dumps(_Task(content, unit, attempt)))) for unit in chosen]

    waiting = submitted(WAITING)
    try:
        while waiting:
            left = []
            for unit, future in waiting:
                if future.done():
                    yield _outcome(unit, future)
                else:
                    left.append((unit, future))
            if len(left) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = left
            waiting += submitted(WAITING - len(waiting))
    finally:
        for _, future in waiting:
            getattr(future, "cancel", lambda: None)()


def _pickled(job: Job) -> bytes:
    """Also functions that were defined in a script, a notebook or another function."""
    try:
        import cloudpickle
    except ImportError:
        raise ValueError(
            "an executor needs the package cloudpickle, to send run to its workers; it comes with "
            "pip install 'noise_equilibrium[cluster]'."
        ) from None
    return cloudpickle.dumps(job)


def _outcome(unit: Unit, future: Any) -> Outcome:
    """What a task returned; a unit that is lost becomes an outcome, what concerns all units an error."""
    try:
        return future.result()
    except Exception as error:
        said = [f"{type(link).__name__}: {link}" for link in _chain(error)]
        lacking = next((line for text in said for line in text.splitlines() if "ModuleNotFoundError" in line), None)
        if lacking is not None:
            raise ValueError(
                f"a worker lacks a module that this process has ({lacking.strip()}). Install noise_equilibrium, and "
                "all that run imports, where the executor runs its workers."
            ) from error
        if isinstance(error, ValueError):  # what a worker says of itself
            raise
        if isinstance(error, OSError | SweepError):
            raise SweepError(f"a worker could not keep its unit: {said[0]}") from error
        return Outcome(unit, 0, 0, {}, None, said[0].partition("\n")[0])


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
