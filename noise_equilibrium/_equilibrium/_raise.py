"""Errors in place of statuses, for those who ask for them."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import numpy as np

from .._symmetry import Bound, BoundSymmetry, is_matrix
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


def or_raise(found: Any, symmetries: tuple[Bound, ...]) -> Any:
    """The equilibrium, or an error if there is none or it was not found.

    Args:
        found: an `Equilibrium`.
        symmetries: those that it was found for.

    Raises:
        RuntimeError: outside of transformations at once; inside by `equinox.error_if`, when the program runs.
    """
    name = " and ".join(map(_name, symmetries))
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
    if isinstance(slope, jax.core.Tracer):
        return eqx.error_if(minimum, ~(slope <= tolerance), text.format(slope="above the tolerance"))
    if not float(slope) <= tolerance:
        raise RuntimeError(text.format(slope=f"{float(slope):.3g} and the tolerance {tolerance:.3g}"))
    return minimum


def _name(symmetry: Bound) -> str:
    return ", ".join(leg.name for leg in symmetry.legs) if isinstance(symmetry, BoundSymmetry) else "a generator"


def _directions(found: Any, symmetries: tuple[Bound, ...]) -> str:
    """Which directions go to 0 and to ∞, in words."""
    limits = [found.to_zero, found.to_infinity]
    if len(symmetries) == 1 and not isinstance(found.to_zero, tuple):
        limits = [(limit,) for limit in limits]
    words = []
    for to_zero, to_infinity, symmetry in zip(*limits, symmetries, strict=True):
        for limit, end in ((to_zero, "0"), (to_infinity, "∞")):
            where = _direction(np.asarray(limit), symmetry)
            words += [f"e^λ goes to {end} {where} of {_name(symmetry)}"] if where else []
    return "; ".join(words) or "in some direction the flow never ends"


def _direction(limit: np.ndarray, symmetry: Bound) -> str:
    if not np.any(limit):
        return ""
    if not is_matrix(symmetry):
        places = np.argwhere(limit != 0)
        first = ", ".join(map(str, places[0])) if limit.ndim else ""
        more = f" and {len(places) - 1} others" if len(places) > 1 else ""
        return f"at [{first}]{more}" if limit.ndim else "as a whole"
    values, vectors = np.linalg.eigh(np.asarray(limit, np.float64))
    block = np.unravel_index(np.argmax(values[..., -1]), values.shape[:-1]) if limit.ndim > 2 else ()
    vector = vectors[block][:, -1]
    rank = round(float(np.sum(values)))
    main = ", ".join(f"{value:.2g} at {place}" for place, value in sorted(_largest(vector), key=lambda pair: pair[0]))
    inside = f" of block {int(block[0])}" if block else ""
    return f"in {rank} direction{'s' * (rank > 1)}, one of them{inside} with entries {main}"


def _largest(vector: np.ndarray) -> list[tuple[int, float]]:
    """The three largest entries of a direction, with their places."""
    places = np.argsort(-np.abs(vector))[:3]
    return [(int(place), float(vector[place])) for place in places]
