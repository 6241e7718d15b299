"""PRNG keys: one stream per purpose, threefry only."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

IMPLEMENTATION = "threefry2x32"


def as_key(key: Any, what: str) -> PRNGKeyArray:
    """The key as a typed threefry key.

    Under `vmap`, other implementations draw from the first key of the batch alone, so that runs would share their
    random numbers; they are refused.

    Raises:
        ValueError: if the key is missing, is not one single key, or is of another implementation.
    """
    mend = "Give key=jax.random.key(seed)."
    if key is None:
        raise ValueError(f"{what} needs random numbers and got no key. {mend}")
    if not hasattr(key, "dtype"):
        raise ValueError(f"{what} got {key!r} as its key; expected a JAX PRNG key. {mend}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.shape[-1:] != (2,):
            raise ValueError(f"{what} got an array of dtype {key.dtype} and shape {key.shape} as its key. {mend}")
        key = jax.random.wrap_key_data(key, impl=IMPLEMENTATION)
    implementation = str(jax.random.key_impl(key))
    if implementation != IMPLEMENTATION:
        raise ValueError(f"{what} got a key of implementation {implementation}; expected {IMPLEMENTATION}. {mend}")
    if key.shape != ():
        raise ValueError(f"{what} got {key.shape} keys; expected a single one. Use jax.vmap for several runs.")
    return key
