"""Stochastic gradient descent and gradient descent, in discrete time."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._minibatch import Replacement, as_replacement
from .._numbers import require
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._validate import integer
from ._draws import draw_batch, first_epoch, noise_ratio
from ._dynamics import as_rate, constant_rate, descend
from ._noisy import AbstractMinibatched, AbstractNoiseless, AbstractNoisy


class SGD(AbstractNoisy, AbstractMinibatched):
    """Stochastic gradient descent: θ ← θ − η(ĝ + 2γθ), ĝ the mean gradient of a minibatch of S samples.

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.
        batch_size: S ≥ 1.
        replacement: True: the samples of a batch are independent draws, as they always are on a Stream. False: no
            sample twice in a batch. "epoch": none twice in an epoch, which has ⌊N/S⌋ steps; the N mod S samples left
            over are others in every epoch.

    Raises:
        ValueError: for a learning rate ≤ 0, a batch size below 1 or another word; for a batch larger than the data
            without replacement, once the problem is known.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> ne.SGD(0.1, 5).noise_scale  # σ² = η/(2S)
        0.01
    """

    learning_rate: Any
    batch_size: int = eqx.field(static=True)
    replacement: Replacement = eqx.field(static=True)
    is_discrete: ClassVar[bool] = True

    def __init__(self, learning_rate: Any, batch_size: int, replacement: Replacement = True):
        self.learning_rate = as_rate(learning_rate, "learning_rate")
        self.batch_size, self.replacement = integer(batch_size, "batch_size", 1), as_replacement(replacement)

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of one step divided by η, Appendix D; Σ_S = Σ/S, times (N−S)/(N−1) without replacement.

        Exact for batches that are independent of the parameters; for shuffled epochs the leading order in η.
        """
        return discrete_law(
            problem, constant_rate(self.learning_rate, "the discrete law"), noise_ratio(self.batches, problem)
        )

    @property
    def time_step(self) -> Any:
        """η."""
        return self.learning_rate

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """The permutation of the epoch, if there are epochs."""
        return first_epoch(self.batches, problem)

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step on the next minibatch."""
        rate = self.step_size(step)
        samples, state = draw_batch(self.batches, problem, state, key, step)
        return descend(problem, params, samples, equal_weights(params, rate, self.batch_size), rate), state


class GD(AbstractNoiseless):
    """Full-batch gradient descent: θ ← θ − η∇L_γ(θ).

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.

    Raises:
        ValueError: for a learning rate ≤ 0; on a Stream, once the problem is known.
    """

    learning_rate: Any
    is_discrete: ClassVar[bool] = True

    def __init__(self, learning_rate: Any):
        self.learning_rate = as_rate(learning_rate, "learning_rate")

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
        return descend(problem, params, problem.data, equal_weights(params, rate, problem.num_samples), rate), state


def discrete_law(problem: Problem, rate: Any, noise: Any) -> ChargeLaw:
    """The law of a discrete step divided by η: γ' = γ(1 − ηγ), s = η/2, with the mean gradient in full.

    Raises:
        ValueError: if ηγ ≥ 1, where the step no longer contracts and Theorem D.1 does not hold.
    """
    # At each step C(θ') = (1 − 2ηγ)² C(θ) + η² ĝᵀAĝ, and (1 − 2ηγ)² − 1 = −4ηγ(1 − ηγ) (theory, "Discrete time").
    decay = problem.weight_decay
    require(
        lambda product: product < 1,
        rate * decay,
        f"learning rate × weight decay is {rate * decay}; expected less than 1 for the discrete law.",
    )
    return ChargeLaw(decay=decay * (1 - rate * decay), scale=rate / 2, noise=noise, mean=1.0)


def equal_weights(params: PyTree, total: Any, n: int):
    """n equal weights that add up to `total`, in the dtype of the parameters."""
    arrays, _ = split(params)
    return jnp.broadcast_to(jnp.asarray(total).astype(widest_dtype(arrays)) / n, (n,))
