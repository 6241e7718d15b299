"""The loss with taps: the same program, plus zeros wherever a derivative is wanted.

At every use y = W h found by `find_uses`, a zero is added to y and h is put aside; at every parameter that escapes, a
zero is added to the parameter itself. The derivatives with respect to the zeros, for all samples, come from one
vmapped backward pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from .._parameters import split
from .._problem import Problem
from ._uses import Entered, Looped, Reindexed, Tag, Use, action_of, find_uses, tags_of


class TappedLoss(NamedTuple):
    """A per-sample loss prepared for the parameters of some legs.

    Attributes:
        jaxpr: the loss as a program of the parameter arrays followed by the leaves of one sample.
        tags: for each input of the program its tag, None where no tap is wanted or the parameter escapes.
        uses: the matrix products to tap.
        escaped: the parameters to tap at themselves, in ascending order.
        culprits: for each of them the primitive that is not understood.
    """

    jaxpr: core.ClosedJaxpr
    tags: tuple[Tag | None, ...]
    uses: tuple[Use, ...]
    escaped: tuple[int, ...]
    culprits: tuple[str, ...]

    def derivatives(self, arrays: Sequence[Array], sample: PyTree) -> tuple[list[tuple[Array, Array]], list[Array]]:
        """For one sample: (δ, h) of every use, and the gradient of every parameter that escapes."""
        zeros = [jnp.zeros(use.shape, use.dtype) for use in self.uses]
        slots = [jnp.zeros_like(arrays[leaf]) for leaf in self.escaped]

        def tapped(zeros: list[Array], slots: list[Array]) -> tuple[Array, list[Array]]:
            tapped_arrays = list(arrays)
            for leaf, slot in zip(self.escaped, slots, strict=True):
                tapped_arrays[leaf] = tapped_arrays[leaf] + slot
            inputs = [*tapped_arrays, *jax.tree_util.tree_leaves(sample)]
            inputs_put_aside: list[Array] = []
            (loss,) = _evaluate(self.jaxpr, inputs, self.tags, iter(zeros), inputs_put_aside)[0]
            return loss, inputs_put_aside

        (deltas, gradients), others = jax.grad(tapped, argnums=(0, 1), has_aux=True)(zeros, slots)
        return list(zip(deltas, others, strict=True)), gradients


def tap(problem: Problem, params: PyTree, leaves: Sequence[int]) -> TappedLoss:
    """Trace the per-sample loss once and decide how each of these parameters is tapped."""
    arrays, rebuild = split(params)
    sample = jax.tree_util.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), problem.data)

    def loss(arrays: list[Array], sample: PyTree) -> Array:
        return problem.sample_loss(rebuild(arrays), sample)

    jaxpr = jax.make_jaxpr(loss)(arrays, sample)
    tags: list[Tag | None] = [None] * len(jaxpr.jaxpr.invars)
    for leaf in leaves:
        tags[leaf] = Tag(leaf, tuple(axis if n != 1 else None for axis, n in enumerate(arrays[leaf].shape)))
    uses, escaped, outputs = find_uses(jaxpr.jaxpr, tags)
    escaped = {tag.leaf: "the output of the loss" for tag in outputs if tag} | escaped
    kept = tuple(tag if tag and tag.leaf not in escaped else None for tag in tags)
    kept_uses = tuple(use for use in uses if use.leaf not in escaped)
    order = tuple(sorted(escaped))
    return TappedLoss(jaxpr, kept, kept_uses, order, tuple(escaped[leaf] for leaf in order))


def _evaluate(
    closed: core.ClosedJaxpr,
    inputs: Sequence[Any],
    tags: Sequence[Tag | None],
    zeros: Iterator[Array],
    others: list[Array],
) -> tuple[list[Any], list[Tag | None]]:
    """Run a program, adding the next zero at each use and appending the other operand to `others`."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
    known = dict(zip(jaxpr.invars, tags, strict=True))

    def value(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else values[var]

    for eqn in jaxpr.eqns:
        operands = [value(var) for var in eqn.invars]
        seen = tags_of(eqn.invars, known)
        action = action_of(eqn, seen) if any(seen) else None
        match action:
            case Use(side=side):
                outs = [_bind(eqn, operands)[0] + next(zeros)]
                others.append(operands[1 - side])
            case Entered(inner, None):
                outs, out_tags = _evaluate(inner, operands, seen, zeros, others)
                known.update(zip(eqn.outvars, out_tags, strict=True))
            case Entered(inner, dict() as remat):
                outs, out_tags = _evaluate_remat(inner, remat, operands, seen, zeros, others)
                known.update(zip(eqn.outvars, out_tags, strict=True))
            case Looped():
                outs = _evaluate_loop(action, operands, seen, zeros, others)
            case _:
                outs = _bind(eqn, operands)
                if isinstance(action, Reindexed):
                    known[eqn.outvars[0]] = action.tag
        values.update(zip(eqn.outvars, outs, strict=True))
    return [value(var) for var in jaxpr.outvars], tags_of(jaxpr.outvars, known)


def _evaluate_remat(
    inner: core.ClosedJaxpr,
    options: dict[str, Any],
    operands: Sequence[Any],
    tags: Sequence[Tag | None],
    zeros: Iterator[Array],
    others: list[Array],
) -> tuple[list[Any], list[Tag | None]]:
    uses, _, out_tags = find_uses(inner.jaxpr, tags)
    mine = [next(zeros) for _ in uses]

    def body(operands: Sequence[Any], mine: list[Array]) -> tuple[list[Any], list[Array]]:
        inside: list[Array] = []
        outs, _ = _evaluate(inner, operands, tags, iter(mine), inside)
        return outs, inside

    outs, inside = jax.checkpoint(body, **options)(operands, mine)
    others.extend(inside)
    return outs, out_tags


def _evaluate_loop(
    loop: Looped, operands: Sequence[Any], tags: Sequence[Tag | None], zeros: Iterator[Array], others: list[Array]
) -> list[Any]:
    consts = operands[: loop.num_consts]
    carry = operands[loop.num_consts : loop.num_consts + loop.num_carry]
    xs = operands[loop.num_consts + loop.num_carry :]
    uses, _, _ = find_uses(loop.jaxpr.jaxpr, tags)
    mine = [next(zeros) for _ in uses]

    def body(
        carry: list[Any], slices: tuple[list[Any], list[Array]]
    ) -> tuple[list[Any], tuple[list[Any], list[Array]]]:
        xs, mine = slices
        inside: list[Array] = []
        outs, _ = _evaluate(loop.jaxpr, [*consts, *carry, *xs], tags, iter(mine), inside)
        return outs[: loop.num_carry], (outs[loop.num_carry :], inside)

    carry, (ys, inside) = jax.lax.scan(body, list(carry), (list(xs), mine), length=loop.length, **loop.options)
    others.extend(inside)
    return [*carry, *ys]


def _bind(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, as a program of its own: the calling convention of `bind` is private and changes."""
    inputs = {
        var: operand for var, operand in zip(eqn.invars, operands, strict=True) if not isinstance(var, core.Literal)
    }
    values = tuple(inputs.values())
    info = core.DebugInfo("equation", eqn.primitive.name, ("",) * len(values), ("",) * len(eqn.outvars))
    program = core.Jaxpr((), list(inputs), eqn.outvars, [eqn], effects=eqn.effects, debug_info=info)
    return jax.core.eval_jaxpr(program, (), *values)
