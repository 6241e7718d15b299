"""Equations where a parameter meets its input: matrix products, look-ups of rows, convolutions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from ._actions import Derived, Fact, Use, Used, Viewed, aval, read
from ._linear import times_matrix
from ._views import POSITION, Atom, Axis, Scale, View, can_pull


def dot(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | Used | None:
    """A product: of a parameter with a fixed matrix it is a view, with anything else a use."""
    numbers = read(eqn, "dimension_numbers", tuple)
    if numbers is None or len(eqn.invars) != 2 or len(eqn.outvars) != 1:
        return None
    if not jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating):
        return None
    if not any(fact.varies for fact in facts):
        derived = []
        for side, fact in enumerate(facts):
            for place, view in enumerate(fact.views):
                new = times_matrix(eqn, numbers, view, side)
                if new is None:
                    break
                derived.append(Derived(new, side, place, 1 - side))
        if len(derived) == len(facts[0].views) + len(facts[1].views):
            return Viewed((tuple(derived),))
    if facts[0].views and facts[1].views:
        return None
    side = 0 if facts[0].views else 1
    uses = [_product(eqn, numbers, view, side) for view in facts[side].views]
    return _used(uses)


def _product(eqn: core.JaxprEqn, numbers: Any, view: View, side: int) -> Use | None:
    (contract, batch) = numbers
    mine, theirs = side, 1 - side
    shape = aval(eqn.invars[theirs]).shape
    other: list[Axis] = [_position(axis, n) for axis, n in enumerate(shape)]
    for ours, its in [
        *zip(contract[mine], contract[theirs], strict=True),
        *zip(batch[mine], batch[theirs], strict=True),
    ]:
        other[its] = view.axes[ours]
    summed = set(contract[theirs]) | set(batch[theirs])
    positions = [other[axis] for axis in range(len(shape)) if axis not in summed]
    bound = set(contract[mine]) | set(batch[mine])
    kept = [axes for axis, axes in enumerate(view.axes) if axis not in bound]
    output = [view.axes[axis] for axis in batch[mine]] + (kept + positions if side == 0 else positions + kept)
    return _use(eqn, view, side, "product", output, other)


class RowLookUp(NamedTuple):
    """How an equation looks up single entries of one axis of its first operand.

    Attributes:
        axis: the axis.
        kept: the axes of the operand that are found in the result.
        offsets: where they are found there.
        apart: whether every axis has an operand of its own for its index.
        component: the place of the index in the last axis of the one operand for all of them, otherwise.
        clips: whether an index beyond the end means the last entry; otherwise it means nothing.
    """

    axis: int
    kept: tuple[int, ...]
    offsets: tuple[int, ...]
    apart: bool
    component: int
    clips: bool


def row_look_up(eqn: core.JaxprEqn) -> RowLookUp | None:
    """Read a `gather` or `dynamic_slice` that looks up rows; None if it does another thing."""
    shape = aval(eqn.invars[0]).shape
    sizes = read(eqn, "slice_sizes", tuple)
    if sizes is None or len(sizes) != len(shape):
        return None
    partial = [axis for axis, n in enumerate(shape) if sizes[axis] != n]
    if len(partial) != 1 or sizes[partial[0]] != 1:
        return None
    (axis,) = partial
    every = tuple(range(len(shape)))
    if eqn.primitive.name == "dynamic_slice":
        return RowLookUp(axis, every, every, True, 0, True) if len(eqn.invars) == 1 + len(shape) else None
    numbers: Any = eqn.params.get("dimension_numbers")
    mode = getattr(eqn.params.get("mode"), "name", "")
    names = ("start_index_map", "collapsed_slice_dims", "offset_dims", "operand_batching_dims")
    if not all(hasattr(numbers, name) for name in names) or numbers.operand_batching_dims:
        return None
    if mode not in {"CLIP", "PROMISE_IN_BOUNDS", "FILL_OR_DROP"}:
        return None
    starts, collapsed, offsets = numbers.start_index_map, numbers.collapsed_slice_dims, numbers.offset_dims
    drops = mode == "FILL_OR_DROP"
    if axis not in starts or (drops and len(starts) > 1):  # clipped, an axis that is taken whole starts at 0
        return None
    kept = tuple(place for place in every if place not in collapsed)
    return RowLookUp(axis, kept, tuple(offsets), False, starts.index(axis), not drops)


def rows(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Used | None:
    """A look-up of rows, as of an embedding."""
    look_up = row_look_up(eqn)
    if look_up is None or not facts[0].views or any(fact.views for fact in facts[1:]):
        return None
    uses = []
    for view in facts[0].views:
        label = view.whole(look_up.axis)
        if label is None or any(step.label == label and not isinstance(step, Scale) for step in view.maps):
            return None
        if any(axis is not None for axis in view.loops):  # an index has no axis of the parameter to run over
            return None
        output: list[Axis] = [_position(place, n) for place, n in enumerate(aval(eqn.outvars[0]).shape)]
        for place, ours in zip(look_up.offsets, look_up.kept, strict=True):
            output[place] = view.axes[ours] if ours != look_up.axis else ()
        positions = [axes for axes in output if axes and axes[0].label >= POSITION]
        row = (Atom(label, 1, view.length(label)),)
        uses.append(_use(eqn, view, 0, "rows", output, [*positions, row]))
    return _used(uses)


def convolution(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Used | None:
    """A convolution whose kernel is a parameter: a product with the patches of its input."""
    numbers: Any = eqn.params.get("dimension_numbers")
    grouped = eqn.params.get("feature_group_count"), eqn.params.get("batch_group_count")
    if not all(hasattr(numbers, name) for name in ("lhs_spec", "rhs_spec", "out_spec")) or grouped != (1, 1):
        return None
    if facts[0].views or not facts[1].views:
        return None
    kernel, out = numbers.rhs_spec, numbers.out_spec
    shape = aval(eqn.outvars[0]).shape
    positions: dict[int, Axis] = {axis: _position(axis, shape[axis]) for axis in (out[0], *out[2:])}
    uses = []
    for view in facts[1].views:
        result = {out[1]: view.axes[kernel[0]], **positions}
        patch = tuple(atom for axis in kernel[1:] for atom in view.axes[axis])  # the channel, then the window
        patches = {out[1]: patch, **positions}
        output, other = ([axes[axis] for axis in range(len(shape))] for axes in (result, patches))
        uses.append(_use(eqn, view, 1, "convolution", output, other))
    return _used(uses)


def _position(axis: int, n: int) -> Axis:
    return (Atom(POSITION + axis, 1, n),) if n != 1 else ()


def _use(
    eqn: core.JaxprEqn, view: View, side: int, kind: str, output: Sequence[Axis], other: Sequence[Axis]
) -> Use | None:
    if not can_pull(view, output, other):
        return None
    first = tuple(dict.fromkeys(atom.label for axes in output for atom in axes))
    second = tuple(dict.fromkeys(atom.label for axes in other for atom in axes))
    positions = {atom.label: atom.size for axes in output for atom in axes if atom.label >= POSITION}
    windows = {step.label: step.size for step in view.windows}
    shape = tuple(positions[label] if label in positions else windows.get(label, view.shape[label]) for label in first)
    dtype = aval(eqn.outvars[0]).dtype
    return Use(view, side, kind, tuple(output), tuple(other), first, second, shape, dtype)


def _used(uses: Sequence[Use | None]) -> Used | None:
    found = [use for use in uses if use is not None]
    return Used(tuple(found)) if len(found) == len(uses) else None
