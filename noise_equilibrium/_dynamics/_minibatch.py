"""Minibatches: which samples one step sees."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._noise import batch_factor
from .._population import Redrawn, Stream
from .._problem import Problem
from .._random import in_one_pass

EPOCH = "epoch"


class Minibatches(eqx.Module):
    """Batches of S samples, drawn with replacement, without it inside a batch, or without it inside an epoch.

    An epoch has ⌊N/S⌋ steps on the batches of one random permutation; the N mod S samples left over are others in every
    epoch. The permutation comes from the key of the first step of its epoch. A Stream's samples are always independent.

    Args:
        size: S ≥ 1.
        replacement: True, False or "epoch".

    Raises:
        ValueError: for a size that is no integer ≥ 1, or another word.
    """

    size: int = eqx.field(static=True)
    replacement: bool | str = eqx.field(static=True)

    def __init__(self, size: Any, replacement: Any):
        self.size = as_batch_size(size)
        replacement = bool(replacement) if isinstance(replacement, np.bool_) else replacement
        if not isinstance(replacement, bool) and replacement != EPOCH:
            raise ValueError(
                f"replacement is {replacement!r}; expected True, False (no sample twice in a batch) or {EPOCH!r} (none "
                "twice in an epoch)."
            )
        self.replacement = replacement

    def check(self, problem: Problem) -> None:
        """Raise a ValueError if a batch does not fit the data."""
        if problem.is_stream or self.replacement is True:
            return
        if self.size > (count := population_size(problem)):
            raise ValueError(
                f"batch_size is {self.size} without replacement and the data hold {count} samples; "
                "expected a batch no larger than the data, or replacement=True."
            )

    def variance(self, problem: Problem) -> float:
        """Cov ĝ / Σ of a batch: 1/S, times (N−S)/(N−1) without replacement; for epochs the leading order in η.

        Inside an epoch the batches are correlated, which enters a charge at the next order in η (theory, "Shuffled
        epochs").
        """
        self.check(problem)
        if self.replacement is True:  # of a Stream too, which has no N
            return 1 / self.size
        return batch_factor(problem.num_samples, self.size, replacement=False)

    def init(self, problem: Problem) -> PyTree:
        """The permutation of the epoch; nothing for independent batches."""
        shuffles = self.replacement == EPOCH and not problem.is_stream
        return jnp.arange(population_size(problem), dtype=jnp.int32) if shuffles else ()

    def draw(self, problem: Problem, state: PyTree, key: PRNGKeyArray, step: Any) -> tuple[PyTree, PyTree]:
        """The samples of a step, stacked along a leading axis, and the next state.

        Args:
            problem: whose data are sampled.
            state: from `init` or the step before.
            key: the key of this step.
            step: its number, counted from 0.
        """
        return in_one_pass(lambda key: self._draw(problem, state, key, step))(key)

    def _draw(self, problem: Problem, state: PyTree, key: PRNGKeyArray, step: Any) -> tuple[PyTree, PyTree]:
        data = problem.data
        if isinstance(data, Stream):
            return data.batch(key, self.size), state
        redrawn = isinstance(data, Redrawn)
        choose_key, redraw_key = jax.random.split(key) if redrawn else (key, key)
        indices, state = self._choose(population_size(problem), state, choose_key, step)
        if isinstance(data, Redrawn):
            return data.visit(redraw_key, indices), state
        return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[indices], data), state

    def _choose(self, count: int, state: PyTree, key: PRNGKeyArray, step: Any) -> tuple[Int[Array, " S"], PyTree]:
        if self.replacement is True:
            return draw_with_replacement(key, count, self.size), state
        if self.replacement is False:
            return draw_without_replacement(key, count, self.size), state
        place = jnp.asarray(step) % (count // self.size)
        order = _renewed(place == 0, key, state)
        return jax.lax.dynamic_slice(order, (place * self.size,), (self.size,)), order


def population_size(problem: Problem) -> int:
    """N, the number of samples of the data, before they are redrawn if they are."""
    return problem.data.num_samples if isinstance(problem.data, Redrawn) else problem.num_samples


def as_batch_size(value: Any) -> int:
    """A batch size: an integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"batch_size is {value!r}; expected an integer of at least 1.")
    size = value.__index__()
    if size < 1:
        raise ValueError(f"batch_size is {size}; expected at least 1.")
    return size


def draw_with_replacement(key: PRNGKeyArray, population: int, size: int) -> Int[Array, " S"]:
    """`size` independent indices below `population`."""
    return jax.random.randint(key, (size,), 0, population)


def draw_without_replacement(key: PRNGKeyArray, population: int, size: int) -> Int[Array, " S"]:
    """A uniform random subset of `size` different indices below `population`.

    Small subsets are drawn by Floyd's algorithm in S² comparisons, large ones by a permutation in N log N: permuting
    all data at every step would cost more than the step.
    """
    if size * size >= 4 * population:
        return jax.random.permutation(key, population)[:size]
    last = jnp.arange(population - size, population)  # the candidates grow by one from draw to draw
    draws = jax.random.randint(key, (size,), 0, last + 1)

    def take(i: int, chosen: Int[Array, " S"]) -> Int[Array, " S"]:
        taken = jnp.any((chosen == draws[i]) & (jnp.arange(size) < i))
        return chosen.at[i].set(jnp.where(taken, last[i], draws[i]))

    return jax.lax.fori_loop(0, size, take, jnp.zeros_like(draws))


def _renewed(is_due: Array, key: PRNGKeyArray, order: Int[Array, " N"]) -> Int[Array, " N"]:
    """A new permutation if it is due, else the old one.

    A loop of at most one turn, not a conditional: under `vmap` with a batched step number a conditional would sort at
    every step, where a loop turns only if some run is due.
    """

    def renew(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.zeros_like(carry[0]), jax.random.permutation(key, order.shape[0]).astype(order.dtype)

    return jax.lax.while_loop(lambda carry: carry[0], renew, (is_due, order))[1]
