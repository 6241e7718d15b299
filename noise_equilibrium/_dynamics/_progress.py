"""Progress of a long run: it is cut into segments between records, and a bar moves after each."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._observables import AbstractSummary

# Segments of a run. Each ends with the host waiting for the device, about a millisecond: of a run that is worth a bar,
# of some seconds, that is 1 %.
SEGMENTS = 50


def segments(steps: int, every: int) -> list[int]:
    """The lengths of the segments of a run: whole numbers of records, all but the last of one length."""
    records = steps // every
    length = max(1, records // SEGMENTS) * every
    whole, rest = divmod(steps, length)
    return [length] * whole + [rest] * (rest > 0)


def with_bar(start: Any, go_on: Callable[[Any, int], Any], steps: int, every: int) -> Any:
    """A run of segments, put together as one without a break.

    Args:
        start: the `Trajectory` of no steps.
        go_on: the next segment from the one before and its length.
        steps: the number of steps.
        every: steps between records.
    """
    from tqdm import tqdm  # only those who look at a bar load it

    parts = [start]
    with tqdm(total=steps, unit="step", unit_scale=True) as bar:
        for length in segments(steps, every):
            parts.append(go_on(parts[-1], length))
            if int(parts[-1].diverged_at) >= 0:
                bar.set_postfix_str(f"diverged at step {int(parts[-1].diverged_at)}")
            bar.update(length)
    last = parts[-1]

    def joined(*records: Any) -> Any:
        # The first record of a segment repeats the last of the one before.
        return jnp.concatenate([records[0], *(record[1:] for record in records[1:])])

    observed = {
        name: value
        if isinstance(value, AbstractSummary)
        else jax.tree_util.tree_map(joined, *(part.observed[name] for part in parts))
        for name, value in last.observed.items()
    }
    step, time = joined(*(part.step for part in parts)), joined(*(part.time for part in parts))
    return eqx.tree_at(lambda t: (t.step, t.time, t.observed), last, (step, time, observed))
