"""Values that are linear in a parameter, axis by axis, and the way back from their cotangents to the parameter's.

A `View` says how a value V holds the entries of one parameter W: which part of which axis of W lies along each axis of
V, and which linear maps were applied to single axes on the way (a slice, a product with a matrix, a scale). If the
cotangent of V is an outer product δ hᵀ, that of W is one too, and `pull` turns δ and h into its factors. So transposed,
reshaped, scaled, sliced, concatenated and low-rank weights cost what plain weights cost.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Labels of axes that are not axes of the parameter: positions (tokens, columns of h) and loops around the use. Axes of
# parameters are numbered from 0, so both lie beyond the largest number of axes, and sort behind them.
POSITION = 1000
LOOP = 2000


class Atom(NamedTuple):
    """A part of an axis: entry i stands at `stride * i`, counted along the axis `label`."""

    label: int
    stride: int
    size: int


Axis = tuple[Atom, ...]  # what lies along one axis of a value, outermost first; empty for an axis of length 1


@dataclass(frozen=True)
class LinearMap(abc.ABC):
    """A linear map on the entries of a parameter; `pull` is its transpose.

    Attributes:
        label: the axis along which it acts, on every line by itself; None if it is a number for all entries.
    """

    label: int | None

    def length(self, before: int) -> int:
        """The length of the axis behind the map."""
        return before

    @abc.abstractmethod
    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        """The transposed map along an axis of an array."""


@dataclass(frozen=True)
class Negate(LinearMap):
    """V = −W."""

    label: None = None

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        return -array


@dataclass(frozen=True)
class Scale(LinearMap):
    """A number: V = c W, or W / c if `divides`."""

    label: None = None
    divides: bool = False

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        return _times(array, value, (), self.divides)


@dataclass(frozen=True)
class AxisMap(LinearMap):
    """A linear map along one axis of a parameter."""

    label: int


@dataclass(frozen=True)
class Rescale(AxisMap):
    """A factor for every entry of the axis: V = diag(s) W, or diag(1/s) W if `divides`."""

    divides: bool

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        return _times(array, value, [-1 if place == axis else 1 for place in range(array.ndim)], self.divides)


@dataclass(frozen=True)
class Product(AxisMap):
    """A product with a matrix: V = B W, where the columns of B are its axis `contracts`."""

    contracts: int
    rows: int

    def length(self, before: int) -> int:
        return self.rows

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        assert value is not None
        over = (((axis,), (1 - self.contracts,)), ((), ()))
        return jnp.moveaxis(jax.lax.dot_general(array, value.astype(array.dtype), over), -1, axis)


@dataclass(frozen=True)
class Window(AxisMap):
    """A slice: V = W[start : start + stride·size : stride], of an axis of length `full`."""

    start: int
    size: int
    stride: int
    full: int

    def length(self, before: int) -> int:
        return self.size

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        after = self.full - self.start - self.stride * (self.size - 1) - 1
        widths = [(0, 0, 0)] * array.ndim
        widths[axis] = (self.start, after, self.stride - 1)
        return jax.lax.pad(array, jnp.zeros((), array.dtype), widths)

    def entries(self) -> range:
        """The entries of the axis that are seen."""
        return range(self.start, self.start + self.stride * self.size, self.stride)


@dataclass(frozen=True)
class Placed(AxisMap):
    """A part of a concatenation: W stands at `start` of an axis of length `full`."""

    start: int
    size: int
    full: int

    def length(self, before: int) -> int:
        return self.full

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        return jax.lax.slice_in_dim(array, self.start, self.start + self.size, axis=axis)


@dataclass(frozen=True)
class Reversed(AxisMap):
    """The axis read backwards: V = W[::-1]."""

    def pull(self, array: Array, axis: int, value: Array | None) -> Array:
        return jnp.flip(array, axis)


def _times(array: Array, value: Array | None, shape: Sequence[int], divides: bool) -> Array:
    """An array times a factor of this shape, or divided by it."""
    assert value is not None
    factor = value.reshape(shape).astype(array.dtype)
    return array / factor if divides else array * factor


class View(NamedTuple):
    """How a value holds the entries of one parameter; static.

    Attributes:
        leaf: which parameter.
        shape: its shape.
        axes: what of the parameter lies along each axis of the value.
        maps: the linear maps from the parameter to the value, in this order.
        values: for each map the number under which a run of the program keeps what it needs; None if it needs nothing.
        loops: for each loop around it, outermost first, the axis of the parameter that the loop runs over, or None.
    """

    leaf: int
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    maps: tuple[LinearMap, ...] = ()
    values: tuple[int | None, ...] = ()
    loops: tuple[int | None, ...] = ()

    def mapped(self, new: LinearMap, axis: int | None = None) -> "View":
        """The view behind one more map, along an axis of the value that holds one axis of the parameter in full."""
        behind = self._replace(maps=(*self.maps, new), values=(*self.values, None))
        if axis is None:
            return behind
        (atom,) = self.axes[axis]
        size = new.length(atom.size)
        axes = list(self.axes)
        # Behind a map the axis has entries of its own, counted from 0.
        axes[axis] = (Atom(atom.label, 1, size),) if size != 1 else ()
        return behind._replace(axes=tuple(axes))

    def with_value(self, number: int) -> "View":
        """The same, with the number of what its last map needs."""
        return self._replace(values=(*self.values[:-1], number))

    def in_loop(self, runs_over_it: bool) -> "View":
        """The view inside a loop: the same in every iteration, or one entry of its first axis in each."""
        if not runs_over_it:
            return self._replace(loops=(*self.loops, None))
        first = self.axes[0]
        return self._replace(axes=self.axes[1:], loops=(*self.loops, first[0].label if first else None))

    def whole(self, axis: int) -> int | None:
        """The axis of the parameter that lies along an axis of the value, in full; None if it is another thing."""
        atoms = self.axes[axis]
        if len(atoms) != 1 or atoms[0].size != self.length(atoms[0].label):
            return None
        return atoms[0].label

    def length(self, label: int) -> int:
        """The length of an axis of the parameter behind all maps."""
        n = self.shape[label]
        for step in self.maps:
            if step.label == label:
                n = step.length(n)
        return n

    @property
    def window_places(self) -> dict[int, int]:
        """Where among the maps the slices of the parameter itself are, before any other map of their axis; by axis."""
        first: dict[int, int] = {}
        for place, step in enumerate(self.maps):
            if step.label is not None:
                first.setdefault(step.label, place)
        return {label: place for label, place in sorted(first.items()) if isinstance(self.maps[place], Window)}

    @property
    def windows(self) -> tuple[Window, ...]:
        """These slices."""
        steps = (self.maps[place] for place in self.window_places.values())
        return tuple(step for step in steps if isinstance(step, Window))


def view_of(leaf: int, shape: tuple[int, ...]) -> View:
    """The parameter itself."""
    return View(leaf, shape, tuple((Atom(axis, 1, n),) if n != 1 else () for axis, n in enumerate(shape)))


def regrouped(axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...] | None:
    """The axes of a reshaped value; None if an atom cannot be cut where the new shape asks for it."""
    atoms = [atom for axis in axes for atom in axis]
    groups: list[Axis] = []
    for n in shape:
        group: list[Atom] = []
        missing = n
        while missing > 1:
            if not atoms:
                return None
            label, stride, size = atoms.pop(0)
            if missing % size == 0:
                group.append(Atom(label, stride, size))
                missing //= size
            elif size % missing == 0:
                # What is missing is the outer part of the atom, whose entries lie `inner` of the old ones apart; the
                # rest is left over.
                inner = size // missing
                group.append(Atom(label, stride * inner, missing))
                atoms.insert(0, Atom(label, stride, inner))
                missing = 1
            else:
                return None
        groups.append(tuple(group))
    return None if atoms else tuple(groups)


def pull(
    array: Array, axes: Sequence[Axis], view: View, values: Sequence[Array | None], scaled: bool, shared: Sequence[int]
) -> tuple[Array, tuple[int, ...]]:
    """One factor of the cotangent of a parameter, from that of a view of it.

    Args:
        array: δ or h.
        axes: what lies along its axes: atoms of the view, or positions.
        view: how the value holds the parameter.
        values: for each map of the view what it needs at run time.
        scaled: whether this factor takes the maps that must be applied once: scales, and diagonals of shared axes.
        shared: the axes of the parameter that both factors have.

    Returns:
        The factor and the labels of its axes.

    Examples:
        W of shape (3, 4), sliced, transposed and multiplied: V = 2 W[1:3].T and y = V h for h of length 2, so that the
        cotangent of V is δ hᵀ with δ of length 4. The cotangent of W[1:3] is 2 h δᵀ: one factor takes the 2, and the
        slice is left to who adds up the parts of W.

        >>> import jax.numpy as jnp
        >>> from noise_equilibrium._per_sample._linear_view import Scale, Window, pull, view_of
        >>> view = view_of(0, (3, 4)).mapped(Window(0, start=1, size=2, stride=1, full=3), axis=0)
        >>> view = view._replace(axes=view.axes[::-1]).mapped(Scale())
        >>> rows, columns = view.axes  # of V: axis 1 of W, and what is left of its axis 0
        >>> values = [None, jnp.array(2.0)]  # a window needs nothing, a scale its number
        >>> delta, labels = pull(jnp.ones(4), [rows], view, values, scaled=False, shared=())
        >>> delta.tolist(), labels
        ([1.0, 1.0, 1.0, 1.0], (1,))
        >>> h, labels = pull(jnp.array([5.0, 7.0]), [columns], view, values, scaled=True, shared=())
        >>> h.tolist(), labels
        ([10.0, 14.0], (0,))
    """
    atoms = [atom for axis in axes for atom in axis]
    labels = tuple(dict.fromkeys(atom.label for atom in atoms))
    # Of the atoms of one axis that with the largest stride first: this is the order of its entries.
    order = sorted(range(len(atoms)), key=lambda i: (labels.index(atoms[i].label), -atoms[i].stride))
    lengths = [math.prod(atom.size for atom in atoms if atom.label == label) for label in labels]
    array = array.reshape([atom.size for atom in atoms]).transpose(order).reshape(lengths)
    kept = view.window_places.values()
    for place, (step, value) in reversed(list(enumerate(zip(view.maps, values, strict=True)))):
        # A number, or a factor along an axis that both δ and h have, must be applied once and not twice.
        once = step.label is None or (isinstance(step, Rescale) and step.label in shared)
        if (once and not scaled) or place in kept:
            continue
        if step.label is None:
            array = step.pull(array, 0, value)
        elif step.label in labels:
            array = step.pull(array, labels.index(step.label), value)
    return array, labels


def can_pull(view: View, output: Sequence[Axis], other: Sequence[Axis]) -> bool:
    """Whether the cotangent of a parameter is an outer product of what `pull` makes of the two factors.

    That asks of every axis of the parameter that one factor has it in full, or both of them the same of it, or that it
    is not there any more because one entry was taken.

    Examples:
        W of shape (3, 4), sliced, transposed and multiplied, y = W[1:3].T @ h: δ has axis 1 of W in full, and h all of
        axis 0 that the slice left. With y = W.reshape(6, 2) @ h it is not so: δ has one half of axis 1, h the other.

        >>> from noise_equilibrium._per_sample._linear_view import Window, can_pull, regrouped, view_of
        >>> whole = view_of(0, (3, 4))
        >>> view = whole.mapped(Window(0, start=1, size=2, stride=1, full=3), axis=0)
        >>> can_pull(view, output=[view.axes[1]], other=[view.axes[0]])
        True
        >>> six, two = regrouped(whole.axes, (6, 2))
        >>> two
        (Atom(label=1, stride=1, size=2),)
        >>> can_pull(whole, output=[six], other=[two])
        False
    """
    lengths = [_lengths(axes) for axes in (output, other)]
    for label, n in enumerate(view.shape):
        maps = [step for step in view.maps if step.label == label]
        found = [mine[label] for mine in lengths if label in mine]
        # Every turn of the loop has one entry of this axis, so neither factor may have it along with the turns.
        if label in view.loops:
            possible = not found and not maps
        elif found:  # in one factor, or in both; all of it, not a piece in each
            # Where both factors have the axis the cotangent is their product entry by entry, and Bᵀ of a product of
            # entries is none.
            products = any(isinstance(step, Product) for step in maps)
            possible = all(size == view.length(label) for size in found) and not (len(found) == 2 and products)
        else:  # not there any more: it has one entry, or one was taken
            possible = n == 1 or (maps == [step for step in view.windows if step.label == label] != [])
        if not possible:
            return False
    return True


def _lengths(axes: Sequence[Axis]) -> dict[int, int]:
    """The length of each label along the axes of an array."""
    lengths: dict[int, int] = {}
    for atom in (atom for axis in axes for atom in axis):
        lengths[atom.label] = lengths.get(atom.label, 1) * atom.size
    return lengths
