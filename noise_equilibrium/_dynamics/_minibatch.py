"""Minibatches: which samples one step of SGD sees."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._population import Redrawn, Stream
from .._problem import Problem


def minibatch(problem: Problem, key: PRNGKeyArray, size: int, replacement: bool) -> PyTree:
    """`size` samples of a problem: fresh ones of a Stream, or of a data set with or without replacement."""
    if isinstance(problem.data, Stream):
        return problem.data.batch(key, size)
    choose = draw_with_replacement if replacement else draw_without_replacement
    if isinstance(problem.data, Redrawn):
        choose_key, redraw_key = jax.random.split(key)
        return problem.data.visit(redraw_key, choose(choose_key, problem.data.num_samples, size))
    indices = choose(key, problem.num_samples, size)
    return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[indices], problem.data)


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
