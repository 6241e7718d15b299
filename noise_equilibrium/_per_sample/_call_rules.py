"""Equations that hold programs of their own: calls, rematerialised calls, scans."""

from collections.abc import Sequence

from jax.extend import core

from .._jaxpr import CALLS, REMATS, SCANS, program_inside, scan_layout
from ._actions import Entered, Fact, Looped, aval


def entered(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Entered | None:
    """A call y = f(W, x): the body is entered, and its uses are those of the equation."""
    inner = program_inside(eqn, CALLS)
    return None if inner is None else Entered(inner, None)


def rematerialised(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Entered | None:
    """The same where f is computed anew on the way back: its taps and other factors pass its border as values."""
    inner = program_inside(eqn, REMATS)
    if inner is None:
        return None
    return Entered(inner, {"prevent_cse": eqn.params.get("prevent_cse", True), "policy": eqn.params.get("policy")})


def looped(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Looped | None:
    """A loop c_{t+1}, y_t = f(W, c_t, V_t): a use of W in the body, with the iterations t as further positions.

    A parameter among the sequences is one per iteration, V_t = W[t]: its first axis must be that of the loop, in full,
    and becomes an axis of both factors. A parameter in the carry is denied: it changes from turn to turn.
    """
    inner = program_inside(eqn, SCANS)
    layout = None if inner is None else scan_layout(eqn, inner.jaxpr)
    if inner is None or layout is None:
        return None
    num_consts, num_carry, length = layout
    if any(fact.views for fact in facts[num_consts : num_consts + num_carry]):
        return None
    carried = [aval(var).shape for var in inner.jaxpr.invars[num_consts : num_consts + num_carry]]
    if carried != [aval(var).shape for var in inner.jaxpr.outvars[:num_carry]]:
        return None
    for fact in facts[num_consts + num_carry :]:
        for view in fact.views:
            if view.axes[0] and (view.whole(0) is None or view.shape[view.axes[0][0].label] != length):
                return None
    options = {name: eqn.params[name] for name in ("reverse", "unroll") if name in eqn.params}
    return Looped(inner, num_consts, num_carry, length, options)
