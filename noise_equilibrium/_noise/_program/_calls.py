"""Equations that hold programs of their own: calls, rematerialised calls, scans."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from ._actions import Entered, Fact, Looped, aval, read


def entered(eqn: core.JaxprEqn) -> Entered | None:
    inner = read(eqn, "jaxpr", core.ClosedJaxpr) or read(eqn, "call_jaxpr", core.ClosedJaxpr)
    return Entered(inner, None) if inner is not None and _fits(eqn, inner) else None


def rematerialised(eqn: core.JaxprEqn) -> Entered | None:
    inner = read(eqn, "jaxpr", (core.Jaxpr, core.ClosedJaxpr))
    if inner is not None and not hasattr(inner, "consts"):  # open or closed, depending on the version of JAX
        inner = None if inner.constvars else core.ClosedJaxpr(inner, ())
    if inner is None or not _fits(eqn, inner):
        return None
    prevent_cse = eqn.params.get("prevent_cse", True)
    return Entered(inner, {"prevent_cse": prevent_cse, "policy": eqn.params.get("policy")})


def looped(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Looped | None:
    inner, length = read(eqn, "jaxpr", core.ClosedJaxpr), read(eqn, "length", int)
    if inner is None or length is None or not _fits(eqn, inner):
        return None
    # Where constants, carry and sequences begin is spelled differently in every version of JAX; the shapes tell it:
    # only sequences have the axis of the loop, and the carry is what comes out without it.
    into = [_gains(outer, body, length) for outer, body in zip(eqn.invars, inner.jaxpr.invars, strict=True)]
    out = [_gains(outer, body, length) for outer, body in zip(eqn.outvars, inner.jaxpr.outvars, strict=True)]
    if None in into + out or into != sorted(into, key=bool) or out != sorted(out, key=bool):
        return None
    num_carry = out.count(False)
    num_consts = into.count(False) - num_carry
    if num_consts < 0 or any(fact.views for fact in facts[num_consts : num_consts + num_carry]):
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


def _gains(outer: Any, body: Any, length: int) -> bool | None:
    """Whether a variable has the axis of a loop outside its body; None if the shapes fit neither way."""
    if outer.aval.shape == body.aval.shape:
        return False
    return True if outer.aval.shape == (length, *body.aval.shape) else None


def _fits(eqn: core.JaxprEqn, inner: core.ClosedJaxpr) -> bool:
    return len(inner.jaxpr.invars) == len(eqn.invars) and len(inner.jaxpr.outvars) == len(eqn.outvars)
