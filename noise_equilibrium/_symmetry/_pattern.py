"""Patterns: the axes of a parameter read as products of factors, of which a leg acts on one.

A pattern has an item for every axis, or several in parentheses, outermost first, as einops writes them:

    *       is acted on
    name    carries an element each: a block, such as heads or layers
    _       shares the element

each followed by its length, if that is not left open (`*16`, `head=4`, `_3`), and by a range of it (`[0]`, `[1:3]`).
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ACTED, SHARED = "*", "_"

_ITEM = re.compile(
    r"(?:(?P<mark>[*_])(?P<length>\d+)?|(?P<name>[^\W\d_]\w*)(?:=(?P<count>\d+))?)"
    r"(?:\[(?:(?P<index>\d+)|(?P<start>\d*):(?P<stop>\d*))\])?"
)


class Factor(NamedTuple):
    """One factor of an axis; static.

    Attributes:
        role: ACTED, SHARED, or the name of a block.
        length: how many indices it has; None while that is open.
        start: the first of them that belongs to the leg.
        stop: the one behind the last; None for the end.
    """

    role: str
    length: int | None
    start: int = 0
    stop: int | None = None

    @property
    def width(self) -> int:
        """How many indices belong to the leg."""
        assert self.stop is not None
        return self.stop - self.start

    @property
    def is_block(self) -> bool:
        return self.role not in (ACTED, SHARED)

    @property
    def is_part(self) -> bool:
        """Whether some indices do not belong to the leg."""
        return (self.start, self.stop) not in [(0, None), (0, self.length)]

    def __str__(self) -> str:
        length = "" if self.length is None else f"={self.length}" if self.is_block else f"{self.length}"
        one = self.stop == self.start + 1
        cut = f"[{self.start}]" if one else f"[{self.start}:{'' if self.stop is None else self.stop}]"
        return self.role + length + cut * self.is_part


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def whole(role: str, length: int) -> Factor:
    """A factor that belongs to the leg in full."""
    return Factor(role, length, 0, length)


def spelled(axis: Axis) -> str:
    """An axis as a pattern writes it."""
    inside = " ".join(map(str, axis))
    return inside if len(axis) == 1 else f"({inside})"


def factors(axes: Axes) -> Axis:
    """The factors of all axes, in row-major order."""
    return tuple(factor for axis in axes for factor in axis)


def parse(pattern: str) -> Axes:
    """Read a pattern; lengths may be open.

    Raises:
        ValueError: for what is not a pattern.
    """
    groups = re.findall(r"\([^()]*\)|[^\s()]+", pattern)
    if not groups or re.sub(r"\([^()]*\)|[^\s()]+|\s", "", pattern):
        raise ValueError(
            f"axis is {pattern!r}; expected an item for every axis, separated by blanks, with parentheses around "
            "the factors of one axis, such as '(head=4 *) _'."
        )
    axes = tuple(tuple(_item(item, pattern) for item in group.strip("()").split()) for group in groups)
    roles = [factor.role for factor in factors(axes)]
    for role in roles:
        if role != SHARED and roles.count(role) > 1:
            kind = "the factor that is acted on" if role == ACTED else "a block"
            raise ValueError(f"axis is {pattern!r}, with {role!r} in it twice; expected {kind} once.")
    for axis in axes:
        if not axis:
            raise ValueError(f"axis is {pattern!r}, with empty parentheses; expected '_' for an axis that is shared.")
        if sum(factor.length is None for factor in axis) > 1:
            raise ValueError(
                f"axis is {pattern!r}, where {spelled(axis)} leaves several lengths open; expected at most one open "
                "length in an axis: '*16', 'head=4' and '_3' have lengths."
            )
    return axes


def _item(item: str, pattern: str) -> Factor:
    found = _ITEM.fullmatch(item)
    if found is None:
        raise ValueError(
            f"axis is {pattern!r}, with the item {item!r}; expected '*', '_' or a name, then a length ('*16', '_3', "
            "'head=4'), then an index or a range of it in brackets ('_3[0]', '*96[0:64]')."
        )
    given = found.groupdict()
    length = next((int(given[key]) for key in ("length", "count") if given[key]), None)
    start, stop = int(given["start"] or 0), int(given["stop"]) if given["stop"] else None
    if given["index"] is not None:
        start, stop = int(given["index"]), int(given["index"]) + 1
    factor = Factor(given["mark"] or given["name"], length, start, stop)
    _require_range(factor, f"axis is {pattern!r}")
    return factor


def _require_range(factor: Factor, where: str) -> None:
    stop = factor.length if factor.stop is None else factor.stop
    if factor.length == 0 or (stop is not None and not factor.start < stop <= (factor.length or stop)):
        raise ValueError(f"{where}, where {factor} is empty or goes beyond its length; expected indices of the factor.")


def fit(axes: Axes, shape: Sequence[int], name: str) -> Axes:
    """A pattern with the lengths of a parameter filled in.

    Raises:
        ValueError: if it does not fit the shape.
    """
    text = " ".join(map(spelled, axes))
    if len(axes) != len(shape):
        raise ValueError(
            f"a leg reads {name}, which has shape {tuple(shape)}, as {text!r}, with {len(axes)} items; expected one "
            f"for each of its {len(shape)} axes: '_' for those that are shared, parentheses around factors of one axis."
        )
    return tuple(
        _fitted(axis, n, f"a leg reads axis {place} of {name}, of length {n}, as {spelled(axis)}")
        for place, (axis, n) in enumerate(zip(axes, shape, strict=True))
    )


def _fitted(axis: Axis, n: int, where: str) -> Axis:
    known = math.prod(factor.length for factor in axis if factor.length is not None)
    is_open = any(factor.length is None for factor in axis)
    if n % known or (not is_open and known != n):
        raise ValueError(
            f"{where}; expected lengths whose product {'divides' if is_open else 'is'} {n}, and theirs is {known}."
        )
    filled = []
    for factor in axis:
        length = n // known if factor.length is None else factor.length
        factor = factor._replace(length=length, stop=length if factor.stop is None else factor.stop)
        _require_range(factor, where)
        filled.append(factor)
    return tuple(filled)


def acted_axis(axes: Axes) -> int | None:
    """The first axis with a factor that is acted on."""
    return next((place for place, axis in enumerate(axes) if any(one.role == ACTED for one in axis)), None)


def meet(first: Axes, second: Axes) -> bool:
    """Whether two readings of one parameter have an entry in common: they do if they have one along every axis."""
    return all(
        a == b or np.any(_inside(a, _indices(a)) & _inside(b, _indices(b))) for a, b in zip(first, second, strict=True)
    )


def tells_apart_what_is_mixed(axes: Axes, by_index: bool, mixing: Axes) -> bool:
    """Whether a leg multiplies indices differently that a matrix on another leg of the parameter mixes.

    Args:
        axes: how the leg reads the parameter.
        by_index: whether it tells apart the indices that it acts on, not only the blocks.
        mixing: how the leg of the matrix does.
    """
    place = acted_axis(mixing)
    if place is None:
        return False
    axis, mixed = axes[place], mixing[place]
    ours, theirs = _indices(axis), _indices(mixed)
    inside = _inside(axis, ours)
    told = [
        inside * index
        for one, index in zip(axis, ours, strict=True)
        if one.is_block or (by_index and one.role == ACTED)
    ]
    together = [index for one, index in zip(mixed, theirs, strict=True) if one.role != ACTED]
    seen = np.stack([np.zeros_like(inside), *together, inside, *told])[:, _inside(mixed, theirs)]
    classes = seen[: 1 + len(together)]
    return np.unique(seen, axis=1).shape != (len(seen), np.unique(classes, axis=1).shape[1])


def window_of(axis: Axis, start: int, size: int, by_index: bool) -> tuple[Axis, dict[str, int]] | None:
    """An axis as it is read in a window of it.

    Args:
        axis: how it is read.
        start: where the window begins.
        size: how long it is.
        by_index: whether indices that are acted on are told apart.

    Returns:
        How the window is read, and for each block at which of its indices that begins; no indices belong to the leg if
        the leg is not in the window. None if the window is not a product of factors, or cuts what is acted on.
    """
    read: list[Factor] = []
    offsets: dict[str, int] = {}
    for place, factor in enumerate(axis):
        inner = math.prod(one.length for one in axis[place + 1 :] if one.length is not None)
        first, start = divmod(start, inner)
        fits = start == 0 and size % inner == 0
        count = size // inner if fits else 1
        if not fits and start + size > inner:
            return None
        low = min(max(factor.start, first), first + count)
        high = max(min(factor.start + factor.width, first + count), low)
        if factor.role == ACTED and by_index and high - low not in (0, factor.width):
            return None
        if factor.is_block:
            offsets[factor.role] = low - factor.start
        read.append(Factor(factor.role, count, low - first, high - first))
        if fits:
            return (*read, *axis[place + 1 :]), offsets
    return tuple(read), offsets


def _indices(axis: Axis) -> np.ndarray:
    """The index in each factor, in rows, for every index of an axis."""
    lengths = [factor.length for factor in axis]
    return np.indices(lengths).reshape(len(axis), math.prod(lengths))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _inside(axis: Axis, indices: np.ndarray) -> np.ndarray:
    """Whether each index of an axis belongs to the leg."""
    starts, widths = ([[getattr(factor, name)] for factor in axis] for name in ("start", "width"))
    return np.all((indices >= starts) & (indices < np.add(starts, widths)), axis=0)
