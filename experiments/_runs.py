"""Independent runs at once, runs that are recorded densely at the start, and integrals along them."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import noise_equilibrium as ne

EARLY, LATER = 100, 95  # records of the first twentieth of the steps, and of the others


@eqx.filter_jit
def independent_runs(
    problem: ne.Problem,
    dynamics: ne.AbstractDynamics,
    starts: PyTree,
    keys: Array,
    steps: int,
    observe: Mapping[str, Any] | None = None,
    *,
    records: int = 1,
    stacked: bool = False,
) -> ne.Trajectory:
    """Independent runs at once, one for each start and key.

    Args:
        problem: the problem.
        dynamics: of all runs.
        starts: parameters with the runs in front.
        keys: a key for each run.
        steps: the number of steps.
        observe: observables.
        records: the number of records after the start; divides the steps.
        stacked: whether the data of the problem have the runs in front too, one data set or Stream for each.
    """

    def one(problem: ne.Problem, start: PyTree, key: Array) -> ne.Trajectory:
        return ne.simulate(problem, dynamics, start, steps, key=key, observe=observe, every=steps // records)

    return eqx.filter_vmap(one, in_axes=(eqx.if_array(0) if stacked else None, 0, 0))(problem, starts, keys)


@eqx.filter_jit
def dense_start(
    problem: ne.Problem, dynamics: Any, starts: PyTree, keys: Array, steps: int, observe: Callable[[Any], dict]
) -> dict[str, Array]:
    """The records of `observe` along independent runs, twenty times as dense in the first twentieth of the steps.

    Args:
        problem: the problem.
        dynamics: of all runs.
        starts: parameters with the runs in front.
        keys: a key for each run.
        steps: a multiple of 2000.
        observe: a function of params; a dict of arrays.

    Returns:
        These arrays of shape (runs, 196, …), and "time".
    """
    early, watch = steps // 20, {"all": observe}

    def one(start: PyTree, key: Array) -> dict[str, Array]:
        first = ne.simulate(problem, dynamics, start, early, key=key, observe=watch, every=early // EARLY)
        later = ne.resume(problem, dynamics, first, steps - early, observe=watch, every=(steps - early) // LATER)
        both = jax.tree_util.tree_map(
            lambda a, b: jnp.concatenate([a, b[1:]]), first.observed["all"], later.observed["all"]
        )
        return {**both, "time": jnp.concatenate([first.time, later.time[1:]])}

    return jax.vmap(one)(starts, keys)


def integral(time: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """∫ rate dt up to each record, by the trapezoidal rule.

    Args:
        time: (records,).
        rates: (runs, records, …).
    """
    steps = np.diff(time).reshape(1, -1, *[1] * (rates.ndim - 2)) * (rates[:, 1:] + rates[:, :-1]) / 2
    return np.concatenate([np.zeros_like(rates[:, :1]), np.cumsum(steps, axis=1)], axis=1)
