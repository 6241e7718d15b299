"""Gradient flow, the limit without noise, by a high-order method."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._numbers import cast
from .._parameters import split, widest_dtype
from .._problem import Problem, weighted_gradient
from ._dynamics import as_rate
from ._noisy import AbstractNoiseless


class GradientFlow(AbstractNoiseless):
    """dθ/dt = −∇L_γ(θ), by a Runge–Kutta method of order 8; without decay it conserves every charge.

    Args:
        dt: the time step > 0, taken in two halves; the error of a run falls some hundredfold when dt halves, down to
            rounding. A step costs 26 gradients, and is accurate up to about the largest dt at which gradient descent
            is stable: charges are then conserved to better than 1e-6.

    Raises:
        ValueError: for dt ≤ 0; on a Stream, once the problem is known.

    Source: Eq. (4) of the paper; the method is `diffrax.Dopri8`, Prince and Dormand (1981).
    """

    dt: Any

    def __init__(self, dt: Any):
        self.dt = as_rate(dt, "dt")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """dQ/dt = −4γQ: weight decay alone."""
        return ChargeLaw(decay=problem.weight_decay, scale=0.0, noise=0.0, mean=0.0)

    @property
    def time_step(self) -> Any:
        """dt."""
        return self.dt

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """The state of the solver."""
        arrays, _ = split(params)
        start, end = self._half(arrays, 0)
        # The solver hands the last gradient of a step on as the first of the next; here it sees the shapes of them
        # alone.
        return diffrax.Dopri8().init(self._term(problem, params), start, end, arrays, None)

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step, in two halves."""
        arrays, rebuild = split(params)
        start, end = self._half(arrays, step)
        term = self._term(problem, params)

        def half(_: int, carry: tuple[list[Array], PyTree]) -> tuple[list[Array], PyTree]:
            arrays, state = carry
            # No jump: then the gradient at the end of the last half step serves as the first of this one.
            taken = diffrax.Dopri8().step(term, start, end, arrays, None, state, made_jump=jnp.array(False))
            return taken[0], taken[3]  # the solution and the solver's state; the rest is for adaptive steps

        # Halves, because at order 8 they make the error some 2⁸ times less for twice the gradients. A loop compiles the
        # stages once.
        arrays, state = jax.lax.fori_loop(0, 2, half, (arrays, state))
        return rebuild(arrays), state

    def _half(self, arrays: list[Array], step: Any) -> tuple[Array, Array]:
        """The time interval of half a step; the equation does not depend on time."""
        start = jnp.zeros((), widest_dtype(arrays))
        return start, cast(self.step_size(step), start) / 2

    def _term(self, problem: Problem, params: PyTree) -> diffrax.ODETerm:
        _, rebuild = split(params)

        def field(t: Any, arrays: list[Array], args: Any) -> list[Array]:
            count = problem.num_samples
            weights = jnp.full((count,), 1 / count, widest_dtype(arrays))
            gradients = weighted_gradient(problem, rebuild(arrays), problem.data, weights)
            decay = [2 * cast(problem.weight_decay, array) * array for array in arrays]
            return [-gradient - shrink for gradient, shrink in zip(gradients, decay, strict=True)]

        return diffrax.ODETerm(field)
