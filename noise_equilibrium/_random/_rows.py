"""Arrays kept as one long row, while all that is done to them is elementwise.

A loop over the last axis of an array is compiled into vector instructions, and samples are often short: of the ten
entries of an axis, eight fill a vector and two are left over. So elementwise work is done before the row gets a shape.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from .._jaxpr import COSTLY, Known, any_of, evaluate_equation, knows, nothing

ELEMENTWISE = COSTLY | {
    "abs", "add", "and", "bitcast_convert_type", "ceil", "clamp", "convert_element_type", "copy", "eq", "floor", "ge",
    "gt", "is_finite", "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "round", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "square", "sub", "xor",
}  # fmt: skip
# Their parameters, none of which refers to an axis: an equation with one that could is left in its shape.
PARAMETERS: Known = {
    **any_of("accuracy", "new_dtype", "out_dtype", "rounding_method", "weak_type", "y"),
    "sharding": nothing,
}


class Flat(NamedTuple):
    """An array as one row.

    Attributes:
        row: (size,) its entries.
        shape: what it is to become.
        costly: whether something costly was done to it since it was last written to memory.
    """

    row: Array
    shape: tuple[int, ...]
    costly: bool

    def settled(self) -> "Flat":
        """The same, written to memory if that saves work."""
        return Flat(once(lambda: self.row), self.shape, costly=False) if self.costly else self


def once(compute: Callable[[], Array]) -> Array:
    """Compute an array and write it, where the compiler might compute it anew at each of its uses.

    XLA takes most arithmetic for cheap enough to be repeated. It does not look into a branch, and it does not know that
    what comes from behind a barrier is true.
    """
    form = jax.eval_shape(compute)
    always = jax.lax.optimization_barrier(jnp.asarray(True))
    return jax.lax.cond(always, compute, lambda: jnp.zeros(form.shape, form.dtype))


def flatten(array: Array) -> Flat:
    """An array that stands in memory, as a row."""
    return Flat(array.reshape(-1), array.shape, costly=False)


def whole(value: Any) -> Any:
    """A row in its shape, anything else as it is."""
    return value.settled().row.reshape(value.shape) if isinstance(value, Flat) else value


def elementwise(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Flat] | None:
    """Evaluate an equation on rows; None if it is not elementwise, or its operands are no rows of one shape."""
    name = eqn.primitive.name
    rows = [operand for operand in operands if isinstance(operand, Flat)]
    if name not in ELEMENTWISE or not rows or len(eqn.outvars) != 1 or not knows(PARAMETERS, eqn):
        return None
    shape = rows[0].shape
    if getattr(eqn.outvars[0].aval, "shape", None) != shape:
        return None
    arguments = []
    for operand in operands:
        if isinstance(operand, Flat):
            if operand.shape != shape:
                return None
            arguments.append(operand.row)
        elif math.prod(jnp.shape(operand)) != 1:
            return None
        else:
            arguments.append(jnp.reshape(operand, (1,) if jnp.ndim(operand) else ()))
    (out,) = evaluate_equation(eqn, arguments)
    return [Flat(out, shape, name in COSTLY or any(row.costly for row in rows))]
