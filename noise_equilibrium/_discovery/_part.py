"""A part of a parameter: the entries along some of its axes that a scaling treats alike or apart."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int, int, int, int]
Range = tuple[int, int]

MOST_BESIDE = 8  # slices of several axes taken together; more of them only multiply the columns


@dataclass(frozen=True)
class Part:
    """Entries of some axes of a parameter, read as (C1, A, C2, B, C3) in row-major order.

    Of the d = A·B entries (a, b) each has a number of its own; what the ranges of C1, C2, C3 select shares it.

    Attributes:
        leaf: the position of the parameter among the parameters.
        axes: the axes, in order; none for the whole parameter.
        shape: (C1, A, C2, B, C3), whose product is that of the lengths of the axes.
        ranges: what is selected of C1, C2 and C3.
    """

    leaf: int
    axes: tuple[int, ...]
    shape: Shape
    ranges: tuple[Range, Range, Range]

    @property
    def length(self) -> int:
        """d, the number of entries with a number of their own."""
        return self.shape[1] * self.shape[3]

    @property
    def is_whole(self) -> bool:
        """Whether it takes every entry of its axes."""
        return all(bounds == (0, self.shape[place]) for place, bounds in zip((0, 2, 4), self.ranges, strict=True))

    @property
    def count(self) -> int:
        """The number of entries of the axes that share a number."""
        return math.prod(stop - start for start, stop in self.ranges)

    @functools.cached_property
    def indices(self) -> np.ndarray:
        """(d, count): the entries of the axes, flattened, that belong to each of the d numbers."""
        entries = np.arange(math.prod(self.shape)).reshape(self.shape)[self._selection]
        return entries.transpose(1, 3, 0, 2, 4).reshape(self.length, -1)

    @property
    def _selection(self) -> tuple[slice, ...]:
        first, second, third = (slice(*bounds) for bounds in self.ranges)
        return first, slice(None), second, slice(None), third

    def slices(self) -> Iterator["Part"]:
        """The parts that select one index of each range."""
        for at in itertools.product(*(range(start, stop) for start, stop in self.ranges)):
            first, second, third = ((place, place + 1) for place in at)
            yield Part(self.leaf, self.axes, self.shape, (first, second, third))

    def simplified(self, shape: tuple[int, ...]) -> "Part":
        """The same part without axes that it takes as a whole and does not tell apart, given the parameter's shape."""
        axes, (c1, a, c2, b, c3), ranges = list(self.axes), self.shape, list(self.ranges)
        if self.length == 1 and self.is_whole:
            return whole(self.leaf, (), 1)
        while axes and ranges[2] == (0, c3) and c3 % shape[axes[-1]] == 0 and c3 > 1:
            c3 //= shape[axes.pop()]
            ranges[2] = (0, c3)
        while axes and ranges[0] == (0, c1) and c1 % shape[axes[0]] == 0 and c1 > 1:
            c1 //= shape[axes.pop(0)]
            ranges[0] = (0, c1)
        return Part(self.leaf, tuple(axes), (c1, a, c2, b, c3), (ranges[0], ranges[1], ranges[2]))

    def column(self, marginal: np.ndarray) -> np.ndarray:
        """(rows, d): sums over what shares a number, of a marginal (rows, entries of the axes)."""
        split = marginal.reshape(len(marginal), *self.shape)[(slice(None), *self._selection)]
        return split.sum(axis=(1, 3, 5)).reshape(len(marginal), self.length)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """(d, m): the entries of a parameter by number, in a matrix."""
        view = self._view(array)[self._selection]
        return view.transpose(1, 3, 0, 2, 4, 5).reshape(self.length, -1)

    def scatter(self, array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The parameter with these entries replaced: the inverse of `gather`."""
        front = np.moveaxis(array, self.axes, range(len(self.axes)))
        copy = np.array(front, order="C", copy=True)
        view = copy.reshape(*self.shape, -1)
        taken = view[self._selection]
        order = tuple(taken.shape[place] for place in (1, 3, 0, 2, 4, 5))
        view[self._selection] = matrix.reshape(order).transpose(2, 0, 3, 1, 4, 5)
        return np.moveaxis(copy, range(len(self.axes)), self.axes)

    def _view(self, array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, self.axes, range(len(self.axes))).reshape(*self.shape, -1)


def whole(leaf: int, axes: tuple[int, ...], length: int) -> Part:
    """Every entry of some axes, each with a number of its own."""
    return Part(leaf, axes, (1, 1, 1, length, 1), ((0, 1), (0, 1), (0, 1)))


def divisors(number: int) -> list[int]:
    """The divisors of a number, in increasing order."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


@functools.cache
def shapes(total: int, length: int, style: str) -> tuple[Shape, ...]:
    """The ways to read `total` entries as (C1, A, C2, B, C3) with A·B = length.

    Args:
        total: the number of entries.
        length: d, a divisor of it.
        style: "ends" (contiguous, and strided over everything), "simple" (also one shared factor in the middle) or
            "all".
    """
    others = total // length
    if length == 1:
        return ((total, 1, 1, 1, 1),)
    plain = [(c, 1, 1, length, others // c) for c in divisors(others)]
    if style == "ends":
        return tuple(dict.fromkeys([plain[-1], plain[0]]))
    splits = [(a, length // a) for a in divisors(length)[1:-1]]
    if style == "simple":
        middle = [(1, a, others, b, 1) for a, b in splits if others > 1]
        return tuple(dict.fromkeys([plain[-1], plain[0], *middle]))
    triples = [
        (first, second, others // first // second) for first in divisors(others) for second in divisors(others // first)
    ]
    middle = [(first, a, second, b, third) for first, second, third in triples if second > 1 for a, b in splits]
    return (*reversed(plain), *middle)


def is_chain(numbers: set[int]) -> bool:
    """Whether each of the numbers divides the next larger one."""
    ordered = sorted(numbers)
    return all(large % small == 0 for small, large in itertools.pairwise(ordered))


def cuts(lengths: tuple[int, ...]) -> set[int]:
    """The products of the last factors, of all numbers of them: where factors begin and end."""
    return {math.prod(lengths[place:]) for place in range(len(lengths) + 1)}


def parts_of(leaf: int, axes: tuple[int, ...], lengths: tuple[int, ...], d: int, style: str) -> list[Part]:
    """The parts of length d of some axes of a parameter: single slices, or with the style "pooled" all slices together.

    Args:
        leaf: the position of the parameter.
        axes: the axes.
        lengths: their lengths.
        d: the length wanted.
        style: see `shapes`; or "pooled".
    """
    pooled = style == "pooled"
    found = []
    for shape in readings(lengths, d, "ends" if pooled else style):
        every = Part(leaf, axes, shape, ((0, shape[0]), (0, shape[2]), (0, shape[4])))
        found += [every] if pooled else every.slices()
    return found


def readings(lengths: tuple[int, ...], d: int, style: str) -> list[Shape]:
    """The ways to read axes of these lengths with d entries acted on; none for many slices of several axes."""
    total = math.prod(lengths)
    if total % d or (len(lengths) > 1 and total // d > MOST_BESIDE):
        return []
    return [shape for shape in shapes(total, d, style) if len(lengths) <= 1 or is_chain(cuts(shape) | cuts(lengths))]
