"""The loss with taps: the same program, plus zeros wherever a derivative is wanted.

At every use of a parameter a zero is added to the product and the other factor is put aside; at every parameter that
escapes, a zero is added to the parameter itself. The derivatives with respect to the zeros, for all samples, come from
one vmapped backward pass.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from .._jaxpr import evaluate_equation
from .._parameters import split, without_numbers
from .._problem import Problem
from ._actions import Entered, Fact, Looped, Use, Used
from ._contraction_rules import patches_of, row_look_up
from ._linear_view import pull, view_of
from ._reading import Reading, Step, leaves_in, read

# By the numbers that a reading gives: zeros and other factors of uses, values of maps.
Numbered = dict[int, Array]


class TappedLoss(NamedTuple):
    """A per-sample loss prepared for the parameters of some legs.

    Attributes:
        reading: the loss as a program of the parameter arrays followed by the leaves of one sample, as it was read.
        escaped: the parameters to tap at themselves, in ascending order.
        culprits: for each of them the primitive that is not understood.
    """

    reading: Reading
    escaped: tuple[int, ...]
    culprits: tuple[str, ...]

    @property
    def uses(self) -> tuple[Use, ...]:
        """Where parameters meet their input."""
        return tuple(self.reading.uses.values())

    @property
    def varies(self) -> bool:
        """Whether the loss depends on the sample at all."""
        return any(fact.varies for fact in self.reading.outputs)

    def derivatives(
        self, arrays: Sequence[Array], samples: PyTree, others: Sequence[int] = ()
    ) -> tuple[list[tuple[Array, Array]], list[Array], dict[int, Array]]:
        """What one backward pass of n samples tells.

        The loss that is differentiated is the sum over the samples: what every sample has for itself, the zeros, gets a
        derivative for every sample, and a parameter the sum of its gradients.

        Args:
            arrays: the parameters.
            samples: n samples.
            others: parameters of which the sum of the gradients is wanted.

        Returns:
            (δ, h) of every use and the gradient of every parameter that escapes, with n in front; and the sums.
        """
        count = len(jax.tree_util.tree_leaves(samples)[0])
        zeros = {n: jnp.zeros((count, *use.shape), use.dtype) for n, use in self.reading.uses.items()}
        slots = {leaf: jnp.zeros((count, *arrays[leaf].shape), arrays[leaf].dtype) for leaf in self.escaped}

        def of_one(zeros: Numbered, slots: Numbered, shared: Numbered, sample: PyTree) -> tuple[Array, Numbered]:
            tapped = [shared.get(leaf, array) for leaf, array in enumerate(arrays)]
            for leaf, slot in slots.items():
                tapped[leaf] = tapped[leaf] + slot
            (loss,), factors, _ = run(self.reading, [*tapped, *jax.tree_util.tree_leaves(sample)], zeros, {})
            return loss, factors

        def of_all(zeros: Numbered, slots: Numbered, shared: Numbered) -> tuple[Array, Numbered]:
            losses, factors = jax.vmap(of_one, in_axes=(0, 0, None, 0))(zeros, slots, shared, samples)
            return jnp.sum(losses), factors

        derivative = jax.grad(of_all, argnums=(0, 1, 2), has_aux=True)
        (deltas, gradients, sums), factors = derivative(zeros, slots, {leaf: arrays[leaf] for leaf in others})
        return [(deltas[n], factors[n]) for n in self.reading.uses], [gradients[leaf] for leaf in self.escaped], sums


def tap(problem: Problem, params: PyTree, leaves: Sequence[int]) -> TappedLoss:
    """Trace the per-sample loss once and decide how each of these parameters is tapped."""
    arrays, rebuild = split(params)
    sample = jax.tree_util.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), problem.data)

    def loss(arrays: list[Array], sample: PyTree) -> Array:
        return problem.sample_loss(rebuild(arrays), sample)

    program = jax.make_jaxpr(loss)(without_numbers(arrays), sample)
    escaped = {leaf: "no entries" for leaf in leaves if not arrays[leaf].size}
    while True:  # what escapes is read as a constant, so that the uses of all others are those of the final program
        facts = tuple(
            Fact((view_of(place, arrays[place].shape),) if place in leaves and place not in escaped else ())
            if place < len(arrays)
            else Fact(varies=True)
            for place in range(len(program.jaxpr.invars))
        )
        reading = read(program, facts, itertools.count())
        lost = dict.fromkeys(leaves_in(reading.outputs), "the output of the loss") | reading.escaped
        if not lost:
            order = tuple(sorted(escaped))
            return TappedLoss(reading, order, tuple(escaped[leaf] for leaf in order))
        escaped = escaped | lost


def run(
    reading: Reading, inputs: Sequence[Any], zeros: Numbered, values: Numbered
) -> tuple[list[Any], Numbered, Numbered]:
    """Run a program as it was read, with a zero added at each use.

    Args:
        reading: of the program.
        inputs: its inputs.
        zeros: for each use a zero, of the shape of the pulled δ.
        values: what the maps of the views of the inputs need.

    Returns:
        The outputs, the other factor of each use, and the values with those that were made on the way.
    """
    jaxpr, others = reading.program.jaxpr, {}
    held = dict(zip(jaxpr.constvars, reading.program.consts, strict=True)) | dict(
        zip(jaxpr.invars, inputs, strict=True)
    )

    def value(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else held[var]

    for step in reading.steps:
        operands = [value(var) for var in step.eqn.invars]
        mine = {number: zeros[number] for number in step.uses}
        match step.action:
            case Entered(_, remat):
                assert step.body is not None
                inside = partial(run, step.body)
                inside = inside if remat is None else jax.checkpoint(inside, **remat)
                outs, found, values = inside(operands, mine, values)
            case Looped():
                outs, found = _run_loop(step, step.action, operands, mine, values)
            case Used():
                outs, found = _run_uses(step, operands, mine, values)
            case _:
                outs, found = evaluate_equation(step.eqn, operands), {}
        others |= found
        values = values | {number: jnp.asarray(operands[operand]) for number, operand in step.values}
        held.update(zip(step.eqn.outvars, outs, strict=True))
    return [value(var) for var in jaxpr.outvars], others, values


def _run_loop(
    step: Step, loop: Looped, operands: Sequence[Any], zeros: Numbered, values: Numbered
) -> tuple[list[Any], Numbered]:
    """A scan over the sequences of the loop and over the zeros of its turns; the other factors are stacked by it."""
    body, first, last = step.body, loop.num_consts, loop.num_consts + loop.num_carry
    assert body is not None

    def turn(carry: Any, slices: Any) -> Any:
        xs, mine = slices
        # The values that maps need are not carried out of the loop, as no view is.
        outs, found, _ = run(body, [*operands[:first], *carry, *xs], mine, values)
        return outs[: loop.num_carry], (outs[loop.num_carry :], found)

    over = list(operands[last:]), zeros
    carry, (ys, found) = jax.lax.scan(turn, list(operands[first:last]), over, length=loop.length, **loop.options)
    return [*carry, *ys], found


def _run_uses(step: Step, operands: Sequence[Any], zeros: Numbered, values: Numbered) -> tuple[list[Any], Numbered]:
    """The product, plus the zero of every use; and the other factors."""
    (out,) = evaluate_equation(step.eqn, operands)
    found = {}
    for number, use in step.uses.items():
        needed = [None if place is None else values[place] for place in use.view.values]
        out = out + _spread(use, needed, zeros[number], out)
        found[number] = _other_factor(step.eqn, operands, use, needed)
    return [out], found


def _spread(use: Use, values: Sequence[Array | None], zero: Array, out: Array) -> Array:
    """A zero of the shape of the pulled δ, brought to the product: its derivative is then the pulled δ."""

    def pulled(delta: Array) -> Array:  # an index cannot be scaled
        return pull(delta, use.output_axes, use.view, values, scaled=use.kind == "rows", shared=use.shared)[0]

    (spread,) = jax.linear_transpose(pulled, jax.ShapeDtypeStruct(out.shape, out.dtype))(zero)
    return spread


def _other_factor(eqn: core.JaxprEqn, operands: Sequence[Any], use: Use, values: Sequence[Array | None]) -> Array:
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
    """The row that is looked up at every position; the length of the axis, which is no row, where nothing is."""
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
    # JAX cuts patches by a convolution with zeros and ones, which an accelerator would otherwise round to TF32 or
    # bfloat16.
    return jax.lax.conv_general_dilated_patches(image, **patches._asdict(), precision=jax.lax.Precision.HIGHEST)
