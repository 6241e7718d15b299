"""Programs as JAX traces them: what all that read one here share."""

from collections.abc import Sequence
from typing import Any

import jax.core
from jax.extend import core

CALLS = {"jit", "pjit", "closed_call", "core_call"}
REMATS = {"remat", "remat2", "checkpoint"}

# Elementwise operations that cost a loop more than the memory it passes over.
COSTLY = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic", "pow", "rem",
    "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh",
}  # fmt: skip


def evaluate_equation(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, as a program of its own: the calling convention of `bind` is private and changes."""
    inputs = {
        var: operand for var, operand in zip(eqn.invars, operands, strict=True) if not isinstance(var, core.Literal)
    }
    values = tuple(inputs.values())
    info = core.DebugInfo("equation", eqn.primitive.name, ("",) * len(values), ("",) * len(eqn.outvars))
    program = core.Jaxpr((), list(inputs), eqn.outvars, [eqn], effects=eqn.effects, debug_info=info)
    return jax.core.eval_jaxpr(program, (), *values)
