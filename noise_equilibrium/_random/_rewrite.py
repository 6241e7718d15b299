"""A function that draws random numbers, as a program whose bits are made in one pass.

A generator registered by `jax.extend.random.define_prng_impl` would need no rewriting: all of `jax.random` would use
it, in loops and branches too. With the same hash it falls short twice. A generator makes bits alone, and what is made
of them stays in the short rows of a sample: of 10 samples of 10 normal numbers, drawn by 256 runs at once, a batch
took 3.5 and 4.7 times as long, and a step of SGD on them 1.6 times; from samples of 64 numbers on the two were about
equal (two CPU cores, JAX 0.10.2). And its keys are of a type of their own: `jax.random.poisson` refuses them, and so
does any expression in which they meet a key of the user.
"""

import collections
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.core
from jax.extend import core

from .._jaxpr import CALLS, Known, evaluate_equation, knows, program_inside
from .._keys import IMPLEMENTATION
from . import _threefry as threefry
from ._rows import Flat, elementwise, flatten, once, whole

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
        # Chosen when the program is lowered, which may be for another device than the default one.
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
            # What is used once is computed where it is used; what is used twice would be computed twice there.
            held[var] = value.settled() if isinstance(value, Flat) and uses[var] > 1 else value

    hold(jaxpr.constvars, program.consts)
    hold(jaxpr.invars, inputs)
    for eqn in jaxpr.eqns:
        operands = [var.val if isinstance(var, core.Literal) else held[var] for var in eqn.invars]
        hold(eqn.outvars, _evaluate_equation(eqn, operands))
    return [var.val if isinstance(var, core.Literal) else held[var] for var in jaxpr.outvars]


def _evaluate_equation(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    inner = program_inside(eqn, CALLS)
    if inner is not None:
        return _evaluate(inner, operands)
    if (rows := elementwise(eqn, operands)) is not None:
        return rows
    operands = [whole(operand) for operand in operands]
    draw = _DRAWS.get(eqn.primitive.name)
    if draw is not None and draw.fits(eqn) and _is_threefry(operands[0]):
        return [draw.function(*operands, **eqn.params)]
    return evaluate_equation(eqn, operands)


def _is_threefry(keys: Any) -> bool:
    return str(jax.random.key_impl(keys)) == IMPLEMENTATION


class _Draw(NamedTuple):
    """What stands for a primitive that draws.

    Attributes:
        function: of the operands, and of the parameters of the equation by their names.
        operands: how many there are.
        known: exactly these parameters, at values that are understood; an equation with others is left to JAX.
    """

    function: Callable[..., Any]
    operands: int
    known: Known

    def fits(self, eqn: core.JaxprEqn) -> bool:
        """Whether the function does what this equation does."""
        alike = len(eqn.invars) == self.operands and eqn.params.keys() == self.known.keys()
        return alike and knows(self.known, eqn)


def _bits(keys: Any, *, bit_width: int, shape: tuple[int, ...]) -> Flat:
    return flatten(once(lambda: threefry.random_bits(keys, bit_width, shape)))


def _is_small(shape: Any) -> bool:
    """A shape whose places one word can count."""
    return math.prod(shape) < 2**32


_DRAWS = {
    "random_bits": _Draw(_bits, 1, {"bit_width": threefry.UINT.__contains__, "shape": _is_small}),
    "random_split": _Draw(threefry.split, 1, {"shape": _is_small}),
    "random_fold_in": _Draw(threefry.fold_in, 2, {}),
}
