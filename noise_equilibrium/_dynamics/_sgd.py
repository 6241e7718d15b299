"""Stochastic gradient descent and gradient descent, in discrete time."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._numbers import require
from .._parameters import split, widest_dtype
from .._problem import Problem
from ._dynamics import AbstractDynamics, as_batch_size, as_rate, constant_rate, descend
from ._minibatch import minibatch


class SGD(AbstractDynamics):
    """Stochastic gradient descent: θ ← θ − η(ĝ + 2γθ), ĝ the mean gradient of a minibatch of S samples.

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.
        batch_size: S ≥ 1.
        replacement: whether the samples of a batch are independent draws; on a Stream they always are.

    Raises:
        ValueError: for a learning rate ≤ 0 or a batch size below 1; for a batch larger than the data without
            replacement, once the problem is known.

    Example:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> ne.SGD(0.1, 5).noise_scale  # σ² = η/(2S)
        0.01
    """

    learning_rate: Any
    batch_size: int = eqx.field(static=True)
    replacement: bool = eqx.field(static=True)
    needs_key: ClassVar[bool] = True
    is_discrete: ClassVar[bool] = True

    def __init__(self, learning_rate: Any, batch_size: int, replacement: bool = True):
        self.learning_rate = as_rate(learning_rate, "learning_rate")
        self.batch_size = as_batch_size(batch_size)
        self.replacement = bool(replacement)

    @property
    def noise_scale(self) -> Any:
        """σ² = η/(2S), for sampling with replacement; see `charge_law` for the exact discrete law."""
        return constant_rate(self.learning_rate, "noise_scale") / (2 * self.batch_size)

    def check(self, problem: Problem) -> None:
        """Raise a ValueError if the batch does not fit the data."""
        if problem.is_stream or self.replacement:
            return
        data = problem.data if problem.is_population else problem
        if self.batch_size > data.num_samples:
            raise ValueError(
                f"batch_size is {self.batch_size} without replacement and the data hold {data.num_samples} samples; "
                "expected a batch no larger than the data, or replacement=True."
            )

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The exact law of one step divided by η, Appendix D; Σ_S = Σ/S, times (N−S)/(N−1) without replacement."""
        self.check(problem)
        rate = constant_rate(self.learning_rate, "the discrete law")
        noise = 1 / self.batch_size
        if not self.replacement:
            count = problem.num_samples
            noise *= (count - self.batch_size) / max(count - 1, 1)
        return discrete_law(problem, rate, noise)

    @property
    def time_step(self) -> Any:
        """η."""
        return self.learning_rate

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step on a fresh minibatch."""
        rate = self.step_size(step)
        samples = minibatch(problem, key, self.batch_size, self.replacement)
        return descend(problem, params, samples, _equal(params, rate, self.batch_size), rate), state


class GD(AbstractDynamics):
    """Full-batch gradient descent: θ ← θ − η∇L_γ(θ).

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.

    Raises:
        ValueError: for a learning rate ≤ 0; on a Stream, once the problem is known.
    """

    learning_rate: Any
    needs_key: ClassVar[bool] = False
    is_discrete: ClassVar[bool] = True

    def __init__(self, learning_rate: Any):
        self.learning_rate = as_rate(learning_rate, "learning_rate")

    @property
    def noise_scale(self) -> Any:
        """0: no gradient noise."""
        return 0.0

    def check(self, problem: Problem) -> None:
        """Raise a ValueError on a Stream."""
        problem.require_finite("GD")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of one step divided by η, Appendix D with Σ_S = 0: only gradient flow conserves charges."""
        return discrete_law(problem, constant_rate(self.learning_rate, "the discrete law"), 0.0)

    @property
    def time_step(self) -> Any:
        """η."""
        return self.learning_rate

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step on all data."""
        rate = self.step_size(step)
        return descend(problem, params, problem.data, _equal(params, rate, problem.num_samples), rate), state


def discrete_law(problem: Problem, rate: Any, noise: Any) -> ChargeLaw:
    """The law of a discrete step divided by η: γ' = γ(1 − ηγ), s = η/2, with the mean gradient in full.

    Raises:
        ValueError: if ηγ ≥ 1, where the step no longer contracts and Theorem D.1 does not hold.
    """
    decay = problem.weight_decay
    require(
        lambda product: product < 1,
        rate * decay,
        f"learning rate × weight decay is {rate * decay}; expected less than 1 for the discrete law.",
    )
    return ChargeLaw(decay=decay * (1 - rate * decay), scale=rate / 2, noise=noise, mean=1.0)


def _equal(params: PyTree, total: Any, n: int):
    """N equal weights that add up to `total`, in the dtype of the parameters."""
    arrays, _ = split(params)
    return jnp.broadcast_to(jnp.asarray(total).astype(widest_dtype(arrays)) / n, (n,))
