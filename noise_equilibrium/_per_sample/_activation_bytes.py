"""What a per-sample program holds in memory: a static estimate, for the size of chunks."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from .._jaxpr import CALLS, CUSTOM_DERIVATIVES, REMATS, SCANS, program_inside, programs_inside

# What a value depends on; the larger wins.
FIXED, ESCAPED, SAMPLE = 0, 1, 2


def bytes_per_sample(jaxpr: core.Jaxpr, depends: Sequence[int]) -> tuple[int, int, list[int]]:
    """Bytes of all values that depend on the sample, and of those that depend on escaped parameters alone.

    The latter are one value for all samples in the loss, and one value per sample where its parameters are tapped at
    themselves. The first number makes chunks larger and the second makes them smaller, so what is inside of an equation
    that is not understood counts in the second alone; and so does what a gradient computes again rather than keeps.

    Args:
        jaxpr: the program.
        depends: for each input FIXED, ESCAPED or SAMPLE.

    Returns:
        The two numbers, and what the outputs depend on.
    """
    known: dict[Any, int] = dict(zip(jaxpr.invars, depends, strict=True))
    totals = {FIXED: 0, ESCAPED: 0, SAMPLE: 0}

    def of(var: Any) -> int:
        return FIXED if isinstance(var, core.Literal) else known.get(var, FIXED)

    for eqn in jaxpr.eqns:
        seen = [of(var) for var in eqn.invars]
        highest = max(seen, default=FIXED)
        out = [highest] * len(eqn.outvars)
        called = program_inside(eqn, CALLS | REMATS | CUSTOM_DERIVATIVES)
        looped = program_inside(eqn, SCANS)
        inner = called or looped
        if inner is not None:
            sample, escaped, out_inside = bytes_per_sample(inner.jaxpr, seen)
            if program_inside(eqn, REMATS) is not None:  # a gradient keeps what comes out, and no more
                sample = sum(map(_nbytes, eqn.outvars)) if highest == SAMPLE else 0
            totals[SAMPLE] += _turns(eqn) * sample
            totals[ESCAPED] += _turns(eqn) * escaped
            # What comes out of a scan may depend on what an earlier turn carried, of which one turn of the body tells
            # nothing.
            out = out_inside if called else out
        else:
            totals[highest] += sum(map(_nbytes, eqn.outvars))
            if highest == ESCAPED:
                totals[ESCAPED] += _turns(eqn) * sum(map(_everything, programs_inside(eqn)))
        known.update(zip(eqn.outvars, out, strict=True))
    return totals[SAMPLE], totals[ESCAPED], [of(var) for var in jaxpr.outvars]


def _everything(jaxpr: core.Jaxpr) -> int:
    """Bytes of all values of a program and of the programs inside it."""
    total = 0
    for eqn in jaxpr.eqns:
        total += sum(map(_nbytes, eqn.outvars)) + _turns(eqn) * sum(map(_everything, programs_inside(eqn)))
    return total


def _turns(eqn: core.JaxprEqn) -> int:
    """How often an equation runs what is inside, where it says so."""
    length = eqn.params.get("length")
    return length if isinstance(length, int) else 1


def _nbytes(var: Any) -> int:
    """Bytes of one value."""
    shape, dtype = getattr(var.aval, "shape", ()), getattr(var.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 8)  # keys have no itemsize
