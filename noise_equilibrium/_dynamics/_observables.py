"""Observables: functions of the parameters, and what is accumulated from them without keeping their history."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._parameters import is_array
from .._validate import integer

Function = Callable[..., PyTree]


class Timed(eqx.Module):
    """A function of params and time."""

    function: Function


class AbstractSummary(eqx.Module):
    """What is left of an observable at the end of a run: no axis of records, and a NaN that has a meaning."""


class RunningMoments(AbstractSummary):
    """Mean and second moments of an observable over a part of a run; under `vmap` every array has the runs in front.

    Attributes:
        count: the number of values averaged.
        center: their mean, a pytree like the observable; 0 where the count is 0.
        spread: the sum of their squared deviations from it, element by element.
    """

    count: Int[Array, ""]
    center: PyTree
    spread: PyTree

    @property
    def mean(self) -> PyTree:
        """The mean, element by element; NaN if nothing was averaged."""
        return jax.tree_util.tree_map(lambda center: center + 0 * self._share(center), self.center)

    @property
    def variance(self) -> PyTree:
        """The mean squared deviation (1/count), element by element; NaN if nothing was averaged."""
        return jax.tree_util.tree_map(lambda spread: spread * self._share(spread), self.spread)

    @property
    def second_moment(self) -> PyTree:
        """The mean square, element by element; NaN if nothing was averaged."""
        return jax.tree_util.tree_map(lambda mean, variance: mean**2 + variance, self.mean, self.variance)

    def _share(self, like: Array) -> Array:
        """1/count, or NaN, along the runs in front of an array."""
        count = jnp.reshape(self.count, self.count.shape + (1,) * (like.ndim - self.count.ndim)).astype(like.dtype)
        return jnp.where(count > 0, 1 / jnp.maximum(count, 1), jnp.nan)


class FirstTime(AbstractSummary):
    """When a condition first held; an array of conditions has a time each.

    Attributes:
        step: the number of steps done when it first held, 0 for the start; −1 if it never did.
        time: the time then; NaN if it never did.
    """

    step: Int[Array, " *condition"]
    time: Float[Array, " *condition"]


class AbstractAccumulator(eqx.Module):
    """An observable of which the loop carries a summary instead of a history."""

    function: eqx.AbstractVar[Function | Timed]

    @abc.abstractmethod
    def resolve(self, steps: int | None) -> "AbstractAccumulator":
        """The same with its part of a run given in steps; `steps` is None where the whole run is not known."""

    @abc.abstractmethod
    def init(self, value: PyTree, time: Float[Array, ""]) -> Any:
        """The summary at the start of a run, where the observable has this value."""

    @abc.abstractmethod
    def update(self, summary: Any, value: Callable[[], PyTree], step: Int[Array, ""], time: Float[Array, ""]) -> Any:
        """The summary after step number `step`, counted from 1; `value()` evaluates the observable."""


class Running(AbstractAccumulator):
    """Mean and second moments over a part of the run, by Welford's recursion: O(size of the observable) memory."""

    function: Function | Timed
    start: float | int = eqx.field(static=True)
    every: int = eqx.field(static=True)

    def resolve(self, steps: int | None) -> "Running":
        if isinstance(self.start, int):
            return self
        if steps is None:
            raise ValueError(
                f"start is {self.start}, a fraction of the run, and a run in segments does not know its end; expected "
                "a number of steps (an int), the same in every segment."
            )
        return Running(self.function, int(np.ceil(self.start * steps)), self.every)

    def init(self, value: PyTree, time: Float[Array, ""]) -> RunningMoments:
        zeros = jax.tree_util.tree_map(lambda x: jnp.zeros(x.shape, _average_dtype(x, time)), value)
        return RunningMoments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        self, summary: RunningMoments, value: Callable[[], PyTree], step: Int[Array, ""], time: Float[Array, ""]
    ) -> RunningMoments:
        def add() -> RunningMoments:
            count = summary.count + 1

            def merge(center: Array, spread: Array, x: Array) -> tuple[Array, Array]:
                deviation = x.astype(center.dtype) - center
                moved = center + deviation / count.astype(center.dtype)
                return moved, spread + deviation * (x.astype(center.dtype) - moved)

            leaves, structure = jax.tree_util.tree_flatten(summary.center)
            others = [jax.tree_util.tree_leaves(tree) for tree in (summary.spread, value())]
            merged = [merge(*arrays) for arrays in zip(leaves, *others, strict=True)]
            center, spread = ([pair[i] for pair in merged] for i in (0, 1))
            return RunningMoments(
                count, jax.tree_util.tree_unflatten(structure, center), jax.tree_util.tree_unflatten(structure, spread)
            )

        if self.start == 0 and self.every == 1:
            return add()
        # A branch on the step number alone: the observable costs nothing before the start and between its turns.
        return jax.lax.cond((step > self.start) & ((step - self.start) % self.every == 0), add, lambda: summary)


class FirstTimeOf(AbstractAccumulator):
    """The first step at which a condition holds."""

    function: Function | Timed

    def resolve(self, steps: int | None) -> "FirstTimeOf":
        return self

    def init(self, value: PyTree, time: Float[Array, ""]) -> FirstTime:
        holds = self._checked(value)
        return FirstTime(
            jnp.where(holds, jnp.asarray(0, jnp.int32), -1), jnp.where(holds, time, jnp.asarray(jnp.nan, time.dtype))
        )

    def update(
        self, summary: FirstTime, value: Callable[[], PyTree], step: Int[Array, ""], time: Float[Array, ""]
    ) -> FirstTime:
        first = self._checked(value()) & (summary.step < 0)
        return FirstTime(jnp.where(first, step, summary.step), jnp.where(first, time, summary.time))

    def _checked(self, value: PyTree) -> Bool[Array, " *condition"]:
        if not is_array(value) or value.dtype != jnp.bool_:
            kind = f"an array of dtype {value.dtype}" if is_array(value) else type(value).__name__
            raise ValueError(f"the condition of first_time returns {kind}; expected a boolean array, like norm(p) > 2.")
        return value


Observables = Mapping[str, Function | Timed | AbstractAccumulator]


def timed(function: Callable[[PyTree, Array], PyTree]) -> Timed:
    """Mark an observable as a function of params and time.

    Args:
        function: `function(params, time)`, any pytree of arrays; time as in `Trajectory.time`.

    Returns:
        What `simulate(observe=...)`, `running` and `first_time` take in place of a function of params.

    Raises:
        ValueError: if it cannot be called.
    """
    if not callable(function):
        raise ValueError(f"got {function!r}; expected a function of params and time.")
    return Timed(function)


def running(function: Function | Timed, start: float | int = 0, every: int = 1) -> Running:
    """Mean and second moments of an observable over the last part of a run, in the memory of two values.

    Args:
        function: of params, or `timed`; any pytree of real arrays.
        start: how much of the run to leave out: a fraction in [0, 1), a float (0.6 averages the last 40 %), or a number
            of steps, an int. A run in segments needs an int. Only states after that step count, the start of the
            run never.
        every: average each `every`-th state only, if the observable is expensive.

    Returns:
        An observable for `simulate`, whose entry in `Trajectory.observed` is `RunningMoments`. A run that diverges
        stops averaging there.

    Raises:
        ValueError: for what is no function, start outside its range, or `every` < 1.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([0.0]))
        >>> run = ne.simulate(problem, ne.GD(0.5), jnp.array(8.0), 4, observe={"w": ne.running(lambda w: w, 0.5)})
        >>> float(run.observed["w"].mean), float(run.observed["w"].variance)  # of 1 and 1/2
        (0.75, 0.0625)
    """
    _require_function(function, "running")
    if isinstance(start, bool) or not isinstance(start, int | float | np.integer | np.floating):
        raise ValueError(f"start is {start!r}; expected a fraction in [0, 1), or a number of steps.")
    whole = isinstance(start, int | np.integer)
    if not (start >= 0 if whole else 0 <= start < 1):
        raise ValueError(f"start is {start}; expected a fraction in [0, 1), a float, or a number of steps ≥ 0, an int.")
    return Running(function, int(start) if whole else float(start), integer(every, "every", 1))


def first_time(condition: Callable[[PyTree], Array] | Timed) -> FirstTimeOf:
    """When a condition on the parameters first holds, watched at every step.

    Args:
        condition: of params, or `timed`; a boolean, or a boolean array for a time each.

    Returns:
        An observable for `simulate`, whose entry in `Trajectory.observed` is a `FirstTime`. A run that diverges stops
        watching there.

    Raises:
        ValueError: for what is no function.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([0.0]))
        >>> small = ne.first_time(lambda w: w < jnp.array([2.5, 0.1]))
        >>> run = ne.simulate(problem, ne.GD(0.5), jnp.array(8.0), 4, observe={"small": small})
        >>> run.observed["small"].step.tolist(), run.observed["small"].time.tolist()
        ([2, -1], [1.0, nan])
    """
    _require_function(condition, "first_time")
    return FirstTimeOf(condition)


def evaluate(function: Function | Timed, name: str, params: PyTree, time: Array) -> PyTree:
    """The value of an observable, as a pytree of arrays; functions in it, such as those of a module, become None."""
    value = function.function(params, time) if isinstance(function, Timed) else function(params)

    def as_array(leaf: Any) -> Array | None:
        if callable(leaf) and not is_array(leaf):
            return None
        if not is_array(leaf) and not isinstance(leaf, int | float):
            raise ValueError(f"observable {name!r} returns {type(leaf).__name__}; expected a pytree of arrays.")
        return jnp.asarray(leaf)

    recorded = jax.tree_util.tree_map(as_array, value)
    if jax.tree_util.tree_leaves(value) and not jax.tree_util.tree_leaves(recorded):
        raise ValueError(f"observable {name!r} returns functions only; expected a pytree with arrays.")
    return recorded


def check_observables(observe: Observables | None) -> dict[str, Function | Timed | AbstractAccumulator]:
    """The observables as a dict, each of them a function or marked."""
    if observe is not None and not isinstance(observe, Mapping):
        raise ValueError(f"observe is {observe!r}; expected a dict of name → function of params.")
    for name, function in (observe or {}).items():
        if not callable(function) and not isinstance(function, Timed | AbstractAccumulator):
            raise ValueError(
                f"observable {name!r} is {function!r}; expected a function of params, or one marked by timed, running "
                "or first_time."
            )
    return dict(observe or {})


def _require_function(function: Any, what: str) -> None:
    if not callable(function) and not isinstance(function, Timed):
        raise ValueError(f"{what} got {function!r}; expected a function of params, or timed(function).")


def _average_dtype(value: Array, time: Array) -> jnp.dtype:
    """Averages keep the dtype of floats, at least single precision; whole numbers are averaged in that of the time."""
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError("running averages real observables, and one is complex; give its real and imaginary part.")
    dtype = value.dtype if jnp.issubdtype(value.dtype, jnp.floating) else time.dtype
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
