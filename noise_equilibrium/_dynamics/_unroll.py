"""How many steps of a run make one turn of its loop."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

from .._work import work_of

# A turn of a loop takes a GPU some 8 µs, in which the host asks whether there is another. In that time a small part of
# a GPU does some 10⁷ operations: a step of more loses nothing by a turn of its own.
TURN_OPERATIONS = 1e7
# Each step more is compiled once more, and eight leave an eighth of what the turns cost.
MOST = 8

# A context of JAX, which its caches of traced programs know: a run that is jitted is traced again for another number.
_chosen = jax.make_user_context(None)


def unrolled(unroll: int | None) -> AbstractContextManager[Any]:
    """A context in which runs that are not told otherwise take so many steps in a turn."""
    return _chosen(unroll)


def as_chosen(unroll: int | None) -> int | None:
    """What was asked for: by the call, or by the context around it; None if nothing was."""
    return _chosen.value if unroll is None else unroll


def chooses(unroll: int | None) -> bool:
    """Whether anything but one step in a turn may come of it here: a CPU turns for nothing."""
    return unroll != 1 if unroll is not None else jax.default_backend() != "cpu"


def steps_in_a_turn(unroll: int | None, step: Callable[..., Any], *examples: Any) -> int:
    """The number of steps in a turn, from the work of one unless it was asked for.

    Args:
        unroll: the number that was asked for.
        step: one step.
        examples: its arguments.
    """
    if unroll is not None:
        return unroll
    if not chooses(unroll):
        return 1
    operations = work_of(jax.make_jaxpr(step)(*examples).jaxpr).operations
    return max(1, min(MOST, int(TURN_OPERATIONS / max(operations, 1.0))))
