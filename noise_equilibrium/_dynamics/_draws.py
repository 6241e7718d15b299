"""The samples of a step: minibatches as they are drawn, one after another."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._minibatch import EPOCH, Minibatches
from .._population import Redrawn, Stream
from .._problem import Problem
from .._random import in_one_pass


def require_fit(batches: Minibatches, problem: Problem) -> None:
    """Raise a ValueError if the data do not suffice for a batch; those of a Stream always do."""
    if not problem.is_stream:
        batches.require_fit(_count(problem))


def noise_ratio(batches: Minibatches, problem: Problem) -> float:
    """Cov ĝ / Σ of a batch; a Stream, which has no N, and independent draws know 1/S alone.

    Raises:
        ValueError: for a batch that does not fit the data; for redrawn data without replacement, whose noise has two
            parts that keep different shares.
    """
    require_fit(batches, problem)
    if problem.is_stream or batches.replacement is True:
        return 1 / batches.size
    return batches.noise_ratio(problem.num_samples)


def first_epoch(batches: Minibatches, problem: Problem) -> PyTree:
    """What the first step needs: room for the permutation of an epoch; nothing for independent batches."""
    shuffles = batches.replacement == EPOCH and not problem.is_stream
    return jnp.arange(_count(problem), dtype=jnp.int32) if shuffles else ()


def draw_batch(
    batches: Minibatches, problem: Problem, state: PyTree, key: PRNGKeyArray, step: Any
) -> tuple[PyTree, PyTree]:
    """The samples of a step, stacked along a leading axis, and the next state.

    The permutation of an epoch comes from the key of its first step.

    Args:
        batches: how the samples are chosen.
        problem: whose data are sampled.
        state: from `first_epoch` or the step before.
        key: the key of this step.
        step: its number, counted from 0.
    """
    return in_one_pass(lambda key: _draw(batches, problem, state, key, step))(key)


def _draw(batches: Minibatches, problem: Problem, state: PyTree, key: PRNGKeyArray, step: Any) -> tuple[PyTree, PyTree]:
    data = problem.data
    if isinstance(data, Stream):
        return data.batch(key, batches.size), state
    redrawn = isinstance(data, Redrawn)
    # Which samples come and how they are redrawn are independent.
    choose_key, redraw_key = jax.random.split(key) if redrawn else (key, key)
    indices, state = _choose(batches, _count(problem), state, choose_key, step)
    if isinstance(data, Redrawn):
        return data.visit(redraw_key, indices), state
    return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[indices], data), state


def _choose(
    batches: Minibatches, count: int, state: PyTree, key: PRNGKeyArray, step: Any
) -> tuple[Int[Array, " S"], PyTree]:
    """The indices of the samples of a batch, and the next state."""
    if batches.replacement is True:
        return draw_with_replacement(key, count, batches.size), state
    if batches.replacement is False:
        return draw_without_replacement(key, count, batches.size), state
    place = jnp.asarray(step) % (count // batches.size)
    order = _renewed(place == 0, key, state)
    return jax.lax.dynamic_slice(order, (place * batches.size,), (batches.size,)), order


def _count(problem: Problem) -> int:
    """N, the number of samples of the data, before they are redrawn if they are."""
    return problem.data.num_samples if isinstance(problem.data, Redrawn) else problem.num_samples


def draw_with_replacement(key: PRNGKeyArray, population: int, size: int) -> Int[Array, " S"]:
    """`size` independent indices below `population`."""
    return jax.random.randint(key, (size,), 0, population)


def draw_without_replacement(key: PRNGKeyArray, population: int, size: int) -> Int[Array, " S"]:
    """A uniform random subset of `size` different indices below `population`.

    Small subsets are drawn by Floyd's algorithm in S² comparisons, large ones by a permutation in N log N: permuting
    all data at every step would cost more than the step.
    """
    # A sort takes N log₂N comparisons: more than S², if that is below 4N, for every N > 16.
    if size * size >= 4 * population:
        return jax.random.permutation(key, population)[:size]
    # Draw j of Floyd's algorithm is uniform on 0, …, N − S + j. If it is taken, N − S + j itself is not, for it is
    # larger than all candidates before; so each subset comes with the same probability.
    last = jnp.arange(population - size, population)  # the candidates grow by one from draw to draw
    draws = jax.random.randint(key, (size,), 0, last + 1)

    def take(i: int, chosen: Int[Array, " S"]) -> Int[Array, " S"]:
        # The places from i on still hold zeros, which nobody chose.
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
