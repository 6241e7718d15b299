"""Stochastic variance amplified gradient: SGD on the way to its SDE."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._minibatch import Replacement, as_replacement
from .._numbers import as_number, cast, require, require_scalar
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._validate import integer
from ._draws import draw_batch, first_epoch, noise_ratio
from ._dynamics import as_rate, constant_rate, descend, rate_at
from ._noisy import AbstractMinibatched, AbstractNoisy
from ._sgd import discrete_law


class SVAG(AbstractNoisy, AbstractMinibatched):
    """SGD with steps l times smaller and a gradient noise l times larger: l = 1 is SGD, l → ∞ its SDE at the same σ².

        θ ← θ − (η/l)(ĝ_l + 2γθ),    ĝ_l = (1 + √(2l−1))/2 · ĝ_1 + (1 − √(2l−1))/2 · ĝ_2,

    with ĝ_1, ĝ_2 the mean gradients of two independent minibatches: E ĝ_l = ḡ and Cov ĝ_l = l Σ_S, so that l steps, the
    time η, carry the noise η²Σ_S of one step of SGD. Where SGD and SVAG differ, the SDE does not describe SGD.

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule of the number of steps taken here, l
            for each step of SGD.
        batch_size: S ≥ 1, of each of the two batches.
        l: the amplification ≥ 1, an integer or any other number.
        replacement: as in `SGD`; with "epoch" the two batches run through permutations of their own.

    Raises:
        ValueError: for η ≤ 0, S < 1 or l < 1; for a batch larger than the data without replacement.

    Source: Li, Malladi, Arora, *On the Validity of Modeling SGD with Stochastic Differential Equations* (2021).
    """

    learning_rate: Any
    batch_size: int = eqx.field(static=True)
    l: Any  # noqa: E741
    replacement: Replacement = eqx.field(static=True)
    is_discrete: ClassVar[bool] = True

    def __init__(self, learning_rate: Any, batch_size: int, l: Any, replacement: Replacement = True):  # noqa: E741
        self.learning_rate = as_rate(learning_rate, "learning_rate")
        self.batch_size, self.replacement = integer(batch_size, "batch_size", 1), as_replacement(replacement)
        self.l = as_number(l)
        if callable(self.l):
            raise ValueError(f"l is {l!r}; expected a number ≥ 1.")
        require(lambda value: (value >= 1) & np.isfinite(value), self.l, f"l is {l}; expected a number ≥ 1 (1 is SGD).")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of one step divided by η/l, Appendix D with E[ĝĝᵀ] = lΣ_S + ḡḡᵀ; l → ∞ is that of the SDE."""
        rate = constant_rate(self.learning_rate, "the discrete law") / self.l
        return discrete_law(problem, rate, noise_ratio(self.batches, problem) * self.l)

    @property
    def time_step(self) -> Any:
        """η/l."""
        require_scalar(self.l, "l")
        if callable(self.learning_rate):
            return lambda step: rate_at(self.learning_rate, step) / self.l
        return self.learning_rate / self.l

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """The permutations of the epochs, if there are epochs."""
        return first_epoch(self.batches, problem), first_epoch(self.batches, problem)

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step on the next two minibatches, by one backward pass over both; the first is that of SGD."""
        first, first_state = draw_batch(self.batches, problem, state[0], key, step)
        # A batch of its own needs a key of its own; the first keeps that of the step, which `SGD` would use.
        second, second_state = draw_batch(self.batches, problem, state[1], jax.random.fold_in(key, 1), step)
        samples = jax.tree_util.tree_map(lambda a, b: jnp.concatenate([a, b]), first, second)
        arrays, _ = split(params)
        one = jnp.ones((), widest_dtype(arrays))
        rate, root = cast(self.step_size(step), one), jnp.sqrt(2 * cast(self.l, one) - 1)
        weights = rate / (2 * self.batch_size) * jnp.repeat(jnp.stack([one + root, one - root]), self.batch_size)
        return descend(problem, params, samples, weights, rate), (first_state, second_state)
