"""Equations where a parameter meets its input: matrix products, look-ups of rows, convolutions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from ._actions import Derived, Fact, Use, Used, Viewed, aval, read
from ._linear_rules import times_matrix
from ._linear_view import POSITION, Atom, Axis, View, can_pull

# All fields that the dimension numbers of these equations have; a further one could mean anything.
GATHER_NUMBERS = {
    "offset_dims", "collapsed_slice_dims", "start_index_map", "operand_batching_dims", "start_indices_batching_dims",
}  # fmt: skip
CONVOLUTION_NUMBERS = {"lhs_spec", "rhs_spec", "out_spec"}


def dot(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | Used | None:
    """A product y = W h: with a fixed matrix h a view of W, with any other h a use, whose gradient is δ hᵀ.

    Where neither side depends on the sample, a view is tried first: in (B A) x the product B A is a weight. If it is
    none (WᵀW, a vector), a single side that holds parameters may still be a use, with the same h for all samples.
    """
    numbers = _dot_numbers(eqn)
    if numbers is None or len(eqn.outvars) != 1:
        return None
    # Whole numbers have no gradient.
    if not jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating):
        return None
    if not any(fact.varies for fact in facts):
        derived = []
        for side, fact in enumerate(facts):
            for view in fact.views:
                new = times_matrix(eqn, numbers, view, side)
                if new is None:
                    break
                derived.append(Derived(new, 1 - side))
        if len(derived) == len(facts[0].views) + len(facts[1].views):
            return Viewed((tuple(derived),))
    if facts[0].views and facts[1].views:
        return None
    side = 0 if facts[0].views else 1
    uses = [_product(eqn, numbers, view, side) for view in facts[side].views]
    return _used(uses)


def _dot_numbers(eqn: core.JaxprEqn) -> Any:
    """The axes that are summed, left and right, and those of the batch; None if they are spelled in another way."""
    match eqn.params.get("dimension_numbers"):
        case ((left, right), (batch_left, batch_right)):
            return (left, right), (batch_left, batch_right)
    return None


def _product(eqn: core.JaxprEqn, numbers: Any, view: View, side: int) -> Use | None:
    """A use y[b, i, p] = Σ_j W[b, i, j] h[b, j, p]: δ has the axes b, i of W and the positions p, h has b, j and p."""
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
    if set(getattr(numbers, "_fields", ())) != GATHER_NUMBERS:
        return None
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims:
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
    """A look-up y_p = W[i_p], as of an embedding: a use at all positions p, whose gradient is Σ_p e_{i_p} δ_pᵀ.

    The second factor is not h but the index i_p, which stands for the unit vector e_{i_p}. So the axis of the index is
    one of the parameter itself, behind no map: B e_i is no unit vector.
    """
    look_up = row_look_up(eqn)
    if look_up is None or not facts[0].views or any(fact.views for fact in facts[1:]):
        return None
    uses = []
    for view in facts[0].views:
        label = view.whole(look_up.axis)
        if label is None or any(step.label == label for step in view.maps):
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


class Patches(NamedTuple):
    """How a convolution cuts its input into patches: arguments of `jax.lax.conv_general_dilated_patches`."""

    filter_shape: tuple[int, ...]
    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    dimension_numbers: Any


def patches_of(eqn: core.JaxprEqn) -> Patches | None:
    """Read a convolution; None if it is spelled in another way."""
    numbers: Any = eqn.params.get("dimension_numbers")
    if set(getattr(numbers, "_fields", ())) != CONVOLUTION_NUMBERS:
        return None
    kernel = aval(eqn.invars[1]).shape
    window = tuple(kernel[axis] for axis in numbers.rhs_spec[2:])
    names = "window_strides", "padding", "lhs_dilation", "rhs_dilation"
    per_axis: dict[str, Any] = {name: read(eqn, name, tuple) for name in names}
    if any(value is None or len(value) != len(window) for value in per_axis.values()):
        return None
    return Patches(filter_shape=window, dimension_numbers=numbers, **per_axis)


def convolution(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Used | None:
    """A convolution y[o, p] = Σ_{c, k} W[o, c, k] x[c, p + k]: a product of W with the patch of the input at every p.

    So its gradient is Σ_p δ_p h_pᵀ with h_p the patch, whose axes are the channel c and the window k of the kernel.
    """
    patches = patches_of(eqn)
    if patches is None or facts[0].views or not facts[1].views:
        return None
    if not jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating):
        return None
    kernel, out = patches.dimension_numbers.rhs_spec, patches.dimension_numbers.out_spec
    shape = aval(eqn.outvars[0]).shape
    positions: dict[int, Axis] = {axis: _position(axis, shape[axis]) for axis in (out[0], *out[2:])}
    uses = []
    for view in facts[1].views:
        result = {out[1]: view.axes[kernel[0]], **positions}
        patch = tuple(atom for axis in kernel[1:] for atom in view.axes[axis])  # the channel, then the window
        along = {out[1]: patch, **positions}
        output, other = ([axes[axis] for axis in range(len(shape))] for axes in (result, along))
        uses.append(_use(eqn, view, 1, "convolution", output, other))
    return _used(uses)


def _position(axis: int, n: int) -> Axis:
    """What lies along an axis of positions of length n."""
    # An axis of length 1 has no place to tell apart: it holds nothing, here as in the axes of parameters.
    return (Atom(POSITION + axis, 1, n),) if n != 1 else ()


def _use(
    eqn: core.JaxprEqn, view: View, side: int, kind: str, output: Sequence[Axis], other: Sequence[Axis]
) -> Use | None:
    """The use with these axes of δ and h; None if the gradient of the parameter is no outer product of the two."""
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
    """The uses of all views of an operand; None if one of them is not possible."""
    found = [use for use in uses if use is not None]
    return Used(tuple(found)) if len(found) == len(uses) else None
