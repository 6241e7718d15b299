"""Double precision inside of a program of single precision.

A direction of a matrix charge that is weak by a factor s appears in a Gram as s², next to a rounding error of ε: in
single precision it is gone at s = 3e-4, which random factors of a few dozen rows have. The arithmetic of d × d matrices
costs nothing beside the gradients it comes from, so it is done in double precision whatever the parameters are.

JAX knows one switch for double precision, and what is traced under it stays double; but derivatives and batches of such
a piece are taken later, outside of the switch, and come out wrong. So the piece is one operation of its own: how it is
differentiated, transposed and batched is traced under the switch again. It works to any order and on any device that
has doubles, and where double precision is on already there is no such operation, only the function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo
from jaxtyping import Array, Float


class Wide(eqx.Module):
    """Numbers in double precision in a program of single precision: the sum of two arrays, 48 bits.

    Attributes:
        high: the numbers, rounded.
        low: what was rounded away.
    """

    high: Float[Array, "..."]
    low: Float[Array, "..."]


def single(value: Any) -> Any:
    """The pytree with every `Wide` rounded."""
    return jax.tree_util.tree_map(lambda x: x.high if _is_wide(x) else x, value, is_leaf=_is_wide)


def precision_kept(value: Any) -> Any:
    """The dtype that the numbers of a pytree are as precise as: double for `Wide` ones."""
    leaves = jax.tree_util.tree_leaves(value, is_leaf=_is_wide)
    return max(
        (jnp.dtype("float64") if _is_wide(leaf) else jnp.result_type(leaf) for leaf in leaves),
        key=lambda dtype: dtype.itemsize,
    )


def add(first: Any, second: Any) -> Any:
    """The sum of two like pytrees, in double precision where there is a `Wide`."""

    def both(a: Any, b: Any) -> Any:
        return in_double(jnp.add, a, b, keep=True) if _is_wide(a) else a + b

    return jax.tree_util.tree_map(both, first, second, is_leaf=_is_wide)


def in_double(function: Callable[..., Any], *args: Any, keep: bool = False) -> Any:
    """`function(*args)` with all floating-point numbers in double precision.

    Args:
        function: of pytrees of arrays; it may close over constants, but over nothing that is traced.
        args: its arguments; a `Wide` among them arrives as one array.
        keep: whether results stay double.

    Returns:
        The results. If an array among the arguments is double, so are they; single numbers do not count. Otherwise they
        are rounded to single precision, or kept as `Wide`.
    """
    leaves, tree = jax.tree_util.tree_flatten(args)
    leaves = [_strong(leaf) for leaf in leaves]
    deciding = [leaf for leaf in leaves if leaf.ndim] or leaves
    is_double = any(leaf.dtype == jnp.float64 for leaf in deciding)
    narrow = _halves if keep else lambda value: _to(jnp.float32, value)

    def widened(*leaves: Array) -> Any:
        arguments = jax.tree_util.tree_unflatten(tree, [_to(jnp.float64, leaf) for leaf in leaves])
        joined = jax.tree_util.tree_map(lambda x: x.high + x.low if _is_wide(x) else x, arguments, is_leaf=_is_wide)
        results = function(*joined)
        return results if is_double else jax.tree_util.tree_map(narrow, results)

    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        return widened(*leaves)
    trees = []

    def flat(*leaves: Array) -> list[Array]:
        outputs, tree = jax.tree_util.tree_flatten(widened(*leaves))
        trees.append(tree)
        # The switch makes integers 64 bits wide too; the program outside knows only 32.
        return [_to(jnp.int32, x) for x in outputs]

    outputs = _bind(flat, leaves)
    return jax.tree_util.tree_unflatten(trees[0], outputs)


def _halves(value: Array) -> Any:
    if not _is_floating(value):
        return value
    high = value.astype(jnp.float32)
    # The difference is exact in double precision: of its 53 bits the rounded number has taken 24.
    return Wide(high, (value - high.astype(jnp.float64)).astype(jnp.float32))


def _to(dtype: Any, value: Array) -> Array:
    """Floating-point or integer numbers in another dtype of their kind; others as they are."""
    value = jnp.asarray(value)
    kind = jnp.floating if jnp.issubdtype(dtype, jnp.floating) else jnp.integer
    return value.astype(dtype) if jnp.issubdtype(value.dtype, kind) else value


def _strong(value: Any) -> Array:
    """An array whose type does not bend to that of others."""
    value = jnp.asarray(value)
    return value.astype(value.dtype)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _is_wide(value: Any) -> bool:
    return isinstance(value, Wide)


# The operation. Its one parameter is the program that it stands for, of inputs and outputs in single precision.
_in_double = core.Primitive("in_double")
_in_double.multiple_results = True


def _bind(function: Callable[..., Sequence[Array]], operands: Sequence[Any]) -> list[Any]:
    """Trace a function under the switch, and apply the operation that stands for it."""
    with jax.enable_x64(True):
        program = jax.make_jaxpr(function)(*operands)
    return _in_double.bind(*operands, program=program)


def _evaluate(*operands: Array, program: core.ClosedJaxpr) -> list[Array]:
    """The results outside of any `jit`, where operands are known: the program is compiled and run."""
    with jax.enable_x64(True):
        return jax.jit(core.jaxpr_as_fun(program))(*operands)


def _results(*_: Any, program: core.ClosedJaxpr) -> list[Any]:
    """The shapes and dtypes of the results."""
    return program.out_avals


def _lowered(context: mlir.LoweringRuleContext, *operands: Any, program: core.ClosedJaxpr) -> Any:
    """The operation in a compiled program: the program that it stands for, in its place."""
    with jax.enable_x64(True):
        # The index of the platform, where a program is made for several, has the width of an integer outside.
        wide = ir.RankedTensorType.get((), ir.IntegerType.get_signless(64))
        context = context.replace(dim_var_values=[hlo.convert(wide, value) for value in context.dim_var_values])
        return mlir.lower_fun(core.jaxpr_as_fun(program), multiple_results=True)(context, *operands)


def _batched(operands: Sequence[Any], axes: Sequence[int | None], *, program: core.ClosedJaxpr) -> Any:
    """A batch is another operation, of the batched program."""
    results = _bind(jax.vmap(core.jaxpr_as_fun(program), in_axes=tuple(axes)), operands)
    return results, [0] * len(results)


def _derivative(primals: Sequence[Any], tangents: Sequence[Any], *, program: core.ClosedJaxpr) -> Any:
    """The derivative is an operation of its own, so that it may stay behind when the value is known before."""
    # A symbolic zero is left out: as an operand it would have to be filled with zeros, and be differentiated.
    moving = [place for place, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def tangents_of(*operands: Array) -> list[Array]:
        primals, given = list(operands[: len(tangents)]), operands[len(tangents) :]

        def along(*values: Array) -> list[Array]:
            for place, value in zip(moving, values, strict=True):
                primals[place] = value
            # Whole numbers, such as ranks, have no tangent.
            return [x for x in core.jaxpr_as_fun(program)(*primals) if _is_floating(x)]

        return jax.jvp(along, tuple(primals[place] for place in moving), tuple(given))[1]

    values = _in_double.bind(*primals, program=program)
    changes = iter(_bind(tangents_of, [*primals, *(tangents[place] for place in moving)]))
    return values, [
        next(changes) if _is_floating(value) else ad.Zero(jax.typeof(value).to_tangent_aval()) for value in values
    ]


def _transposed(cotangents: Sequence[Any], *operands: Any, program: core.ClosedJaxpr) -> list[Any]:
    """The transpose is another operation too, from the cotangents and what is known of the operands."""
    # What is transposed is the operation of `_derivative`, which is linear in those of its operands that are unknown.
    linear = [place for place, operand in enumerate(operands) if ad.is_undefined_primal(operand)]
    known = [operand for operand in operands if not ad.is_undefined_primal(operand)]
    types = [jax.ShapeDtypeStruct(operands[place].aval.shape, operands[place].aval.dtype) for place in linear]

    def transposed(*values: Array) -> Sequence[Array]:
        fixed, given = iter(values[: len(known)]), values[len(known) :]
        inputs = [None if place in linear else next(fixed) for place in range(len(operands))]

        def along(*values: Array) -> list[Array]:
            for place, value in zip(linear, values, strict=True):
                inputs[place] = value
            return core.jaxpr_as_fun(program)(*inputs)

        return jax.linear_transpose(along, *types)(list(given))

    # Cotangents may be symbolic zeros, and the operands of an operation must be arrays.
    results = iter(_bind(transposed, [*known, *map(ad.instantiate_zeros, cotangents)]))
    return [next(results) if place in linear else None for place in range(len(operands))]


_in_double.def_impl(_evaluate)
_in_double.def_abstract_eval(_results)
mlir.register_lowering(_in_double, _lowered)
batching.primitive_batchers[_in_double] = _batched
ad.primitive_jvps[_in_double] = _derivative
ad.primitive_transposes[_in_double] = _transposed
