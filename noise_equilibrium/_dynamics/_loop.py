"""The loop of a run: where it starts, what a step changes, and what a record holds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._parameters import split
from .._problem import Problem
from .._random import in_one_pass
from ._clock import Clock
from ._dynamics import AbstractDynamics
from ._observables import AbstractAccumulator, Observables, evaluate
from ._unroll import steps_in_a_turn

Records = tuple[Array, dict[str, PyTree]]  # the time, and each observable that is recorded


class Carry(eqx.Module):
    """What a step changes.

    Attributes:
        arrays: the parameters, one array each.
        state: that of the dynamics.
        clock: the time.
        summaries: of the observables that accumulate.
        diverged_at: the step, counted from 1, whose result was first not finite; −1 if none was.
    """

    arrays: list[Array]
    state: PyTree
    clock: Clock
    summaries: dict[str, Any]
    diverged_at: Int[Array, ""]

    def stepped(self, new: "Carry") -> "Carry":
        """The next carry, if its parameters are finite and all before were; else this one, with the time of the next.

        The whole numbers of a state, such as a permutation, go on: they do no harm, and to keep them costs a copy.
        """
        finite = jnp.stack([jnp.all(jnp.isfinite(array)) for array in new.arrays]).all()
        goes_on = finite & (self.diverged_at < 0)

        def select(new: PyTree, old: PyTree) -> PyTree:
            # A selection, not a conditional: under `vmap` that would become a selection all the same.
            return jax.tree_util.tree_map(lambda new, old: jnp.where(goes_on, new, old), new, old)

        floats, rest = eqx.partition(new.state, eqx.is_inexact_array)
        return Carry(
            arrays=select(new.arrays, self.arrays),
            state=eqx.combine(select(floats, eqx.filter(self.state, eqx.is_inexact_array)), rest),
            clock=new.clock,
            summaries=select(new.summaries, self.summaries),
            diverged_at=jnp.where(finite | (self.diverged_at >= 0), self.diverged_at, new.diverged_at),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """One run, while it is traced: what its steps have in common.

    Attributes:
        problem: the problem.
        dynamics: whose steps are taken.
        key: of the run; step t uses fold_in(key, t).
        rebuild: from arrays to parameters.
        observe: the observables by name.
    """

    problem: Problem
    dynamics: AbstractDynamics
    key: PRNGKeyArray
    rebuild: Callable[[list[Array]], PyTree]
    observe: Observables

    @property
    def accumulators(self) -> dict[str, AbstractAccumulator]:
        """The observables of which the loop carries a summary."""
        return {name: one for name, one in self.observe.items() if isinstance(one, AbstractAccumulator)}

    def start(self, params: PyTree, clock: Clock) -> Carry:
        """The carry before the first step."""
        arrays, _ = split(params)
        summaries = {
            name: one.init(evaluate(one.function, name, params, clock.time), clock.time)
            for name, one in self.accumulators.items()
        }
        return Carry(arrays, self.dynamics.init(self.problem, params), clock, summaries, jnp.asarray(-1, jnp.int32))

    def advance(self, carry: Carry, step: Int[Array, ""]) -> Carry:
        """The carry after step number `step`, counted from 0; that of a run that diverged stays as it is."""
        # The key of a step is made from its number, not split off the last key, so that segments and schedules need no
        # past.
        key = in_one_pass(jax.random.fold_in)(self.key, step)
        params, state = self.dynamics.step(self.problem, self.rebuild(carry.arrays), carry.state, key, step)
        arrays, _ = split(params)
        clock, here = carry.clock.ticked(jnp.asarray(self.dynamics.step_size(step))), self.rebuild(arrays)

        def updated(name: str, one: AbstractAccumulator) -> Any:
            value = lambda: evaluate(one.function, name, here, clock.time)  # noqa: E731
            return one.update(carry.summaries[name], value, step + 1, clock.time)

        summaries = {name: updated(name, one) for name, one in self.accumulators.items()}
        return carry.stepped(Carry(arrays, state, clock, summaries, step + 1))

    def record(self, carry: Carry) -> Records:
        """The time and the observables; NaN in place of floats once a run has diverged."""
        params, time, alive = self.rebuild(carry.arrays), carry.clock.time, carry.diverged_at < 0

        def mark(value: Array) -> Array:
            return jnp.where(alive, value, jnp.nan) if jnp.issubdtype(value.dtype, jnp.inexact) else value

        return time, {
            name: jax.tree_util.tree_map(mark, evaluate(one, name, params, time))
            for name, one in self.observe.items()
            if not isinstance(one, AbstractAccumulator)
        }

    def run(
        self, start: Carry, first: Int[Array, ""], steps: int, every: int, unroll: int | None = None
    ) -> tuple[Carry, Int[Array, " rows"], Records]:
        """The carry at the end, and the number of steps and the records at the start and after every `every` steps.

        Args:
            start: the carry before the first step.
            first: its number.
            steps: how many.
            every: steps between records.
            unroll: steps in a turn of the loop; None to choose.
        """
        unroll = steps_in_a_turn(unroll, self.advance, start, first)

        def row(carry: Carry, first: Int[Array, ""]) -> tuple[Carry, Records]:
            # The steps between two records have no outputs: memory grows with the records alone. Both loops have a
            # number of turns that is known when they are traced, and so derivatives in reverse.
            carry = jax.lax.fori_loop(
                0, every, lambda i, carry: self.advance(carry, first + i), carry, unroll=min(unroll, every)
            )
            return carry, self.record(carry)

        # Multiplied, since a range of 2³¹ − 1 steps would end beyond what a number of 32 bits holds.
        step = first + jnp.arange(steps // every + 1, dtype=jnp.int32) * jnp.asarray(every, jnp.int32)
        end, rows = jax.lax.scan(row, start, step[:-1], unroll=max(1, min(unroll // every, steps // every)))
        joined = jax.tree_util.tree_map(
            lambda first, rest: jnp.concatenate([first[None], rest]), self.record(start), rows
        )
        return end, step, joined
