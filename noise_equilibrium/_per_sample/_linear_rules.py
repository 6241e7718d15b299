"""Equations whose result is linear in a parameter, axis by axis: moved, added, scaled, sliced, joined, of low rank."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from ._actions import Derived, Fact, Viewed, aval, read
from ._linear_view import Negate, Placed, Product, Rescale, Reversed, Scale, View, Window, regrouped


def rearranged(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W with its axes in another order, in another shape or another precision: the same entries, their atoms moved.

    `transpose` permutes the axes of the view; all others keep the order of the entries, and cut its atoms anew.
    """
    source, target = aval(eqn.invars[0]), aval(eqn.outvars[0])
    if not jnp.issubdtype(target.dtype, jnp.floating):
        return None
    name = eqn.primitive.name
    derived = []
    for view in facts[0].views:
        if name == "transpose":
            order = read(eqn, "permutation", tuple)
            axes = None if order is None else tuple(view.axes[axis] for axis in order)
        elif source.size != target.size:
            return None
        else:  # these keep the order of the entries
            axes = regrouped(view.axes, target.shape)
        if axes is None:
            return None
        derived.append(Derived(view._replace(axes=axes)))
    return Viewed((tuple(derived),))


def added(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = A ± B with no sample in either: the views of A, and those of B, of the same shape; with −1 behind a minus."""
    shape = aval(eqn.outvars[0]).shape
    derived = []
    for operand, fact in enumerate(facts):
        if fact.varies or (fact.views and aval(eqn.invars[operand]).shape != shape):
            return None
        negative = operand == 1 and eqn.primitive.name == "sub"
        derived += [Derived(view.mapped(Negate()) if negative else view) for view in fact.views]
    return Viewed((tuple(derived),))


def negated(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed:
    """V = −W: the view behind a factor −1."""
    return Viewed((tuple(Derived(view.mapped(Negate())) for view in facts[0].views),))


def scaled(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = c W or W / c with a number c, diag(s) W with one s per entry of one axis: the view behind that factor."""
    divides = eqn.primitive.name == "div"
    mine = 0 if facts[0].views else 1
    factor = aval(eqn.invars[1 - mine])
    if facts[1 - mine].views or facts[1 - mine].varies or (divides and mine == 1):
        return None
    if aval(eqn.invars[mine]).shape != aval(eqn.outvars[0]).shape:
        return None
    proper = [axis for axis, n in enumerate(factor.shape) if n != 1]
    derived = []
    for view in facts[mine].views:
        if not proper:
            new = view.mapped(Scale(divides=divides))
        elif len(proper) == 1 and (label := view.whole(proper[0])) is not None:
            new = view.mapped(Rescale(label, divides), proper[0])
        else:
            return None
        derived.append(Derived(new, 1 - mine))
    return Viewed((tuple(derived),))


def sliced(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W[start : limit : stride] along any axes: the view behind a window on each axis that is cut."""
    starts, limits = read(eqn, "start_indices", tuple), read(eqn, "limit_indices", tuple)
    if starts is None or limits is None:
        return None
    strides = read(eqn, "strides", tuple) or (1,) * len(starts)
    return _windowed(eqn, facts, [list(zip(starts, limits, strides, strict=True))])


def split(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V_1, V_2, … = W cut along one axis: one view for each, behind a window that begins where the last one ended."""
    sizes, axis = read(eqn, "sizes", tuple), read(eqn, "axis", int)
    if sizes is None or axis is None:
        return None
    shape = aval(eqn.invars[0]).shape
    parts, start = [], 0
    for size in map(int, sizes):
        part = [(0, n, 1) for n in shape]
        part[axis] = (start, start + size, 1)
        parts.append(part)
        start += size
    return _windowed(eqn, facts, parts)


def _windowed(
    eqn: core.JaxprEqn, facts: Sequence[Fact], parts: Sequence[Sequence[tuple[int, int, int]]]
) -> Viewed | None:
    """Parts of a value, each given by (start, limit, stride) for every axis."""
    shape = aval(eqn.invars[0]).shape
    results = []
    for part in parts:
        derived = []
        for view in facts[0].views:
            for axis, (start, limit, stride) in enumerate(part):
                size, full = len(range(start, limit, stride)), shape[axis]
                if size != full:
                    label = view.whole(axis)
                    if label is None or size == 0:
                        return None
                    view = view.mapped(Window(label, start, size, stride, full), axis)
            derived.append(Derived(view))
        results.append(tuple(derived))
    return Viewed(tuple(results))


def joined(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = [A; B; …] along one axis: the views of all parts, each placed behind the ones before it."""
    axis = read(eqn, "dimension", int)
    if axis is None or any(fact.varies for fact in facts):
        return None
    full, start, derived = aval(eqn.outvars[0]).shape[axis], 0, []
    for operand, fact in enumerate(facts):
        size = aval(eqn.invars[operand]).shape[axis]
        for view in fact.views:
            label = view.whole(axis) if view.axes[axis] else None
            if label is None:
                return None
            derived.append(Derived(view.mapped(Placed(label, start, size, full), axis)))
        start += size
    return Viewed((tuple(derived),))


def reversed_(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W[::-1] along any axes: the view behind a reversal of each."""
    dimensions = read(eqn, "dimensions", tuple)
    if dimensions is None:
        return None
    derived = []
    for view in facts[0].views:
        for axis in dimensions:
            if view.axes[axis]:
                label = view.whole(axis)
                if label is None:
                    return None
                view = view.mapped(Reversed(label), axis)
        derived.append(Derived(view))
    return Viewed((tuple(derived),))


def times_matrix(eqn: core.JaxprEqn, numbers: Any, view: View, side: int) -> View | None:
    """V = B W with a fixed matrix B of more than one row, along one whole axis of W: the view behind B.

    That axis comes first in V, and last in V = W B.
    """
    (contract, batch) = numbers
    other = aval(eqn.invars[1 - side])
    if len(other.shape) != 2 or len(contract[0]) != 1 or batch[0]:
        return None
    (mine,), (theirs,) = contract[side], contract[1 - side]
    rows = other.shape[1 - theirs]
    label = view.whole(mine)
    if label is None or rows == 1:
        return None
    mapped = view.mapped(Product(label, theirs, rows), mine)
    free = [axes for axis, axes in enumerate(mapped.axes) if axis != mine]
    axes = [*free, mapped.axes[mine]] if side == 0 else [mapped.axes[mine], *free]
    return mapped._replace(axes=tuple(axes))
