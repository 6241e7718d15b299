"""Errors in place of statuses, for those who ask for them."""

from typing import Any

import equinox as eqx
import jax
import jax.core

from .._group import Groups
from ._status import Status

FAILURES = (Status.DIVERGES, Status.NOT_CONVERGED, Status.NON_FINITE_INPUT)
MEND = {
    Status.DIVERGES: "has no equilibrium: {where}. Add weight decay, or leave out what the noise drives to infinity.",
    Status.NOT_CONVERGED: (
        "still has a flow: the residual is {residual}. The loss may not have this symmetry, or not commute with the "
        "others: look at check_symmetry."
    ),
    Status.NON_FINITE_INPUT: "cannot be measured: parameters, data, moments or the law are not finite.",
}


def or_raise(found: Any, symmetries: Groups) -> Any:
    """The equilibrium, or an error if there is none or it was not found.

    Args:
        found: an `Equilibrium`.
        symmetries: those that it was found for.

    Raises:
        RuntimeError: outside of transformations at once; inside by `equinox.error_if`, when the program runs.
    """
    name = " and ".join(group.name for group in symmetries)
    # A status that is traced is not known yet: the program itself has to raise.
    if not isinstance(found.status, jax.core.Tracer):
        status = Status(int(found.status))
        if status in FAILURES:
            text = MEND[status].format(where=_directions(found, symmetries), residual=f"{float(found.residual):.3g}")
            raise RuntimeError(f"the symmetry of {name} {text}")
        return found
    for status in FAILURES:
        text = MEND[status].format(where="in some direction the flow never ends", residual="above the root of rounding")
        found = eqx.error_if(found, found.status == int(status), f"the symmetry of {name} {text}")
    return found


def or_raise_slope(minimum: Any, slope: Any, tolerance: Any) -> Any:
    """The minimum, or an error if the slope there is too large for one.

    Raises:
        RuntimeError: as `or_raise`.
    """
    text = "the descent ended before a minimum: the relative slope there is {slope}. Take more steps."
    # Both comparisons are negated, so that a slope of NaN is an error too.
    if isinstance(slope, jax.core.Tracer):
        return eqx.error_if(minimum, ~(slope <= tolerance), text.format(slope="above the tolerance"))
    if not float(slope) <= tolerance:
        raise RuntimeError(text.format(slope=f"{float(slope):.3g} and the tolerance {tolerance:.3g}"))
    return minimum


def _directions(found: Any, symmetries: Groups) -> str:
    """Which directions go to 0 and to ∞, in words."""
    limits = [found.to_zero, found.to_infinity]
    if len(symmetries) == 1 and not isinstance(found.to_zero, tuple):
        limits = [(limit,) for limit in limits]
    words = []
    for to_zero, to_infinity, group in zip(*limits, symmetries, strict=True):
        for limit, end in ((to_zero, "0"), (to_infinity, "∞")):
            where = group.direction_of(limit)
            words += [f"e^λ goes to {end} {where} of {group.name}"] if where else []
    return "; ".join(words) or "in some direction the flow never ends"
