"""Dynamics: what turns parameters, and a key, into the next parameters."""

import abc
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._flow import AbstractLaw
from .._numbers import as_number, cast, require, require_scalar
from .._parameters import split
from .._problem import Problem, weighted_gradient


class AbstractDynamics(AbstractLaw):
    """One step of a dynamics, as pure functions. Dynamics are laws too: they know the equilibrium they drive to."""

    needs_key: ClassVar[bool]

    @property
    @abc.abstractmethod
    def noise_scale(self) -> Any:
        """σ² = η/(2S), the noise scale of the SDE, Eq. (1); 0 without noise."""

    @abc.abstractmethod
    def noise_scale_at(self, step: Any) -> Any:
        """σ² at step number `step`, counted from 0: what a schedule of learning rates has in place of one σ²."""

    @abc.abstractmethod
    def check(self, problem: Problem) -> None:
        """Raise a ValueError if these dynamics cannot run on a problem."""

    @property
    @abc.abstractmethod
    def time_step(self) -> Any:
        """The time that passes in a step, η or dt: a number, or a schedule of the step number, counted from 0."""

    def step_size(self, step: Any) -> Any:
        """The time that passes in step number `step`."""
        return rate_at(self.time_step, step)

    @abc.abstractmethod
    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """What the next step needs besides the parameters: a pytree of arrays."""

    @abc.abstractmethod
    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """The next parameters and state.

        Args:
            problem: the problem.
            params: the parameters before the step.
            state: the state before the step.
            key: the key of this step.
            step: its number, counted from 0.
        """


def as_rate(value: Any, name: str) -> Any:
    """A learning rate or time step: a positive number, an array under `vmap`, or a schedule of the step number."""
    value = as_number(value)
    require(
        lambda rate: (rate > 0) & np.isfinite(rate),
        value,
        f"{name} is {value}; expected a number > 0, or a schedule of the step number.",
    )
    return value


def rate_at(rate: Any, step: Any) -> Any:
    """The value of a learning rate at a step."""
    if not callable(rate):
        return rate
    with optax_promotion():
        return rate(step)


def optax_promotion() -> Any:
    """A context for code of optax, which counts on standard promotion of dtypes where the caller may want it strict."""
    return jax.numpy_dtype_promotion("standard")


def constant_rate(rate: Any, what: str) -> Any:
    """The learning rate as one number.

    Raises:
        ValueError: for a schedule, which has no single noise scale or equilibrium.
    """
    require_scalar(rate, "the learning rate")
    if callable(rate):
        raise ValueError(
            f"{what} refers to one learning rate, and this one is a schedule; "
            "build the dynamics with its value at the step you mean: schedule(step). "
            "For σ² alone: dynamics.noise_scale_at(step)."
        )
    return rate


def descend(problem: Problem, params: PyTree, samples: PyTree, weights: Array, time: Any) -> PyTree:
    """θ ← (1 − 2γ·time) θ − Σ_i w_i ∇ℓ(θ, z_i): every explicit step in this program, one backward pass."""
    arrays, rebuild = split(params)
    gradients = weighted_gradient(problem, params, samples, weights)
    return rebuild(
        [
            # The gradient of γ‖θ‖² is known without a backward pass, and the same for every batch: weight decay has no
            # noise.
            array - gradient - 2 * cast(problem.weight_decay, array) * cast(time, array) * array
            for array, gradient in zip(arrays, gradients, strict=True)
        ]
    )
