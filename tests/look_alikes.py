"""Primitives as a later version of JAX might have them: under the name that is known, with other parameters.

A look-alike computes something else than the equation that it stands for, entry by entry along the last axis, so that
whoever reads it as what it was, or gives it an operand in another shape, gets wrong numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from noise_equilibrium._jaxpr import evaluate_equation


def changed(value: jax.Array) -> jax.Array:
    """What a look-alike makes of a result: 2, 3, … times its entries; of whole numbers that much more."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(changed(jax.random.key_data(value)), impl=jax.random.key_impl(value))
    weights = 2 + jnp.arange(value.shape[-1] if value.ndim else 1).reshape(value.shape[-1:])
    weights = weights.astype(value.dtype)
    return value * weights if jnp.issubdtype(value.dtype, jnp.inexact) else value + weights


def look_alike(eqn: core.JaxprEqn, name: str) -> core.Primitive:
    """A primitive of this name that takes any parameters; it knows how to be batched, derived and compiled."""
    primitive = core.Primitive(name)
    primitive.multiple_results = True

    def run(*operands: Any, **_: Any) -> list[Any]:
        return [changed(result) for result in evaluate_equation(eqn, operands)]

    def jvp(primals: Any, tangents: Any, **_: Any) -> tuple[Any, Any]:
        moved = [place for place, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

        def along(*values: Any) -> list[Any]:
            operands = list(primals)
            for place, value in zip(moved, values, strict=True):
                operands[place] = value
            return run(*operands)

        return jax.jvp(along, [primals[place] for place in moved], [tangents[place] for place in moved])

    def batch(operands: Any, axes: Any, **_: Any) -> tuple[Any, Any]:
        results = jax.vmap(run, in_axes=axes)(*operands)
        return results, [0] * len(results)

    def shapes(*operands: Any, **_: Any) -> list[Any]:
        results = jax.eval_shape(run, *(jax.ShapeDtypeStruct(one.shape, one.dtype) for one in operands))
        return [jax.core.ShapedArray(result.shape, result.dtype) for result in results]

    primitive.def_impl(run)
    primitive.def_abstract_eval(shapes)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    lower = mlir.lower_fun(run, multiple_results=True)
    mlir.register_lowering(primitive, lower, cacheable=False)  # JAX itself passes a parameter "inline" to cached ones
    return primitive


def with_look_alikes(
    function: Callable[..., Any],
    example: tuple[Any, ...],
    known: str,
    parameters: Callable[[dict[str, Any]], dict[str, Any]],
    name: str | None = None,
) -> Callable[..., Any]:
    """A function in whose program a look-alike stands for every equation of one primitive.

    Args:
        function: of pytrees of arrays, with an array for a result.
        example: its arguments.
        known: the name of the primitive; equations inside of others are not looked at.
        parameters: those of the look-alike, from those of the equation.
        name: of the look-alike, if it is another.
    """
    closed = jax.make_jaxpr(function)(*example)
    program = closed.jaxpr
    places = [place for place, eqn in enumerate(program.eqns) if eqn.primitive.name == known]
    assert places, f"no {known} in {program}"
    others = {place: look_alike(program.eqns[place], name or known) for place in places}

    def rewritten(*arguments: Any) -> Any:
        values = dict(zip(program.constvars, closed.consts, strict=True))
        values |= dict(zip(program.invars, jax.tree.leaves(arguments), strict=True))
        for place, eqn in enumerate(program.eqns):
            operands = [var.val if isinstance(var, core.Literal) else values[var] for var in eqn.invars]
            if place in others:
                results = others[place].bind(*operands, **parameters(dict(eqn.params)))
            else:
                results = evaluate_equation(eqn, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        (result,) = (values[var] for var in program.outvars)
        return result

    return rewritten
