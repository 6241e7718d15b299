"""Equations whose result is linear in a parameter, axis by axis: moved, added, scaled, sliced, joined, of low rank.

Each rule takes the views V(W) that the operands have, and gives those of the result. What is not linear along one axis
of W at a time has no view, and the rule answers None: the parameter escapes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from ._actions import Derived, Fact, Viewed, aval, read
from ._linear_view import LinearMap, Negate, Placed, Product, Rescale, Reversed, Scale, View, Window, regrouped


def rearranged(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W with its axes in another order, in another shape or another precision: the same entries, their atoms moved.

    `transpose` permutes the axes of the view; all others keep the order of the entries, and cut its atoms anew: W of
    shape (6, 4) as (2, 3, 4) has axis 0 in two atoms, of strides 3 and 1.
    """
    source, target = aval(eqn.invars[0]), aval(eqn.outvars[0])
    # A cast to whole numbers is not linear; and of a value that grows, as by a broadcast, several entries are one of W.
    if not jnp.issubdtype(target.dtype, jnp.floating) or source.size != target.size:
        return None
    order = read(eqn, "permutation", tuple)

    def moved(view: View) -> View | None:
        if eqn.primitive.name == "transpose":
            axes = None if order is None else tuple(view.axes[axis] for axis in order)
        else:
            axes = regrouped(view.axes, target.shape)
        return None if axes is None else view._replace(axes=axes)

    return _viewed(map(moved, facts[0].views))


def added(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = A ± B: the views of A, and those of B, with −1 behind a minus.

    Neither may depend on the sample, so that V is used as a weight is; and what holds a parameter has the shape of V:
    one that is broadcast would be used at several places of V. W₀ + B A with a frozen W₀ has the views of B A alone.
    """
    shape = aval(eqn.outvars[0]).shape
    if any(
        fact.varies or (fact.views and aval(var).shape != shape) for var, fact in zip(eqn.invars, facts, strict=True)
    ):
        return None
    first, second = (fact.views for fact in facts)
    return _viewed([*first, *(view.mapped(Negate()) if eqn.primitive.name == "sub" else view for view in second)])


def negated(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = −W: the view behind a factor −1."""
    return _viewed(view.mapped(Negate()) for view in facts[0].views)


def scaled(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = c W or W / c with a number c, diag(s) W with one s per entry of one axis: the view behind that factor.

    The factor must not hold a parameter that is followed (the product would not be linear in it), nor depend on the
    sample: x W is no weight but a product with its input, which no rule knows for single entries.
    """
    divides = eqn.primitive.name == "div"
    mine = 0 if facts[0].views else 1
    factor = aval(eqn.invars[1 - mine])
    # c / W is not linear in W.
    if facts[1 - mine].views or facts[1 - mine].varies or (divides and mine == 1):
        return None
    # A parameter that is broadcast to the shape of the factor stands at several places of V.
    if aval(eqn.invars[mine]).shape != aval(eqn.outvars[0]).shape:
        return None
    proper = [axis for axis, n in enumerate(factor.shape) if n != 1]
    views = facts[mine].views
    if not proper:
        return _viewed((view.mapped(Scale(divides=divides)) for view in views), value=1 - mine)
    # A factor that differs along two axes acts on no axis by itself.
    if len(proper) > 1:
        return None
    return _viewed((_along(view, proper[0], lambda label: Rescale(label, divides)) for view in views), value=1 - mine)


def sliced(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W[start : limit : stride] along any axes: the view behind a window on each axis that is cut.

    An axis that is one of several factors of an axis of W has a window if it is the outermost of them.
    """
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
    parts, start = [], 0
    for size in map(int, sizes):
        part = [(0, n, 1) for n in aval(eqn.invars[0]).shape]
        part[axis] = (start, start + size, 1)
        parts.append(part)
        start += size
    return _windowed(eqn, facts, parts)


def _windowed(
    eqn: core.JaxprEqn, facts: Sequence[Fact], parts: Sequence[Sequence[tuple[int, int, int]]]
) -> Viewed | None:
    """Parts of a value, each given by (start, limit, stride) for every axis."""
    shape = aval(eqn.invars[0]).shape

    def cut(view: View | None, part: Sequence[tuple[int, int, int]]) -> View | None:
        for axis, (start, limit, stride) in enumerate(part):
            size, full = len(range(start, limit, stride)), shape[axis]
            if view is not None and size != full:
                window = lambda label, n=(start, size, stride, full): Window(label, *n)  # noqa: E731
                # An empty part has no entry of W, and an axis of length 0 no atom.
                view = (_along(view, axis, window) or _outer_part(view, axis, start, limit, stride)) if size else None
        return view

    return _viewed(*[[cut(view, part) for view in facts[0].views] for part in parts])


def _outer_part(view: View, axis: int, start: int, limit: int, stride: int) -> View | None:
    """W of an axis in several factors, cut along the outermost: W.reshape(3, k, -1)[1:2] is a slice of k rows of W."""
    atoms = view.axes[axis]
    if stride != 1 or len(atoms) != 1 or atoms[0].size * atoms[0].stride != view.length(atoms[0].label):
        return None
    (atom,), size = atoms, limit - start
    window = Window(atom.label, start * atom.stride, size * atom.stride, 1, atom.size * atom.stride)
    axes = list(view.axes)
    axes[axis] = (atom._replace(size=size),) if size != 1 else ()
    return view.mapped(window)._replace(axes=tuple(axes))


def joined(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = [A; B; …] along one axis: the views of all parts, each placed behind the ones before it.

    A part that holds no parameter is a part of V whose cotangent nobody asks for.
    """
    axis = read(eqn, "dimension", int)
    if axis is None or any(fact.varies for fact in facts):
        return None
    full, start, views = aval(eqn.outvars[0]).shape[axis], 0, []
    for var, fact in zip(eqn.invars, facts, strict=True):
        size = aval(var).shape[axis]
        place = lambda label, n=(start, size, full): Placed(label, *n)  # noqa: E731
        views += [_along(view, axis, place) for view in fact.views]
        start += size
    return _viewed(views)


def reversed_(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Viewed | None:
    """V = W[::-1] along any axes: the view behind a reversal of each."""
    dimensions = read(eqn, "dimensions", tuple)
    if dimensions is None:
        return None

    def turned(view: View | None) -> View | None:
        for axis in dimensions:
            if view is not None and view.axes[axis]:  # an axis of length 1 looks the same backwards
                view = _along(view, axis, Reversed)
        return view

    return _viewed(map(turned, facts[0].views))


def times_matrix(eqn: core.JaxprEqn, numbers: Any, view: View, side: int) -> View | None:
    """V = B W with a fixed matrix B of more than one row, along one whole axis of W: the view behind B.

    That axis comes first in V, and last in V = W B. B may hold parameters too: in B A with both followed, each is a
    view behind the other, and a use of B A is one use of each.
    """
    (contract, batch) = numbers
    other = aval(eqn.invars[1 - side])
    if len(other.shape) != 2 or len(contract[0]) != 1 or batch[0]:
        return None
    (mine,), (theirs,) = contract[side], contract[1 - side]
    rows = other.shape[1 - theirs]
    mapped = _along(view, mine, lambda label: Product(label, theirs, rows))
    if mapped is None or rows == 1:  # a vector: V has lost the axis
        return None
    free = [axes for axis, axes in enumerate(mapped.axes) if axis != mine]
    axes = [*free, mapped.axes[mine]] if side == 0 else [mapped.axes[mine], *free]
    return mapped._replace(axes=tuple(axes))


def _along(view: View, axis: int, new: Callable[[int], LinearMap]) -> View | None:
    """The view behind one more map along an axis of the value; None if that is not an axis of the parameter in full."""
    label = view.whole(axis)
    return None if label is None else view.mapped(new(label), axis)


def _viewed(*results: Iterable[View | None], value: int | None = None) -> Viewed | None:
    """The views of each result, whose last maps need the operand `value`; None if one of them is not possible."""
    found = [list(result) for result in results]
    if any(view is None for result in found for view in result):
        return None
    return Viewed(tuple(tuple(Derived(view, value) for view in result if view is not None) for result in found))
