"""The generator of JAX, threefry2x32, written out.

On the CPU, JAX compiles it as a loop of five turns over whole arrays, each of which reads and writes all of them. As
one expression its twenty rounds stay in the registers. The bits are the same.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt32

from .._keys import IMPLEMENTATION

Pair = tuple[UInt32[Array, "..."], UInt32[Array, "..."]]

# The constants of the source: rotations of the rounds, by groups of four, and the parity word of the key schedule.
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
UINT = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


@jax.jit
def threefry(key: Pair, count: Pair) -> Pair:
    """Threefry-2x32 with twenty rounds, elementwise: two words from two words, under a key of two words.

    Args:
        key: its words, of any shapes that broadcast with those of `count`.
        count: the words to hash.

    Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    schedule = (*key, key[0] ^ key[1] ^ jnp.uint32(PARITY))
    left, right = count[0] + schedule[0], count[1] + schedule[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            left = left + right
            right = left ^ ((right << jnp.uint32(turn)) | (right >> jnp.uint32(32 - turn)))
        left = left + schedule[(group + 1) % 3]
        right = right + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return left, right


def random_bits(keys: Key[Array, "..."], bit_width: int, shape: tuple[int, ...]) -> Array:
    """What `jax.random.bits` gives for each of the keys: an array of the shape keys.shape + shape."""
    left, right = _hashes(keys, shape)
    dtype = UINT[bit_width]
    # The layout of `jax_threefry_partitionable`: every place has a hash of its own, two words, and narrow numbers mix
    # both.
    if bit_width == 64:
        return left.astype(dtype) << jnp.asarray(32, dtype) | right.astype(dtype)
    return (left ^ right).astype(dtype)


def split(keys: Key[Array, "..."], shape: tuple[int, ...]) -> Key[Array, "..."]:
    """What `jax.random.split` gives for each of the keys: keys of the shape keys.shape + shape."""
    return _as_keys(_hashes(keys, shape))


def fold_in(keys: Key[Array, "..."], number: UInt32[Array, "..."]) -> Key[Array, "..."]:
    """What `jax.random.fold_in` gives for each of the keys and numbers, which broadcast."""
    data = jax.random.key_data(keys)
    return _as_keys(threefry((data[..., 0], data[..., 1]), (jnp.zeros_like(number), number)))


def _hashes(keys: Key[Array, "..."], shape: tuple[int, ...]) -> Pair:
    """What each key makes of the numbers 0, 1, … of the places of a shape, fewer than 2³²."""
    data = jax.random.key_data(keys)
    low = jax.lax.iota(jnp.uint32, math.prod(shape))
    left, right = threefry((data[..., :1], data[..., 1:]), (jnp.zeros_like(low), low))
    return left.reshape(keys.shape + shape), right.reshape(keys.shape + shape)


def _as_keys(pair: Pair) -> Key[Array, "..."]:
    return jax.random.wrap_key_data(jnp.stack(pair, axis=-1), impl=IMPLEMENTATION)
