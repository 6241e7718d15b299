"""What the program of a run tells without being run: on which inputs an output depends, and how much work it is.

Both are functions of the program alone, never of a clock, so that a sweep is cut into the same units every time.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from .._jaxpr import CALLS, COSTLY, REMATS, SCANS, program_inside, programs_inside, scan_layout

UNKNOWN_TRIPS = 100  # of a `while` loop, whose trips depend on values

# Elementary operations, one for each element that a vectorised loop adds or multiplies, and what other work is worth.
# Measured on one CPU core, where a second has some 4e9 of them; the values set the size of a unit and nothing else.
OPERATIONS_PER_SECOND = 4e9
RANDOM_WORD = 12.0  # 32 random bits
TRANSCENDENTAL = 8.0
MULTIPLY_ADD = 0.25  # inside a matrix product
LAUNCH = 2000.0  # what an equation costs besides its elements, once for all runs of a batch

CHEAP = {"reshape", "squeeze", "broadcast_in_dim", "expand_dims", "random_wrap", "random_unwrap", "stop_gradient"}


class Work(NamedTuple):
    """What one run costs, in elementary operations, and a batch of any size on top; and the bytes alive at once."""

    per_run: float
    per_batch: float
    live_bytes: float


def work_of(jaxpr: core.Jaxpr, own: Sequence[bool] | None = None) -> Work:
    """An estimate of the work of a program: right to a factor of a few, which is all that the size of a unit needs.

    Args:
        jaxpr: the program.
        own: for each input whether every run of a batch has its own; all have if not given. What all runs share, such
            as a data set, costs and takes its memory once for a batch.
    """
    owned = set(itertools.compress(jaxpr.invars, own or [True] * len(jaxpr.invars)))
    ends = _last_uses(jaxpr)
    alive = peak = sum(map(_bytes, owned))
    per_run = per_batch = 0.0
    for eqn, ending in zip(jaxpr.eqns, ends, strict=True):
        seen = [not isinstance(var, core.Literal) and var in owned for var in eqn.invars]
        work = _work_of_equation(eqn, seen)
        if any(seen):
            owned.update(eqn.outvars)
            alive += sum(map(_bytes, eqn.outvars))
            per_run += work.per_run
            peak = max(peak, alive + work.live_bytes)
        else:
            per_batch += work.per_run
        per_batch += work.per_batch
        alive -= sum(_bytes(var) for var in ending if var in owned)
    return Work(per_run, per_batch, peak)


def _last_uses(jaxpr: core.Jaxpr) -> list[list[Any]]:
    """For each equation the variables that nothing needs after it."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, core.Literal)}
    ends = []
    for eqn in reversed(jaxpr.eqns):
        here = {var for var in (*eqn.invars, *eqn.outvars) if not isinstance(var, core.Literal)}
        ends.append([*(here - needed)])
        needed |= here
    return ends[::-1]


def _work_of_equation(eqn: core.JaxprEqn, own: Sequence[bool]) -> Work:
    name = eqn.primitive.name
    written, read = sum(map(_size, eqn.outvars)), max(map(_size, eqn.invars), default=0.0)
    if name in CALLS and eqn.params.get("name") == "threefry":  # written out, with two words for every number
        return Work(RANDOM_WORD * written / 2, LAUNCH, 0.0)
    bodies = [work_of(body, _own_inside(eqn, body, own)) for body in programs_inside(eqn)]
    if bodies:
        length = eqn.params.get("length")
        loops = length if isinstance(length, int) else UNKNOWN_TRIPS
        trips = {"scan": loops, "while": UNKNOWN_TRIPS}.get(name, 1)
        combine = max if name == "cond" else sum
        return Work(
            trips * combine(body.per_run for body in bodies),
            trips * combine(body.per_batch for body in bodies),
            max(body.live_bytes for body in bodies),
        )
    if name in CHEAP:
        return Work(0.0, 0.0, 0.0)
    if name == "dot_general":
        return Work(written * _contracted(eqn) * MULTIPLY_ADD, LAUNCH, 0.0)
    if name == "conv_general_dilated":
        return Work(written * _size(eqn.invars[1]) * MULTIPLY_ADD, LAUNCH, 0.0)
    if name.startswith(("random_", "threefry")):
        return Work(RANDOM_WORD * sum(map(_bytes, eqn.outvars)) / 4, LAUNCH, 0.0)
    return Work(max(written, read) * (TRANSCENDENTAL if name in COSTLY else 1.0), LAUNCH, 0.0)


def _contracted(eqn: core.JaxprEqn) -> float:
    """The number of terms in an entry of a matrix product; an upper bound if it is spelled in an unknown way."""
    numbers, shape = eqn.params.get("dimension_numbers"), _shape(eqn.invars[0])
    match numbers:
        case ((axes, _), (_, _)):
            return float(math.prod(shape[axis] for axis in axes))
    return float(math.prod(shape))


def _own_inside(eqn: core.JaxprEqn, body: core.Jaxpr, own: Sequence[bool]) -> list[bool]:
    """Which inputs of a program inside of an equation every run has for itself; all of them if that is in doubt."""
    count = len(body.invars)
    if not any(own) or count > len(own):
        return [any(own)] * count
    inside = list(own[len(own) - count :])  # the inputs of a loop or branch are the last ones of its equation
    if eqn.primitive.name == "scan":
        layout = scan_layout(eqn, body)
        first, length = (0, count) if layout is None else (layout.num_consts, layout.num_carry)
    elif eqn.primitive.name == "while":
        first, length = max(count - len(eqn.outvars), 0), count
    else:
        return inside
    return [mine or first <= place < first + length for place, mine in enumerate(inside)]


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: Any) -> float:
    return float(math.prod(_shape(var)))


def _bytes(var: Any) -> float:
    dtype = getattr(var.aval, "dtype", None)
    return _size(var) * (dtype.itemsize if isinstance(dtype, np.dtype) else 8)  # a key is two words


def dependencies(jaxpr: core.Jaxpr) -> list[frozenset[int]]:
    """For each output the inputs, by position, on which it may depend; what is not understood depends on everything."""
    known: dict[Any, frozenset[int]] = {var: frozenset({place}) for place, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        seen = _looked_up(eqn.invars, known)
        called, body = program_inside(eqn, CALLS | REMATS), program_inside(eqn, SCANS)
        layout = None if body is None else scan_layout(eqn, body.jaxpr)
        if called is not None:
            out = _through(dependencies(called.jaxpr), seen)
        elif body is not None and layout is not None:
            out = _through_loop(body.jaxpr, seen, layout.num_consts, layout.num_carry)
        else:
            out = [frozenset().union(*seen)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, out, strict=True))
    return _looked_up(jaxpr.outvars, known)


def _looked_up(variables: Sequence[Any], known: dict[Any, frozenset[int]]) -> list[frozenset[int]]:
    return [frozenset() if isinstance(var, core.Literal) else known.get(var, frozenset()) for var in variables]


def _through(inner: list[frozenset[int]], seen: list[frozenset[int]]) -> list[frozenset[int]]:
    return [frozenset().union(*(seen[place] for place in needed)) for needed in inner]


def _through_loop(inner: core.Jaxpr, seen: list[frozenset[int]], first: int, count: int) -> list[frozenset[int]]:
    """The dependencies of a scan: what its carry depends on grows from trip to trip, until it grows no more."""
    seen, needed = list(seen), dependencies(inner)
    while True:
        out = _through(needed, seen)
        carry = [old | new for old, new in zip(seen[first : first + count], out[:count], strict=True)]
        if carry == seen[first : first + count]:
            return carry + out[count:]
        seen[first : first + count] = carry
