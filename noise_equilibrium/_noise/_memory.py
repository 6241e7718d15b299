"""What a per-sample program holds in memory: a static estimate, for the size of chunks."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

# What a value depends on; the larger wins.
FIXED, ESCAPED, SAMPLE = 0, 1, 2


def bytes_per_sample(jaxpr: core.Jaxpr, depends: Sequence[int]) -> tuple[int, int, list[int]]:
    """Bytes of all values that depend on the sample, and of those that depend on escaped parameters alone.

    The latter are one value for all samples in the loss, and one value per sample where its parameters are tapped at
    themselves.

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
        inner = _body(eqn)
        if inner is None:
            out = [max(seen, default=FIXED)] * len(eqn.outvars)
            for var in eqn.outvars:
                totals[out[0]] += _nbytes(var)
        else:
            length = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            sample, escaped, out = bytes_per_sample(inner, seen)
            totals[SAMPLE] += length * sample
            totals[ESCAPED] += length * escaped
            out = [max(seen, default=FIXED)] * len(out) if eqn.primitive.name == "scan" else out
        known.update(zip(eqn.outvars, out, strict=True))
    return totals[SAMPLE], totals[ESCAPED], [of(var) for var in jaxpr.outvars]


def _body(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """The program that an equation runs once, or a number of times, if it is of a kind with one."""
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    if not isinstance(inner, core.Jaxpr):
        return None
    fits = len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
    return inner if fits else None


def _nbytes(var: Any) -> int:
    return math.prod(var.aval.shape) * getattr(var.aval.dtype, "itemsize", 8)  # keys have no itemsize
