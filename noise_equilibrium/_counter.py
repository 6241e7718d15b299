"""Random numbers for samplers: the threefry generator of JAX, all rounds in one loop and both words of a block used.

Fresh samples can cost more than the gradient of a small net. On a CPU the default keys of JAX go through memory at
every fourth round and throw away half of every block; keys of this kind do neither. The generator is the same
(Threefry-2x32, 20 rounds); the numbers drawn from a key are others than those of the default kind.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, PRNGKeyArray, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def block(key: UInt32[Array, " 2"], counter: UInt32[Array, " n"]) -> tuple[Array, Array]:
    """The two words of each block of Threefry-2x32 with 20 rounds.

    Source: Salmon et al., *Parallel random numbers: as easy as 1, 2, 3* (2011).
    """
    words = key[0], key[1], key[0] ^ key[1] ^ PARITY
    first, second = jnp.broadcast_to(words[0], counter.shape), counter + words[1]
    for turn in range(5):
        for bits in ROTATIONS[turn % 2]:
            first = first + second
            second = first ^ ((second << np.uint32(bits)) | (second >> np.uint32(32 - bits)))
        first = first + words[(turn + 1) % 3]
        second = second + words[(turn + 2) % 3] + np.uint32(turn + 1)
    return first, second


def sampler_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """A key of the same data that draws faster."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_UNROLLED)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    words = size if bit_width == 64 else (size + 1) // 2
    first, second = block(key, jnp.arange(words, dtype=jnp.uint32))
    if bit_width == 64:
        bits = (first.astype(jnp.uint64) << np.uint64(32)) | second.astype(jnp.uint64)
    else:
        bits = jnp.concatenate([first, second])[:size].astype(f"uint{bit_width}")
    return bits.reshape(shape)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jnp.stack(block(key, counter), axis=-1).reshape(*shape, 2)


def _seed(seed: Any) -> Array:
    return jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(seed).astype(jnp.uint32)])


def _fold_in(key: Array, data: Any) -> Array:
    return jnp.concatenate(block(key, jnp.asarray(data).astype(jnp.uint32)[None]))


_UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="unr",
)
