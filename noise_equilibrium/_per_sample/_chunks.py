"""Sums over samples in a loop that holds one chunk of them at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._double import add

# Temporary memory for what is not an activation: per-sample gradients and large intermediates of the Grams. 64 MiB are
# more than a cache, so that a smaller chunk is no faster, and less than anyone would miss.
CHUNK_BYTES = 2**26

Sums = TypeVar("Sums", bound=PyTree)


def samples_in(extra: int, count: int, activations: int = 0) -> int:
    """How many of `count` samples to take at once.

    Args:
        extra: bytes per sample that must stay below `CHUNK_BYTES`, or below what all activations take if that is more.
        count: N.
        activations: bytes per sample of the activations, which a full-batch gradient holds for all samples.
    """
    return min(count, max(1, max(CHUNK_BYTES, count * activations) // max(extra, 1)))


def map_over_samples(function: Callable[[PyTree], Array], data: PyTree, count: int, most: int) -> Array:
    """`function(samples)` of every chunk, put together again in the order of the samples.

    Args:
        function: takes n samples to an array with a leading axis of n.
        data: a pytree whose leaves share a leading axis.
        count: the length of that axis.
        most: the largest number of samples in a chunk.
    """
    if most >= count:
        return function(data)
    steps = _steps(count, most)
    chunk = count // steps
    rows = jax.lax.map(lambda step: function(_chunk(data, step, chunk, steps)), jnp.arange(steps))
    # Chunk k holds the samples k, k + steps, k + 2·steps, …: in order they are with the axis of the chunks second.
    rows = jnp.swapaxes(rows, 0, 1).reshape(chunk * steps, *rows.shape[2:])
    if chunk * steps == count:
        return rows
    rest = jax.tree_util.tree_map(lambda leaf: leaf[chunk * steps :], data)
    return jnp.concatenate([rows, function(rest)])


def sum_over_samples(sums: Callable[[PyTree], Sums], data: PyTree, count: int, most: int) -> Sums:
    """Σ over chunks of `sums(samples)`.

    A chunk takes every k-th sample, not k in a row: samples that lie spread over devices then stay where they are, each
    device giving its share to every chunk, and no chunk is copied beforehand.

    Args:
        sums: a sum over the samples it is given.
        data: a pytree whose leaves share a leading axis.
        count: the length of that axis.
        most: the largest number of samples in a chunk.
    """
    if most >= count:
        return sums(data)
    steps = _steps(count, most)
    chunk = count // steps

    def of_chunk(step: Int[Array, ""]) -> Sums:
        return sums(_chunk(data, step, chunk, steps))

    def add_chunk(total: Sums, step: Int[Array, ""]) -> tuple[Sums, None]:
        return add(total, of_chunk(step)), None

    indices = jnp.arange(steps)
    zero = jax.tree_util.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_chunk, indices[0]))
    total, _ = jax.lax.scan(add_chunk, zero, indices)
    if chunk * steps < count:
        rest = jax.tree_util.tree_map(lambda leaf: leaf[chunk * steps :], data)
        total = add(total, sums(rest))
    return total


def _chunk(data: PyTree, step: Int[Array, ""], chunk: int, steps: int) -> PyTree:
    """Every sample whose number leaves the remainder `step` when divided by `steps`."""

    def take(leaf: Array) -> Array:
        rows = jnp.asarray(leaf)[: chunk * steps].reshape(chunk, steps, *leaf.shape[1:])
        return jax.lax.dynamic_index_in_dim(rows, step, axis=1, keepdims=False)

    return jax.tree_util.tree_map(take, data)


def _steps(count: int, most: int) -> int:
    """The number of chunks: one that leaves no rest, if there is such a number close to the least.

    A rest is a second program, compiled and run for a few samples; up to twice the number of chunks cost less.
    """
    least = -(-count // most)
    return next((steps for steps in range(least, min(2 * least, count) + 1) if count % steps == 0), least)
