"""`simulate` and `resume`: one loop for all dynamics, recording observables and never states."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from .._keys import IMPLEMENTATION, as_key
from .._numbers import jit, require_scalar
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._validate import integer
from ._clock import Clock
from ._dynamics import AbstractDynamics
from ._loop import Carry, Loop
from ._observables import AbstractAccumulator, FirstTime, Observables, RunningMoments, check_observables
from ._progress import with_bar
from ._unroll import as_chosen

# Steps are counted in 32 bits, as JAX does unless it is told otherwise; schedules and records see the same number.
MAX_STEP = 2**31 - 1


class RunState(eqx.Module):
    """What the next segment of a run needs besides its parameters and what it accumulates.

    Attributes:
        dynamics: the state of the dynamics: momentum, the permutation of the epoch, ….
        step: the number of steps done since the start of the run.
        clock: the time.
        key: the data of the key of the run; None if it was given none.
    """

    dynamics: PyTree
    step: Int[Array, ""]
    clock: Clock
    key: UInt32[Array, " 2"] | None


class Trajectory(eqx.Module):
    """What a run, or a segment of one, leaves behind; under `vmap` every array has the runs in front.

    Attributes:
        params: the final parameters, or the last finite ones of a run that diverged (the start, if it was not finite).
        step: (steps // every + 1,) the numbers of steps done at each record, from 0, or from where the segment began.
        time: (steps // every + 1,) the time at each record: Σ η for SGD and GD, Σ dt for the SDE and gradient flow,
            Σ η/l for SVAG, Σ η/(1−β) for Momentum, and the number of steps for Optax.
        observed: for each observable its records, stacked along a leading axis of steps // every + 1 rows, the first
            of them the start. After a divergence floating-point records are NaN, others keep their last value. For
            `running` observables their `RunningMoments` since the start of the run, for `first_time` its `FirstTime`;
            both stop at a divergence.
        diverged_at: the step, counted from 1, whose result was first not finite; −1 if none was.
        state: what `resume` needs.
    """

    params: PyTree
    step: Int[Array, " rows"]
    time: Float[Array, " rows"]
    observed: dict[str, PyTree]
    diverged_at: Int[Array, ""]
    state: RunState


def simulate(
    problem: Problem,
    dynamics: AbstractDynamics,
    params: PyTree,
    steps: int,
    *,
    key: PRNGKeyArray | None = None,
    observe: Observables | None = None,
    every: int = 1,
    progress: bool = False,
    unroll: int | None = None,
) -> Trajectory:
    """Run dynamics for a number of steps.

    Memory does not grow with the steps, only with the records. A run whose parameters become non-finite is frozen at
    its last finite ones and flagged; under `vmap` its neighbours go on as if nothing had happened, to the last bit.
    That holds for values: a derivative through a run that diverged is NaN, also in parameters shared with others.

    A run has at most 2³¹ − 1 steps, in one segment or many. Up to there each step has a key of its own, and the time is
    exact to rounding, however many steps it is the sum of.

    Args:
        problem: the problem.
        dynamics: SGD, GD, Momentum, SDE, GradientFlow, EntropicFlow, SVAG or Optax.
        params: where to start; any pytree.
        steps: the number of steps ≥ 0.
        key: a JAX PRNG key (threefry), for dynamics with noise. Step t uses fold_in(key, t), so the random numbers of a
            run depend on its key alone. Give independent runs independent keys, and none the key of its own
            initialisation.
        observe: name → function of params that returns any pytree of arrays, or a marked one: `timed`, `running`,
            `first_time`. Functions among its leaves, such as those of a module, are left out: None takes their place.
            Define the functions of params once: one made anew for each call is compiled anew.
        every: steps between records; divides `steps`.
        progress: whether to show steps done and time left, for a long run: it is cut into segments between records,
            with the same numbers bit for bit. Give it records, `every` well below `steps`, for the bar to move at.
            Nothing is shown inside `jit` and `vmap`.
        unroll: how many steps make one turn of the loop, which costs some 8 µs on a GPU and next to nothing on a CPU.
            If not given, one on a CPU, and up to 8 elsewhere, fewer the more a step has to do. The numbers are those of
            one step in a turn, to rounding: XLA may join what belongs to two steps.

    Returns:
        A `Trajectory`; `resume` goes on from it.

    Raises:
        ValueError: for a missing or unsuitable key, steps < 0 or ≥ 2³¹, `every` < 1 or not dividing the steps,
            observables that are no functions, and what the dynamics refuse (a Stream, a batch that does not fit).

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
        >>> run = ne.simulate(problem, ne.GD(0.5), jnp.array(0.0), 4, observe={"w": lambda w: w}, every=2)
        >>> run.observed["w"].tolist(), run.time.tolist()  # 2 − 2·(1/2)^t
        ([0.0, 1.5, 1.875], [0.0, 1.0, 2.0])
    """
    steps, every = _checked(problem, dynamics, steps, every)
    unroll = as_chosen(None if unroll is None else integer(unroll, "unroll", 1))
    observe = {
        name: one.resolve(steps) if isinstance(one, AbstractAccumulator) else one
        for name, one in check_observables(observe).items()
    }
    if dynamics.needs_key or key is not None:
        key = as_key(key, f"{type(dynamics).__name__} in simulate")
    if progress:
        start = _simulate(problem, dynamics, params, key, observe, 0, 1, 1)
        # Asked of the result: a number may be traced wherever it comes from, the loss or the learning rate included.
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(start)):
            go_on = lambda last, n: _resume(problem, dynamics, last, observe, n, every, unroll)  # noqa: E731
            return with_bar(start, go_on, steps, every)
    return _simulate(problem, dynamics, params, key, observe, steps, every, unroll)


def resume(
    problem: Problem,
    dynamics: AbstractDynamics,
    trajectory: Trajectory,
    steps: int,
    *,
    observe: Observables | None = None,
    every: int = 1,
    unroll: int | None = None,
) -> Trajectory:
    """Go on with a run for a number of further steps.

    A run cut into segments gives the same numbers as one without a break, bit for bit: parameters, records, what is
    accumulated, time, and the step of a divergence. With several steps in a turn of the loop, see `unroll` of
    `simulate`, parameters and what is made of them may differ by rounding where a cut divides a turn.

    Args:
        problem: the problem.
        dynamics: the same dynamics; others may take over, such as another learning rate, if their state has the same
            form. Schedules count on from the start of the run.
        trajectory: of `simulate` or `resume`. Its key goes on too.
        steps: the number of further steps ≥ 0.
        observe: as in `simulate`. Observables that accumulate must have been there from the start of the run.
        every: steps between records; divides `steps`.
        unroll: as in `simulate`.

    Returns:
        The `Trajectory` of this segment; its first record repeats the last one before the break.

    Raises:
        ValueError: as `simulate`; for dynamics that need a key which the run was not given, or whose state has another
            form; for observables that accumulate and were not there, or average over a fraction of the run; for 2³¹
            steps or more with those before. Inside `jit`, where these are not known, the run counts as diverged then.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
        >>> half = ne.simulate(problem, ne.GD(0.5), jnp.array(0.0), 2)
        >>> whole = ne.resume(problem, ne.GD(0.5), half, 2)
        >>> float(whole.params), whole.step.tolist()  # 2 − 2·(1/2)^4
        (1.875, [2, 3, 4])
    """
    if not isinstance(trajectory, Trajectory):
        raise ValueError(f"trajectory is {type(trajectory).__name__}; expected what simulate or resume returned.")
    done = trajectory.state.step
    known = 0 if isinstance(done, jax.core.Tracer) else int(np.max(done))
    steps, every = _checked(problem, dynamics, steps, every, known)
    if dynamics.needs_key and trajectory.state.key is None:
        raise ValueError(
            f"{type(dynamics).__name__} needs random numbers and this run began without a key. Begin a new one: "
            "simulate(problem, dynamics, trajectory.params, steps, key=key)."
        )
    expected = jax.eval_shape(lambda: dynamics.init(problem, trajectory.params))
    if _form(expected) != _form(trajectory.state.dynamics):
        raise ValueError(
            f"the trajectory was made by dynamics with another state than that of {type(dynamics).__name__}; expected "
            "the same dynamics. Begin a new run: simulate(problem, dynamics, trajectory.params, ...)."
        )
    observe = check_observables(observe)
    for name, one in observe.items():
        if not isinstance(one, AbstractAccumulator):
            continue
        observe[name] = one.resolve(None)
        if not isinstance(trajectory.observed.get(name), RunningMoments | FirstTime):
            raise ValueError(
                f"observable {name!r} accumulates over the whole run and was not observed before the break; expected "
                "it in every segment from the first."
            )
    unroll = as_chosen(None if unroll is None else integer(unroll, "unroll", 1))
    return _resume(problem, dynamics, trajectory, observe, steps, every, unroll)


def _checked(problem: Problem, dynamics: AbstractDynamics, steps: Any, every: Any, done: int = 0) -> tuple[int, int]:
    """The steps as integers, after what is known before the loop has been checked."""
    if not isinstance(dynamics, AbstractDynamics):
        raise ValueError(f"dynamics is {dynamics!r}; expected SGD, GD, Momentum, SDE, GradientFlow, SVAG or Optax.")
    steps, every = integer(steps, "steps", 0), integer(every, "every", 1)
    if done + steps > MAX_STEP:
        before = f" after the {done} before" if done else ""
        raise ValueError(
            f"steps is {steps}{before}; expected at most 2³¹ − 1 steps in a run. Begin a new one at its end, with "
            "another key: simulate(problem, dynamics, trajectory.params, ...)."
        )
    if steps % every:
        raise ValueError(f"every is {every} and steps is {steps}; expected an integer that divides the steps.")
    require_scalar(problem.weight_decay, "weight_decay")
    require_scalar(dynamics.time_step, "the learning rate or time step")
    dynamics.check(problem)
    return steps, every


def _form(state: PyTree) -> Any:
    """The structure of a state, and the shapes and dtypes of its arrays."""
    leaves, structure = jax.tree_util.tree_flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


@jit
def _simulate(
    problem: Problem,
    dynamics: AbstractDynamics,
    params: PyTree,
    key: PRNGKeyArray | None,
    observe: Observables,
    steps: int,
    every: int,
    unroll: int | None,
) -> Trajectory:
    key_data = None if key is None else jax.random.key_data(key)
    loop, arrays = _loop(problem, dynamics, params, key_data, observe)
    start = loop.start(params, Clock.start(widest_dtype(arrays)))
    return _run(loop, start, jnp.zeros((), jnp.int32), key_data, steps, every, unroll)


@jit
def _resume(
    problem: Problem,
    dynamics: AbstractDynamics,
    before: Trajectory,
    observe: Observables,
    steps: int,
    every: int,
    unroll: int | None,
) -> Trajectory:
    state = before.state
    loop, arrays = _loop(problem, dynamics, before.params, state.key, observe)
    fits = state.step <= MAX_STEP - steps
    start = Carry(
        # A count that would overflow repeats keys: no number is better than a wrong one.
        [jnp.where(fits, array, jnp.asarray(jnp.nan, array.dtype)) for array in arrays],
        state.dynamics,
        state.clock,
        {name: before.observed[name] for name in loop.accumulators},
        before.diverged_at,
    )
    return _run(loop, start, state.step, state.key, steps, every, unroll)


def _loop(
    problem: Problem, dynamics: AbstractDynamics, params: PyTree, key: Array | None, observe: Observables
) -> tuple[Loop, list[Array]]:
    """The loop of a run, and the arrays where it starts; a run without a key has one that no step uses."""
    arrays, rebuild = split(params)
    data = jnp.zeros(2, jnp.uint32) if key is None else key
    return Loop(problem, dynamics, jax.random.wrap_key_data(data, impl=IMPLEMENTATION), rebuild, observe), arrays


def _run(
    loop: Loop, start: Carry, first: Int[Array, ""], key: Array | None, steps: int, every: int, unroll: int | None
) -> Trajectory:
    """Run a loop from step number `first`, and put together what it leaves."""
    end, step, (time, records) = loop.run(start, first, steps, every, unroll)
    return Trajectory(
        params=loop.rebuild(end.arrays),
        step=step,
        time=time,
        observed={name: (end.summaries | records)[name] for name in loop.observe},
        diverged_at=end.diverged_at,
        state=RunState(end.state, step[-1], end.clock, key),
    )
