"""The SDE of SGD by the Euler–Maruyama method."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._noise import noise_weights
from .._numbers import cast
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._validate import integer
from ._dynamics import as_rate, descend
from ._noisy import AbstractNoisy


class SDE(AbstractNoisy):
    """dθ = −∇L_γ dt + √(2σ²Σ(θ)) dW, Eq. (1), by Euler–Maruyama; σ² = η/(2S), time = η × (number of SGD steps).

    One step is one backward pass of a randomly weighted loss over all data, drift and exact noise together: the weight
    of sample i is dt/N − √(2σ²dt) N^{-1/2}(ξ_i − mean ξ). At dt = η the noise has the covariance η²Σ/S of one SGD step.

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.
        batch_size: S ≥ 1.
        dt: the time step, of weak order 1; η if not given. A schedule, of η or dt, is a function of the number of steps
            taken here.

    Raises:
        ValueError: for η ≤ 0, dt ≤ 0 or S < 1; on a Stream, once the problem is known.

    Source: theory, "The SDE" and "Exact noise without forming Σ".
    """

    learning_rate: Any
    batch_size: int = eqx.field(static=True)
    dt: Any

    def __init__(self, learning_rate: Any, batch_size: int, dt: Any = None):
        self.learning_rate = as_rate(learning_rate, "learning_rate")
        self.batch_size = integer(batch_size, "batch_size", 1)
        self.dt = None if dt is None else as_rate(dt, "dt")

    def check(self, problem: Problem) -> None:
        """Raise a ValueError on a Stream."""
        problem.require_finite("SDE")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of continuous time, Eq. (7)."""
        return ChargeLaw(decay=problem.weight_decay, scale=self.noise_scale, noise=1.0, mean=0.0)

    @property
    def time_step(self) -> Any:
        """dt, or η if it is not given."""
        return self.learning_rate if self.dt is None else self.dt

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One Euler–Maruyama step."""
        arrays, _ = split(params)
        count, dtype = problem.num_samples, widest_dtype(arrays)
        noise = noise_weights(key, count, dtype)
        dt = cast(self.step_size(step), noise)
        noise_scale = cast(self.noise_scale_at(step), noise)
        # `descend` subtracts, so the noise is added with the sign of dW; its factor N^{-1/2} is in `noise_weights`.
        weights = dt / count - jnp.sqrt(2 * noise_scale * dt) * noise
        return descend(problem, params, problem.data, weights, dt), state
