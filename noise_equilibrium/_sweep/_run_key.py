"""The key of a run: from the key of the sweep, the values of the coordinates, and the seed; from nothing else.

So a run draws the same numbers whichever other values its axes have, in whichever order, batch, shard or process.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt32

from .._keys import IMPLEMENTATION, as_key
from ._axes import MAX_SEED


def run_key(key: PRNGKeyArray, seed: int, point: Mapping[str, Any]) -> PRNGKeyArray:
    """The key with which `sweep(run, axes, seeds=..., key=key)` calls `run` for one seed at one point.

    Two words of the SHA-256 of the point (names and values, sorted by name; 1 and 1.0 are one value) and then the seed
    are folded into the key. Seeds of one point never share a key; two points do with a probability of about 2⁻⁶⁴.

    Args:
        key: the key of the sweep.
        seed: the seed, from 0 to 2³² − 1.
        point: the coordinates, name → value.

    Raises:
        ValueError: for an unsuitable key, a seed out of range, or a value that is no number, bool or string.

    Examples:
        >>> import jax, noise_equilibrium as ne
        >>> one = ne.run_key(jax.random.key(0), 3, {"width": 8, "rate": 0.1})
        >>> other = ne.run_key(jax.random.key(0), 3, {"rate": 0.1, "width": 8.0})
        >>> bool(one == other)
        True
    """
    if not hasattr(seed, "__index__") or not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed is {seed!r}; expected an integer from 0 to 2³² − 1.")
    words = np.array([[*point_words(point), seed]], np.uint32)
    data = derive(jax.random.key_data(as_key(key, "run_key")), words)[0]
    return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)


def point_words(point: Mapping[str, Any]) -> tuple[int, int]:
    """64 bits that tell a point from others, as two words."""
    text = json.dumps([[name, *_spelled(name, point[name])] for name in sorted(point)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


@jax.jit
def derive(key: UInt32[Array, "2"], words: UInt32[Array, "runs 3"]) -> UInt32[Array, "runs 2"]:
    """Fold the words of each run into the key of the sweep, one after the other; keys as their data."""

    def fold(words: UInt32[Array, "3"]) -> UInt32[Array, "2"]:
        base = jax.random.wrap_key_data(key, impl=IMPLEMENTATION)
        folded, _ = jax.lax.scan(lambda key, word: (jax.random.fold_in(key, word), None), base, words)
        return jax.random.key_data(folded)

    return jax.vmap(fold)(words)


def _spelled(name: str, value: Any) -> tuple[str, str]:
    """A value in one exact spelling, whatever type of number it is."""
    if isinstance(value, bool | np.bool_):
        return "bool", str(bool(value))
    if isinstance(value, str):
        return "string", str(value)
    if hasattr(value, "__index__"):
        return "number", str(value.__index__())
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"coordinate {name!r} is {value!r}; expected a number, a bool or a string.") from None
    return "number", str(int(number)) if number.is_integer() else number.hex()
