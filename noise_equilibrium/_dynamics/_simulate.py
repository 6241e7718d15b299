"""`simulate`: one loop for all dynamics, recording observables and never states."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._keys import as_key
from .._numbers import jit, require_scalar
from .._parameters import is_array, split, widest_dtype
from .._problem import Problem
from ._dynamics import AbstractDynamics

Observables = Mapping[str, Callable[[PyTree], PyTree]]


class Trajectory(eqx.Module):
    """What a run leaves behind; under `vmap` every array has the runs in front.

    Attributes:
        params: the final parameters, or the last finite ones of a run that diverged (the start, if it was not finite).
        step: (steps // every + 1,) the numbers of steps done at each record, from 0.
        time: (steps // every + 1,) the time at each record: Σ η for SGD and GD, Σ dt for the SDE and gradient flow.
        observed: for each observable its records, stacked along a leading axis of steps // every + 1 rows, the first
            of them the start. After a divergence floating-point records are NaN, others keep their last value.
        diverged_at: the step, counted from 1, whose result was first not finite; −1 if none was.
    """

    params: PyTree
    step: Int[Array, " rows"]
    time: Float[Array, " rows"]
    observed: dict[str, PyTree]
    diverged_at: Int[Array, ""]


class _Carry(eqx.Module):
    arrays: list[Array]
    state: PyTree
    diverged_at: Int[Array, ""]


def simulate(
    problem: Problem,
    dynamics: AbstractDynamics,
    params: PyTree,
    steps: int,
    *,
    key: PRNGKeyArray | None = None,
    observe: Observables | None = None,
    every: int = 1,
) -> Trajectory:
    """Run dynamics for a number of steps.

    Memory does not grow with the steps, only with the records. A run whose parameters become non-finite is frozen at
    its last finite ones and flagged; under `vmap` its neighbours go on as if nothing had happened, to the last bit.
    That holds for values: a derivative through a run that diverged is NaN, also in parameters shared with others.

    Args:
        problem: the problem.
        dynamics: SGD, GD, SDE or GradientFlow.
        params: where to start; any pytree.
        steps: the number of steps ≥ 0.
        key: a JAX PRNG key (threefry), for dynamics with noise. Step t uses fold_in(key, t), so the random numbers of a
            run depend on its key alone. Give independent runs independent keys, and none the key of its own
            initialisation.
        observe: name → function of params that returns any pytree of arrays. Define the functions once: one made anew
            for each call is compiled anew.
        every: steps between records; divides `steps`.

    Returns:
        A `Trajectory`.

    Raises:
        ValueError: for a missing or unsuitable key, steps < 0, `every` < 1 or not dividing the steps, observables that
            are no functions, and what the dynamics refuse (a Stream, a batch that does not fit).

    Example:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
        >>> run = ne.simulate(problem, ne.GD(0.5), jnp.array(0.0), 4, observe={"w": lambda w: w}, every=2)
        >>> run.observed["w"].tolist(), run.time.tolist()  # 2 − 2·(1/2)^t
        ([0.0, 1.5, 1.875], [0.0, 1.0, 2.0])
    """
    if not isinstance(dynamics, AbstractDynamics):
        raise ValueError(f"dynamics is {dynamics!r}; expected SGD, GD, SDE or GradientFlow.")
    if not hasattr(steps, "__index__") or steps < 0:
        raise ValueError(f"steps is {steps}; expected an integer of at least 0.")
    if not hasattr(every, "__index__") or every < 1 or steps % every:
        raise ValueError(f"every is {every} and steps is {steps}; expected an integer ≥ 1 that divides the steps.")
    if observe is not None and not isinstance(observe, Mapping):
        raise ValueError(f"observe is {observe!r}; expected a dict of name → function of params.")
    observe = dict(observe or {})
    for name, function in observe.items():
        if not callable(function):
            raise ValueError(f"observable {name!r} is {function!r}; expected a function of params.")
    require_scalar(problem.weight_decay, "weight_decay")
    require_scalar(dynamics.time_step, "the learning rate or time step")
    dynamics.check(problem)
    key = as_key(key, f"{type(dynamics).__name__} in simulate") if dynamics.needs_key else jax.random.key(0)
    return _simulate(problem, dynamics, params, key, observe, int(steps), int(every))


@jit
def _simulate(
    problem: Problem,
    dynamics: AbstractDynamics,
    params: PyTree,
    key: PRNGKeyArray,
    observe: dict[str, Callable[[PyTree], PyTree]],
    steps: int,
    every: int,
) -> Trajectory:
    arrays, rebuild = split(params)

    def advance(carry: _Carry, step: Int[Array, ""]) -> _Carry:
        new, state = dynamics.step(problem, rebuild(carry.arrays), carry.state, jax.random.fold_in(key, step), step)
        new_arrays, _ = split(new)
        finite = jnp.stack([jnp.all(jnp.isfinite(array)) for array in new_arrays]).all()
        goes_on = finite & (carry.diverged_at < 0)

        def select(new: Array, old: Array) -> Array:
            return jnp.where(goes_on, new, old)

        return _Carry(
            arrays=jax.tree_util.tree_map(select, new_arrays, carry.arrays),
            state=jax.tree_util.tree_map(select, state, carry.state),
            diverged_at=jnp.where(finite | (carry.diverged_at >= 0), carry.diverged_at, step + 1),
        )

    def record(carry: _Carry) -> dict[str, PyTree]:
        here = rebuild(carry.arrays)
        alive = carry.diverged_at < 0

        def mark(value: Any, name: str) -> Array:
            if not is_array(value) and not isinstance(value, int | float):
                raise ValueError(f"observable {name!r} returns {type(value).__name__}; expected a pytree of arrays.")
            value = jnp.asarray(value)
            return jnp.where(alive, value, jnp.nan) if jnp.issubdtype(value.dtype, jnp.inexact) else value

        return {
            name: jax.tree_util.tree_map(lambda value, name=name: mark(value, name), function(here))
            for name, function in observe.items()
        }

    def row(carry: _Carry, first: Int[Array, ""]) -> tuple[_Carry, dict[str, PyTree]]:
        carry = jax.lax.fori_loop(0, every, lambda i, carry: advance(carry, first + i), carry)
        return carry, record(carry)

    start = _Carry(arrays, dynamics.init(problem, params), jnp.asarray(-1, jnp.int32))
    step = jnp.arange(0, steps + 1, every, dtype=jnp.int32)
    end, rows = jax.lax.scan(row, start, step[:-1])
    observed = jax.tree_util.tree_map(lambda first, rest: jnp.concatenate([first[None], rest]), record(start), rows)
    return Trajectory(
        params=rebuild(end.arrays),
        step=step,
        time=_elapsed(dynamics, step, every, widest_dtype(arrays)),
        observed=observed,
        diverged_at=end.diverged_at,
    )


def _elapsed(
    dynamics: AbstractDynamics, step: Int[Array, " rows"], every: int, dtype: jnp.dtype
) -> Float[Array, " rows"]:
    """The time at each record; a product where the step size is a number, a sum where it is a schedule."""
    if not callable(dynamics.time_step):
        return step.astype(dtype) * jnp.asarray(dynamics.time_step).astype(dtype)

    def add(time: Array, first: Array) -> tuple[Array, Array]:
        sizes = jax.vmap(dynamics.step_size)(first + jnp.arange(every, dtype=step.dtype))
        time = time + jnp.sum(sizes.astype(dtype))
        return time, time

    _, later = jax.lax.scan(add, jnp.zeros((), dtype), step[:-1])
    return jnp.concatenate([jnp.zeros(1, dtype), later])
