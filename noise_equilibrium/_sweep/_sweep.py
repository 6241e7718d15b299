"""`sweep`: seeds × hyper-parameters in one call."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import PRNGKeyArray

from .._keys import as_key
from .._validate import integer
from ._axes import read_axes, read_seeds, require_arguments
from ._errors import SweepError
from ._plan import Plan, make_plan
from ._units import Unit

if TYPE_CHECKING:  # loaded on first use: importing the package loads neither xarray nor zarr
    import xarray

    from ._in_memory import Memory
    from ._store import Store
    from ._workers import Outcome

LISTED = 5  # failures that a message lists


def sweep(
    run: Callable[..., Any],
    axes: Mapping[str, Sequence[Any]],
    *,
    seeds: int | Sequence[int],
    key: PRNGKeyArray,
    store: str | PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
    unit: int | None = None,
    unroll: int | None = None,
) -> "xarray.Dataset":
    """Repeat a run over seeds and over all combinations of hyper-parameters.

    Runs are vectorised, many to a unit of work, and shared out over the local devices. Each has its own key, see
    `run_key`, which depends on `key`, its seed and the values of its coordinates alone: adding values to an axis, or
    seeds, changes no random number of another run. Its results then agree to rounding, whatever batch it is in, and to
    the last bit when the same sweep is interrupted and called again.

    Args:
        run: `run(key, **point)`, a pure function that can be traced in the key and in the float axes. It returns a dict
            of name → array, nested if you like, or what `simulate` returns, of which the records, their steps and times
            and `diverged_at` are kept, not the parameters. `labelled` names the axes of other arrays.
        axes: name of an argument of `run` → values. Of what kind an axis is, `np.asarray(values)` says: floats are
            traced, and one compiled program serves them all; ints, bools and strings are compiled in, one program each.
        seeds: how many, or which ones.
        key: a JAX PRNG key (threefry).
        store: a folder to keep the results in as a zarr store. Called again, the sweep does what is not done yet, and
            returns at once if all is. A store of another sweep (axes, seeds, key, program, arrays that `run` closes
            over, versions of JAX and of this package) is refused and left as it is.
        executor: where to compute units, instead of here: anything with `submit(function, *arguments)` whose results
            have `result()` and `done()`, such as a spawned `ProcessPoolExecutor`, a `dask.distributed.Client` or an
            executor of submitit. With a store each worker writes into it, so it must be a folder that all of them see;
            without one the results are sent back.
        progress: whether to show a bar, if standard error is a terminal.
        unit: the number of runs in a unit of work, and in a chunk of the store. If not given it is chosen, from the
            program alone, so that a unit takes about a second on one CPU core and at most about 256 MiB; a store keeps
            what was chosen when it was made. A GPU, or workers that are slow to start, deserve more.
        unroll: how many steps make one turn of the loop of `simulate` and `resume` in `run`, see there; where these say
            so themselves, that holds. A store does not mind another number.

    Returns:
        A data set with the results, by name, whose dimensions are the axes, `seed`, and those of the run; `diverged`,
        which says whether a run returned a number that is not finite, or a `diverged_at` ≥ 0; and versions, device,
        dtype, generator, key and configuration as attributes. With a store, its arrays are read when they are used.

    Raises:
        ValueError: for axes that `run` does not accept, values of no known kind, results whose names or shapes differ
            between cells, a run that needs the value of a traced number, a store that cannot be used, or an executor
            whose workers lack a module.
        SweepError: if runs raised, or workers were lost. All others are done and kept, and the message gives the
            coordinates. Called again, with a store, the sweep tries those that are missing.

    Examples:
        >>> import jax, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jax.numpy.array([1.0, 3.0]))
        >>> def run(key, *, rate, batch):
        ...     start, observe = jax.numpy.array(0.0), {"w": lambda w: w}
        ...     return ne.simulate(problem, ne.SGD(rate, batch), start, 40, key=key, observe=observe, every=10)
        >>> data = ne.sweep(run, {"rate": [0.1, 0.2], "batch": [1, 2]}, seeds=8, key=jax.random.key(0))
        >>> dict(data.w.sizes)
        {'rate': 2, 'batch': 2, 'seed': 8, 'step': 5}
        >>> data.time.dims, data.step.values.tolist()
        (('rate', 'batch', 'step'), [0, 10, 20, 30, 40])
    """
    known_axes, known_seeds = read_axes(axes), read_seeds(seeds)
    require_arguments(run, known_axes)
    if unit is not None and (not hasattr(unit, "__index__") or unit < 1):
        raise ValueError(f"unit is {unit!r}; expected a number of runs, at least 1, or None.")
    unroll = None if unroll is None else integer(unroll, "unroll", 1)
    key = as_key(key, "sweep")
    from . import _dataset, _in_memory, _progress, _store, _workers

    if executor is not None:
        _workers.require_executor(executor)
    path = None if store is None else _store.store_path(store)
    stored = None if path is None else _store.stored_extents(path)
    plan = make_plan(run, known_axes, known_seeds, key, unit, stored, unroll)
    attributes = _dataset.attributes_of(plan)
    kept = _in_memory.Memory(plan) if path is None else _store.open_store(path, plan, attributes)
    done = kept.done().copy()
    diverged = int(np.sum(kept.diverged() & done)) if isinstance(kept, _store.Store) else 0
    units = [one for one in plan.grid.units() if one.group in plan.programs and not done[one.region].all()]
    bar = _progress.Progress(progress, done.size, int(done.sum()), diverged)
    failures = _raised_while_traced(plan)
    try:
        outcomes = _workers.submit_all(executor, run, plan, units, kept) if executor else _here(run, plan, units, kept)
        for outcome in outcomes:
            if outcome.block is not None and isinstance(kept, _in_memory.Memory):
                kept.write(outcome.unit, outcome.block)
            fresh = outcome.done - int(done[outcome.unit.region].sum())
            bar.add(max(fresh, 0), outcome.diverged)
            failures += _failures(plan, outcome)
    except BaseException as error:
        if bar.done or path is not None or isinstance(error, KeyboardInterrupt):
            error.add_note(_how_to_go_on(bar.done, bar.total, path))
        raise
    finally:
        bar.close()
    data = _dataset.dataset_of(plan, kept, attributes)
    if "done" in data:
        raise SweepError(_report(failures, data["done"].values, path), data)
    return data


def _here(run: Callable[..., Any], plan: Plan, units: list[Unit], kept: "Memory | Store") -> Iterator["Outcome"]:
    """Compute units in this process, one after the other."""
    from ._engine import Engine
    from ._workers import outcome_of

    engine = Engine(
        run,
        plan.grid,
        plan.key,
        [output.name for output in plan.recorded],
        plan.programs,
        plan.unroll,
        kept.in_turn(plan.grid, plan.programs),
        functools.partial(kept.remember, plan.grid),
    )
    for unit in units:
        block = engine.compute(unit)
        try:
            kept.write(unit, block)
        except OSError as error:
            raise SweepError(f"a unit could not be written: {error}. Is the disk full?") from error
        yield outcome_of(unit, block, keep=False)


def _raised_while_traced(plan: Plan) -> list[str]:
    return [
        f"at {plan.grid.static_point(group)}: {type(error).__name__}: {error}" for group, error in plan.raised.items()
    ]


def _failures(plan: Plan, outcome: "Outcome") -> list[str]:
    runs = plan.grid.runs(outcome.unit)
    said = [f"at {runs[place][0]}, seed {runs[place][1]}: {text}" for place, text in outcome.failures.items()]
    if outcome.lost:
        said.append(
            f"the unit from {runs[0][0]}, seed {runs[0][1]} to {runs[-1][0]}, seed {runs[-1][1]}: {outcome.lost}"
        )
    return said


def _report(failures: list[str], done: np.ndarray, path: Any) -> str:
    listed = "".join(f"\n  {line}" for line in failures[:LISTED])
    more = f"\n  and {len(failures) - LISTED} more" if len(failures) > LISTED else ""
    where = "in the store; the same call tries the others again" if path else "as the attribute dataset of this error"
    missing = done.size - int(done.sum())
    return f"{missing} of {done.size} runs could not be done:{listed}{more}\nThe others are done, and kept {where}."


def _how_to_go_on(done: int, total: int, path: Any) -> str:
    if path is None:
        return f"{done} of {total} runs were done and are lost; give store= a folder to keep what is done."
    return f"{done} of {total} runs are done and kept in {path}; the same call goes on from there."
