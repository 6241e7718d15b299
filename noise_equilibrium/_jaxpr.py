"""Programs as JAX traces them: what all that read one here share.

Default deny begins here. A reader of equations knows its primitives by their names and by those of their parameters: a
version of JAX may give a primitive one more parameter, which changes the result, and whoever does not know its name
cannot know the result. So every reader declares which parameters it knows, and at which values; to anything else it
does what it does to a primitive that it does not know.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.core
from jax.extend import core

# The parameters that an equation may have, and for each whether a value of it is understood.
Known = Mapping[str, Callable[[Any], bool]]


def anything(value: Any) -> bool:
    """A value that matters to no reader, or that the reader checks itself."""
    return True


def nothing(value: Any) -> bool:
    """The value of a parameter that is not used."""
    return value is None


def knows(known: Known, eqn: core.JaxprEqn) -> bool:
    """Whether an equation has known parameters alone, at values that are understood."""
    return all(name in known and known[name](value) for name, value in eqn.params.items())


def any_of(*names: str) -> Known:
    """Parameters that are understood at every value."""
    return dict.fromkeys(names, anything)


# Equations that run a program of their own once, on all their inputs.
CALLS: dict[str, Known] = {
    "jit": {
        **any_of("jaxpr", "name", "inline", "keep_unused", "donated_invars", "ctx_mesh"),
        **any_of("in_shardings", "out_shardings", "in_layouts", "out_layouts"),
        "compiler_options_kvs": lambda value: not value,
    },
    "closed_call": any_of("call_jaxpr"),
}
# The same, and once more on the way back; with one answer to `prevent_cse` for all inputs.
REMATS: dict[str, Known] = {
    "remat2": {**any_of("jaxpr", "differentiated", "policy"), "prevent_cse": lambda value: isinstance(value, bool)}
}
# The same, with a derivative of its own.
CUSTOM_DERIVATIVES: dict[str, Known] = {
    "custom_jvp_call": any_of("call_jaxpr", "jvp_jaxpr_fun", "num_consts", "symbolic_zeros"),
    "custom_vjp_call": any_of("call_jaxpr", "fwd_jaxpr_thunk", "bwd", "num_consts", "out_trees", "symbolic_zeros"),
}
# A number of times. Where constants, carry and sequences begin is spelled by numbers in JAX 0.10, by trees after that.
SCANS: dict[str, Known] = {
    "scan": any_of("jaxpr", "length", "reverse", "unroll", "num_consts", "num_carry", "ft_in", "ft_out")
}

# Elementwise operations that cost a loop more than the memory it passes over.
COSTLY = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic", "pow", "rem",
    "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh",
}  # fmt: skip


def program_inside(eqn: core.JaxprEqn, kinds: Mapping[str, Known]) -> core.ClosedJaxpr | None:
    """The one program that an equation of some kinds runs on its inputs; None where anything about it is not known."""
    known = kinds.get(eqn.primitive.name)
    if known is None or not knows(known, eqn):
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if isinstance(inner, core.Jaxpr) and not hasattr(inner, "consts"):  # open, in JAX 0.10; later ones are all closed
        inner = None if inner.constvars else core.ClosedJaxpr(inner, ())
    return inner if isinstance(inner, core.ClosedJaxpr) and _fits(eqn, inner.jaxpr) else None


def _fits(eqn: core.JaxprEqn, inner: core.Jaxpr) -> bool:
    return len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)


def programs_inside(eqn: core.JaxprEqn) -> Iterable[core.Jaxpr]:
    """All programs among the parameters of an equation, whatever it does with them."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


class ScanLayout(NamedTuple):
    """How the inputs of a scan are divided: constants, then the carry, then sequences; and how often it turns."""

    num_consts: int
    num_carry: int
    length: int


def scan_layout(eqn: core.JaxprEqn, body: core.Jaxpr) -> ScanLayout | None:
    """The layout of a scan with this body; None if that is in doubt.

    It is spelled differently in every version of JAX; the shapes tell it: only sequences have the axis of the loop, and
    the carry is what comes out without it.
    """
    length = eqn.params.get("length")
    if not isinstance(length, int) or not _fits(eqn, body):
        return None
    into = [_gains(outer, inner, length) for outer, inner in zip(eqn.invars, body.invars, strict=True)]
    out = [_gains(outer, inner, length) for outer, inner in zip(eqn.outvars, body.outvars, strict=True)]
    # Constants and carry stand before the sequences, going in and coming out.
    if None in into + out or into != sorted(into, key=bool) or out != sorted(out, key=bool):
        return None
    num_carry = out.count(False)
    num_consts = into.count(False) - num_carry
    spelled = eqn.params.get("num_consts", num_consts), eqn.params.get("num_carry", num_carry)
    if num_consts < 0 or spelled != (num_consts, num_carry):
        return None
    return ScanLayout(num_consts, num_carry, length)


def _gains(outer: Any, inner: Any, length: int) -> bool | None:
    """Whether a variable has the axis of a loop outside its body; None if the shapes fit neither way."""
    if outer.aval.shape == inner.aval.shape:
        return False
    return True if outer.aval.shape == (length, *inner.aval.shape) else None


def evaluate_equation(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, as a program of its own: the calling convention of `bind` is private and changes."""
    inputs = {
        var: operand for var, operand in zip(eqn.invars, operands, strict=True) if not isinstance(var, core.Literal)
    }
    values = tuple(inputs.values())
    info = core.DebugInfo("equation", eqn.primitive.name, ("",) * len(values), ("",) * len(eqn.outvars))
    program = core.Jaxpr((), list(inputs), eqn.outvars, [eqn], effects=eqn.effects, debug_info=info)
    return jax.core.eval_jaxpr(program, (), *values)
