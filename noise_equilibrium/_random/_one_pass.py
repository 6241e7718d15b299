"""A function that draws random numbers, as a program whose bits are made in one pass."""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.core
from jax.extend import core

from .._keys import IMPLEMENTATION
from .._programs import CALLS, evaluate_equation
from . import _threefry as threefry
from ._flat import Flat, elementwise, flatten, once, whole

R = TypeVar("R")


def in_one_pass(function: Callable[..., R]) -> Callable[..., R]:
    """The same function of arrays and keys, all positional, faster on the CPU; for use inside of a `jit`.

    The function is traced. Where its program, or a function that it calls, draws bits from threefry keys, they come
    from the generator written out, and what is elementwise after that is done on long rows. What is inside of its loops
    and branches stays as it is. The bits are the same; what is made of them is the same to rounding, as always between
    two compiled programs.
    """

    @functools.wraps(function)
    def call(*args: Any) -> R:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        partitionable: bool = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
        if program.effects or not partitionable:  # if it is not, the bits of a key go to other places
            return function(*args)
        results = jax.lax.platform_dependent(
            *jax.tree_util.tree_leaves(args),
            cpu=lambda *inputs: [whole(result) for result in _evaluate(program, inputs)],
            default=lambda *inputs: jax.core.eval_jaxpr(program.jaxpr, program.consts, *inputs),
        )
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shape), results)

    return call


def _evaluate(program: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    """Run a program; some of the results may be rows."""
    jaxpr = program.jaxpr
    variables = [*(var for eqn in jaxpr.eqns for var in eqn.invars), *jaxpr.outvars]
    uses = collections.Counter(var for var in variables if not isinstance(var, core.Literal))
    held: dict[Any, Any] = {}

    def hold(variables: Sequence[Any], values: Sequence[Any]) -> None:
        for var, value in zip(variables, values, strict=True):
            held[var] = value.settled() if isinstance(value, Flat) and uses[var] > 1 else value

    hold(jaxpr.constvars, program.consts)
    hold(jaxpr.invars, inputs)
    for eqn in jaxpr.eqns:
        operands = [var.val if isinstance(var, core.Literal) else held[var] for var in eqn.invars]
        hold(eqn.outvars, _evaluate_equation(eqn, operands))
    return [var.val if isinstance(var, core.Literal) else held[var] for var in jaxpr.outvars]


def _evaluate_equation(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    name, inner = eqn.primitive.name, eqn.params.get("jaxpr")
    if name in CALLS and isinstance(inner, core.ClosedJaxpr):
        return _evaluate(inner, operands)
    if (rows := elementwise(eqn, operands)) is not None:
        return rows
    operands = [whole(operand) for operand in operands]
    if name in _RULES and _is_threefry(operands[0]) and math.prod(eqn.params.get("shape", ())) < 2**32:
        return [_RULES[name](*operands, **eqn.params)]
    return evaluate_equation(eqn, operands)


def _is_threefry(keys: Any) -> bool:
    return str(jax.random.key_impl(keys)) == IMPLEMENTATION


def _bits(keys: Any, *, bit_width: int, shape: tuple[int, ...]) -> Flat:
    return flatten(once(lambda: threefry.random_bits(keys, bit_width, shape)))


_RULES: dict[str, Callable[..., Any]] = {
    "random_bits": _bits,
    "random_split": threefry.split,
    "random_fold_in": threefry.fold_in,
}
