"""Checks of arguments that set shapes, lengths and counts, and so must be known before anything is traced."""

import operator
from typing import Any

import jax.core
import numpy as np


def integer(value: Any, name: str, least: int, reason: str = "") -> int:
    """An integer of at least `least`; True and False are none.

    Args:
        value: what the user gave.
        name: of the argument.
        least: the smallest value allowed.
        reason: why no smaller one is, for the message.

    Raises:
        ValueError: for anything else, and for a traced value.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name} is traced ({value}); expected a known integer, because it sets a shape or a number of steps. "
            f"Leave it out of jit and vmap, and make one call for each value."
        )
    try:
        known = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        known = None
    if known is None or known < least:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}{reason and f': {reason}'}.")
    return known
