"""How much memory one array may take: above it a call is refused, or takes samples in smaller groups."""

from typing import Any

import jax.numpy as jnp

# 2 GiB. A matrix of this size is 16,384 × 16,384 in double precision: its eigenvalues take an hour of a core, and with
# the copies that a decomposition makes it fills a common machine. Above it the allocator would end the program, or the
# machine swap, long after the call; so the call refuses, and says what to use instead.
LARGEST = 2**31

# What the gradients of single samples may take that are held at once, where a call needs them in full.
GROUP = 2**26


def require_room(what: str, numbers: int, dtype: Any, instead: str) -> None:
    """Raise a ValueError at once if an array would be larger than `LARGEST` bytes.

    Args:
        what: the call and the array it would build, with its size in words.
        numbers: how many numbers it has.
        dtype: of which dtype.
        instead: what to use instead, a sentence.
    """
    size = numbers * jnp.dtype(dtype).itemsize
    if size > LARGEST:
        raise ValueError(f"{what} would take {size:.3g} bytes; expected at most {LARGEST:.3g}. {instead}")


def at_once(each: int, most: int) -> int:
    """How many samples to take at once, from 1 to `most`, if one of them takes `each` bytes."""
    # At least one, however large it is; the gradient of a pytree without numbers takes no bytes.
    return max(1, min(most, GROUP // max(each, 1)))
