"""The loss with taps: the same program, plus zeros wherever a derivative is wanted.

At every use of a parameter found by `find_uses` a zero is added to the product and the other factor is put aside; at
every parameter that escapes, a zero is added to the parameter itself. The derivatives with respect to the zeros, for
all samples, come from one vmapped backward pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from .._jaxpr import evaluate_equation
from .._parameters import split, without_numbers
from .._problem import Problem
from ._actions import Entered, Fact, Looped, Use, Used, Viewed
from ._contraction_rules import patches_of, row_look_up
from ._linear_view import pull, view_of
from ._reading import facts_behind, facts_of, find_uses, leaves_in
from ._rules import action_of

# What the maps of the views of one value need at run time: for each view, for each of its maps.
Values = tuple[tuple[Array | None, ...], ...]


class TappedLoss(NamedTuple):
    """A per-sample loss prepared for the parameters of some legs.

    Attributes:
        jaxpr: the loss as a program of the parameter arrays followed by the leaves of one sample.
        facts: what is known of each input of the program.
        uses: where parameters meet their input.
        escaped: the parameters to tap at themselves, in ascending order.
        culprits: for each of them the primitive that is not understood.
        varies: whether the loss depends on the sample at all.
    """

    jaxpr: core.ClosedJaxpr
    facts: tuple[Fact, ...]
    uses: tuple[Use, ...]
    escaped: tuple[int, ...]
    culprits: tuple[str, ...]
    varies: bool

    def derivatives(self, arrays: Sequence[Array], sample: PyTree) -> tuple[list[tuple[Array, Array]], list[Array]]:
        """For one sample: (δ, h) of every use, and the gradient of every parameter that escapes."""
        zeros = [jnp.zeros(use.shape, use.dtype) for use in self.uses]
        slots = [jnp.zeros_like(arrays[leaf]) for leaf in self.escaped]

        def tapped(zeros: list[Array], slots: list[Array]) -> tuple[Array, list[Array]]:
            tapped_arrays = list(arrays)
            for leaf, slot in zip(self.escaped, slots, strict=True):
                tapped_arrays[leaf] = tapped_arrays[leaf] + slot
            inputs = [*tapped_arrays, *jax.tree_util.tree_leaves(sample)]
            put_aside: list[Array] = []
            plain: list[Values] = [tuple(() for _ in fact.views) for fact in self.facts]
            (loss,) = _evaluate(self.jaxpr, inputs, self.facts, plain, iter(zeros), put_aside)[0]
            return loss, put_aside

        (deltas, gradients), others = jax.grad(tapped, argnums=(0, 1), has_aux=True)(zeros, slots)
        return list(zip(deltas, others, strict=True)), gradients


def tap(problem: Problem, params: PyTree, leaves: Sequence[int]) -> TappedLoss:
    """Trace the per-sample loss once and decide how each of these parameters is tapped."""
    arrays, rebuild = split(params)
    sample = jax.tree_util.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), problem.data)

    def loss(arrays: list[Array], sample: PyTree) -> Array:
        return problem.sample_loss(rebuild(arrays), sample)

    jaxpr = jax.make_jaxpr(loss)(without_numbers(arrays), sample)
    escaped = {leaf: "no entries" for leaf in leaves if not arrays[leaf].size}
    while True:  # what escapes is read as a constant, so that the uses of all others are those of the final program
        facts = tuple(
            Fact((view_of(place, arrays[place].shape),) if place in leaves and place not in escaped else ())
            if place < len(arrays)
            else Fact(varies=True)
            for place in range(len(jaxpr.jaxpr.invars))
        )
        uses, lost, outputs = find_uses(jaxpr.jaxpr, facts)
        lost = dict.fromkeys(leaves_in(outputs), "the output of the loss") | lost
        if not lost:
            order = tuple(sorted(escaped))
            varies = any(fact.varies for fact in outputs)
            return TappedLoss(jaxpr, facts, tuple(uses), order, tuple(escaped[leaf] for leaf in order), varies)
        escaped = escaped | lost


def _evaluate(
    closed: core.ClosedJaxpr,
    inputs: Sequence[Any],
    facts: Sequence[Fact],
    values: Sequence[Values],
    zeros: Iterator[Array],
    others: list[Array],
) -> tuple[list[Any], list[Values]]:
    """Run a program, adding the next zero at each use and appending the other factor to `others`.

    Args:
        closed: the program.
        inputs: its inputs.
        facts: what is known of them.
        values: what the maps of their views need at run time.
        zeros: one for each use that lies ahead.
        others: receives the other factor of each use.

    Returns:
        The outputs, and what the maps of their views need.
    """
    jaxpr = closed.jaxpr
    held = dict(zip(jaxpr.constvars, closed.consts, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
    known = dict(zip(jaxpr.invars, facts, strict=True))
    needed = dict(zip(jaxpr.invars, values, strict=True))

    def value(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else held[var]

    def needs(variables: Sequence[Any]) -> list[Values]:
        return [() if isinstance(var, core.Literal) else needed.get(var, ()) for var in variables]

    for eqn in jaxpr.eqns:
        operands = [value(var) for var in eqn.invars]
        seen, mine = facts_of(eqn.invars, known), needs(eqn.invars)
        action = action_of(eqn, seen) if any(fact.views for fact in seen) else None
        known.update(zip(eqn.outvars, facts_behind(eqn, action, seen), strict=True))
        match action:
            case Used(uses):
                (out,) = evaluate_equation(eqn, operands)
                for place, use in enumerate(uses):
                    out = out + _spread(use, mine[use.side][place], next(zeros), out)
                    others.append(_other_factor(eqn, operands, use, mine[use.side][place]))
                outs = [out]
            case Viewed(results):
                outs = evaluate_equation(eqn, operands)
                for var, result in zip(eqn.outvars, results, strict=True):
                    needed[var] = tuple(_needed(derived, mine, operands) for derived in result)
            case Entered(inner, remat):
                run = _evaluate if remat is None else _rematerialising(remat)
                outs, out_values = run(inner, operands, seen, mine, zeros, others)
                known.update(zip(eqn.outvars, find_uses(inner.jaxpr, seen)[2], strict=True))
                needed.update(zip(eqn.outvars, out_values, strict=True))
            case Looped():
                outs = _evaluate_loop(action, operands, seen, mine, zeros, others)
            case _:
                outs = evaluate_equation(eqn, operands)
        held.update(zip(eqn.outvars, outs, strict=True))
    return [value(var) for var in jaxpr.outvars], needs(jaxpr.outvars)


def _needed(derived: Any, mine: Sequence[Values], operands: Sequence[Any]) -> tuple[Array | None, ...]:
    """What the maps of a derived view need: what those of its origin need, and an operand for the new ones."""
    before = mine[derived.operand][derived.place]
    new = len(derived.view.maps) - len(before)
    last = None if derived.value is None else jnp.asarray(operands[derived.value])
    return (*before, *[last] * new)


def _spread(use: Use, values: tuple[Array | None, ...], zero: Array, out: Array) -> Array:
    """A zero of the shape of the pulled δ, brought to the product: its derivative is then the pulled δ."""

    def pulled(delta: Array) -> Array:  # an index cannot be scaled
        return pull(delta, use.output_axes, use.view, values, scaled=use.kind == "rows", shared=use.shared)[0]

    (spread,) = jax.linear_transpose(pulled, jax.ShapeDtypeStruct(out.shape, out.dtype))(zero)
    return spread


def _other_factor(eqn: core.JaxprEqn, operands: Sequence[Any], use: Use, values: tuple[Array | None, ...]) -> Array:
    """The pulled h of a use; for rows the index of each position, beyond the end where there is none."""
    if use.kind == "rows":
        return _index(eqn, operands, use)
    other = jnp.asarray(operands[1 - use.side])
    if not jnp.issubdtype(other.dtype, jnp.floating):
        other = other.astype(use.dtype)
    if use.kind == "convolution":
        other = _patches(eqn, other)
    return pull(other, use.other_axes, use.view, values, scaled=True, shared=use.shared)[0]


def _index(eqn: core.JaxprEqn, operands: Sequence[Any], use: Use) -> Array:
    length = use.view.shape[use.other[-1]]
    look_up = row_look_up(eqn)
    assert look_up is not None
    index = jnp.asarray(operands[1 + look_up.axis]) if look_up.apart else operands[1][..., look_up.component]
    index = index.reshape([n for n in index.shape if n != 1])
    if index.dtype.itemsize < 4:  # the length of the axis may not fit
        index = index.astype(jnp.int32)
    if look_up.clips:
        return jnp.clip(index, 0, length - 1).astype(jnp.int32)
    return jnp.where((index >= 0) & (index < length), index, length).astype(jnp.int32)


def _patches(eqn: core.JaxprEqn, image: Array) -> Array:
    """What the kernel of a convolution is multiplied with, at every position of the result."""
    patches = patches_of(eqn)
    assert patches is not None
    return jax.lax.conv_general_dilated_patches(image, **patches._asdict(), precision=jax.lax.Precision.HIGHEST)


def _rematerialising(options: dict[str, Any]) -> Any:
    def run(
        inner: core.ClosedJaxpr,
        operands: Sequence[Any],
        facts: Sequence[Fact],
        values: Sequence[Values],
        zeros: Iterator[Array],
        others: list[Array],
    ) -> tuple[list[Any], list[Values]]:
        mine = [next(zeros) for _ in find_uses(inner.jaxpr, facts)[0]]

        def body(
            operands: Sequence[Any], values: Sequence[Values], mine: list[Array]
        ) -> tuple[list[Any], list[Values], list[Array]]:
            inside: list[Array] = []
            outs, out_values = _evaluate(inner, operands, facts, values, iter(mine), inside)
            return outs, out_values, inside

        outs, out_values, inside = jax.checkpoint(body, **options)(operands, values, mine)
        others.extend(inside)
        return outs, out_values

    return run


def _evaluate_loop(
    loop: Looped,
    operands: Sequence[Any],
    facts: Sequence[Fact],
    values: Sequence[Values],
    zeros: Iterator[Array],
    others: list[Array],
) -> list[Any]:
    consts = operands[: loop.num_consts]
    carry = operands[loop.num_consts : loop.num_consts + loop.num_carry]
    xs = operands[loop.num_consts + loop.num_carry :]
    within = loop.facts_inside(facts)
    mine = [next(zeros) for _ in find_uses(loop.jaxpr.jaxpr, within)[0]]

    def body(
        carry: list[Any], slices: tuple[list[Any], list[Array]]
    ) -> tuple[list[Any], tuple[list[Any], list[Array]]]:
        xs, mine = slices
        inside: list[Array] = []
        outs, _ = _evaluate(loop.jaxpr, [*consts, *carry, *xs], within, values, iter(mine), inside)
        return outs[: loop.num_carry], (outs[loop.num_carry :], inside)

    carry, (ys, inside) = jax.lax.scan(body, list(carry), (list(xs), mine), length=loop.length, **loop.options)
    others.extend(inside)
    return [*carry, *ys]
