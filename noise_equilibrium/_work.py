"""What a batch of runs costs, as its program tells without being run: it sets the size of a unit and of a loop's turn.

Right to a factor of a few, which is all that the size of a unit needs. An estimate and no clock, so that the same sweep
without a store is cut in the same way every time; a store remembers how it was cut.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ._jaxpr import COSTLY, programs_inside

# Operations, of which one CPU core does some 4e9 in a second: one for each element that a vectorised loop adds or
# multiplies. What other work is worth was measured on that core.
OPERATIONS_PER_SECOND = 4e9
HEAVY = 8.0  # a transcendental function, or a random word
LIGHT = 0.2  # whole numbers, whose chains stay in registers, and a multiply-add inside a matrix product
LAUNCH = 2000.0  # what an equation costs besides its elements, once for all runs of a batch
UNKNOWN_TRIPS = 100  # of a `while` loop, whose trips depend on values


class Work(NamedTuple):
    """What a program costs: operations on elements, operations spent on launches, and the bytes alive at once."""

    operations: float
    launches: float
    live_bytes: float


def work_of(jaxpr: Any) -> Work:
    """An estimate of the work of a program."""
    works = [_work_of_equation(eqn) for eqn in jaxpr.eqns]
    # Where each variable is needed last: later equations overwrite earlier ones.
    needed = {var: place for place, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
    needed |= dict.fromkeys(_variables(jaxpr.outvars), len(works))
    alive = np.array([*(work.live_bytes for work in works), 0.0])
    for place, variables in enumerate([eqn.outvars for eqn in jaxpr.eqns]):
        for var in variables:
            alive[place : needed.get(var, place) + 1] += _bytes(var)
    for var in jaxpr.invars:
        alive[: needed.get(var, 0) + 1] += _bytes(var)
    return Work(sum(work.operations for work in works), sum(work.launches for work in works), float(np.max(alive)))


def _work_of_equation(eqn: Any) -> Work:
    """The work of an equation: that of the programs inside, as often as they run, or of its own elements."""
    bodies = [work_of(body) for body in programs_inside(eqn)]
    if not bodies:
        return _work_without_bodies(eqn)
    name, length = eqn.primitive.name, eqn.params.get("length")
    trips = {"scan": length if isinstance(length, int) else UNKNOWN_TRIPS, "while": UNKNOWN_TRIPS}.get(name, 1)
    # Which branch is taken is not known, and only one is.
    combine = max if name == "cond" else sum
    operations, launches = (trips * combine(body[part] for body in bodies) for part in (0, 1))
    return Work(operations, launches, max(body.live_bytes for body in bodies))


def _work_without_bodies(eqn: Any) -> Work:
    """The work on the elements that an equation reads or writes, whichever are more."""
    name, written = eqn.primitive.name, float(sum(map(_size, eqn.outvars)))
    elements = max([written, *map(_size, eqn.invars)])
    if name == "dot_general":
        return Work(LIGHT * written * _contracted(eqn), LAUNCH, 0.0)
    if name == "conv_general_dilated":
        return Work(LIGHT * written * _size(eqn.invars[1]), LAUNCH, 0.0)
    if name == "random_bits":
        return Work(HEAVY * sum(map(_bytes, eqn.outvars)) / 4, LAUNCH, 0.0)
    if all(np.issubdtype(_dtype(var), np.integer) for var in eqn.outvars):
        return Work(LIGHT * elements, 0.0, 0.0)  # launched together with what needs them
    return Work(HEAVY * elements if name in COSTLY else elements, LAUNCH, 0.0)


def _contracted(eqn: Any) -> int:
    """The number of terms in an entry of a matrix product; an upper bound if it is spelled in an unknown way."""
    match eqn.params.get("dimension_numbers"):
        case ((axes, _), (_, _)):
            return math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)
    return _size(eqn.invars[0])


def _variables(atoms: Iterable[Any]) -> Iterator[Any]:
    return (atom for atom in atoms if not hasattr(atom, "val"))  # which a literal has


def _size(var: Any) -> int:
    return math.prod(getattr(var.aval, "shape", ()))


def _dtype(var: Any) -> np.dtype:
    """The dtype of a variable; a key of two words is taken for one long word."""
    dtype = getattr(var.aval, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else np.dtype(np.uint64)


def _bytes(var: Any) -> float:
    return float(_size(var) * _dtype(var).itemsize)
