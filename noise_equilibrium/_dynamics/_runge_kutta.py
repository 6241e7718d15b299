"""Flows dθ/dt = f(θ) by a Runge–Kutta method of order 8, in two halves of each time step."""

import abc
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._numbers import cast
from .._parameters import split, widest_dtype
from .._problem import Problem
from ._noisy import AbstractNoiseless

Field = Callable[[list[Array]], list[Array]]


def first_state(field: Field, arrays: list[Array], step_size: Any) -> PyTree:
    """The state of the solver at the start."""
    start, end = _half(arrays, step_size)
    # The solver hands the last gradient of a step on as the first of the next; here it sees the shapes of them alone.
    return diffrax.Dopri8().init(_term(field), start, end, arrays, None)


def advanced(field: Field, arrays: list[Array], state: PyTree, step_size: Any) -> tuple[list[Array], PyTree]:
    """The arrays and the state one step later: 26 evaluations of the field."""
    start, end = _half(arrays, step_size)
    term = _term(field)

    def half(_: int, carry: tuple[list[Array], PyTree]) -> tuple[list[Array], PyTree]:
        arrays, state = carry
        # No jump: then the gradient at the end of the last half step serves as the first of this one.
        taken = diffrax.Dopri8().step(term, start, end, arrays, None, state, made_jump=jnp.array(False))
        return taken[0], taken[3]  # the solution and the solver's state; the rest is for adaptive steps

    # Halves, because at order 8 they make the error some 2⁸ times less for twice the gradients. A loop compiles the
    # stages once.
    return jax.lax.fori_loop(0, 2, half, (arrays, state))


def _half(arrays: list[Array], step_size: Any) -> tuple[Array, Array]:
    """The time interval of half a step; the equation does not depend on time."""
    start = jnp.zeros((), widest_dtype(arrays))
    return start, cast(step_size, start) / 2


def _term(field: Field) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, arrays, args: field(arrays))


class AbstractFlow(AbstractNoiseless):
    """Dynamics dθ/dt = f(θ) with a time step: what flows along different fields have in common."""

    dt: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def field(self, problem: Problem, params: PyTree) -> Field:
        """f, of the arrays of params."""

    @property
    def time_step(self) -> Any:
        """dt."""
        return self.dt

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """The state of the solver."""
        arrays, _ = split(params)
        return first_state(self.field(problem, params), arrays, self.step_size(0))

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step, in two halves."""
        arrays, rebuild = split(params)
        arrays, state = advanced(self.field(problem, params), arrays, state, self.step_size(step))
        return rebuild(arrays), state
