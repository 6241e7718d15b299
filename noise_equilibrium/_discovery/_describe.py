"""A family of parts in the language of legs: axes and patterns, and words."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import PyTree

from ._family import Family
from ._part import Part, is_chain


@dataclass(frozen=True)
class LeafAt:
    """Selects one leaf of a tree by its place."""

    place: int
    path: str

    def __call__(self, tree: PyTree) -> Any:
        return jax.tree_util.tree_leaves(tree)[self.place]

    def __repr__(self) -> str:
        return f"<{self.path}>"


@dataclass(frozen=True)
class Factor:
    """A factor of an axis.

    Attributes:
        length: its length.
        name: "*", "_" or the name of a block.
        bounds: the range of it that is taken.
    """

    length: int
    name: str
    bounds: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        return self.bounds == (0, self.length)

    def text(self, alone: bool) -> str:
        joint = "=" if self.name not in ("*", "_") else ""
        length = "" if self.is_whole and (alone or self.name == "*") else f"{joint}{self.length}"
        start, stop = self.bounds
        taken = "" if self.is_whole else f"[{start}]" if stop == start + 1 else f"[{start}:{stop}]"
        return f"{self.name}{length}{taken}"


@dataclass(frozen=True)
class LegText:
    """A leg: a parameter, a power, and for each axis of the parameter its factors."""

    leaf: int
    power: float
    axes: tuple[tuple[Factor, ...], ...]

    @property
    def pattern(self) -> str:
        """As einops writes it."""
        items = []
        for factors in self.axes:
            texts = [factor.text(alone=len(factors) == 1) for factor in factors]
            items.append(texts[0] if len(texts) == 1 else f"({' '.join(texts)})")
        return " ".join(items)

    @property
    def whole_axis(self) -> tuple[int, int] | None:
        """The axis and the number of blocks, if that is all there is to say; the axis −1 for a whole parameter."""
        acted = [(axis, factors) for axis, factors in enumerate(self.axes) if any(f.name != "_" for f in factors)]
        if any(not factor.is_whole for factors in self.axes for factor in factors):
            return None
        if not acted:
            return -1, 1
        if len(acted) > 1:
            return None
        ((axis, factors),) = acted
        names = [factor.name for factor in factors if factor.length > 1 or factor.name == "*"]
        if names == ["*"] and len(factors) == 1:
            return axis, 1
        if len(factors) == 2 and factors[1].name == "*" and factors[0].name != "_":
            return axis, factors[0].length
        return None


def leg_texts(family: Family, shapes: Sequence[tuple[int, ...]]) -> list[LegText] | None:
    """The legs of a family, or None if its parts cannot be read as products of common factors."""
    d, size, inner = family.length, family.size, family.inner
    acted_cuts = {1, d, inner, inner * size}
    for part, _ in family.parts:
        acted_cuts |= _acted_cuts(part, shapes[part.leaf])
    if not is_chain(acted_cuts):
        return None
    ordered = sorted(acted_cuts)
    if size > 1 and any(inner < cut < inner * size for cut in ordered):
        return None
    names: dict[tuple[int, int], str] = {}
    star = inner if d > 1 else 0
    blocks = [cut for cut in ordered[:-1] if cut != star]
    for cut, following in itertools.pairwise(ordered):
        number = len(blocks) - blocks.index(cut) if cut in blocks else 0
        names[cut, following] = "*" if cut == star else "block" if len(blocks) == 1 else f"block{number}"
    found = []
    for part, weight in family.parts:
        axes = _factors(part, shapes[part.leaf], names)
        if axes is None:
            return None
        found.append(LegText(part.leaf, weight, axes))
    return found


def _flat_factors(part: Part) -> list[tuple[int, int, int]]:
    """(inner, outer, which) for the factors C3, B, C2, A, C1 of a part: where each begins and ends, from the right."""
    found, inner = [], 1
    for which in (4, 3, 2, 1, 0):
        outer = inner * part.shape[which]
        found.append((inner, outer, which))
        inner = outer
    return found


def _axis_cuts(part: Part, shape: tuple[int, ...]) -> list[int]:
    lengths = [shape[axis] for axis in part.axes]
    return [math.prod(lengths[place:]) for place in range(len(lengths), -1, -1)]


def _acted_cuts(part: Part, shape: tuple[int, ...]) -> set[int]:
    """Where factors of the acted entries begin and end because of the part's reading, or of the ends of its axes."""
    cuts = {1, part.shape[3], part.length}
    for inner, outer, which in _flat_factors(part):
        if which in (1, 3):
            base = part.shape[3] if which == 1 else 1
            cuts |= {base * cut // inner for cut in _axis_cuts(part, shape) if inner < cut < outer}
    return cuts


def _factors(
    part: Part, shape: tuple[int, ...], names: dict[tuple[int, int], str]
) -> tuple[tuple[Factor, ...], ...] | None:
    axis_cuts = _axis_cuts(part, shape)
    flat: list[tuple[int, int, Factor]] = []  # from the right
    for inner, outer, which in _flat_factors(part):
        if inner == outer:
            continue
        if which in (1, 3):
            base = part.shape[3] if which == 1 else 1
            for (low, high), name in sorted(names.items()):
                if base <= low and high <= base * (outer // inner):
                    length = high // low
                    flat.append((inner * low // base, inner * high // base, Factor(length, name, (0, length))))
            continue
        cuts = sorted({inner, outer, *(cut for cut in axis_cuts if inner < cut < outer)})
        lengths = [high // low for low, high in itertools.pairwise(cuts)][::-1]
        bounds = _digits(part.ranges[(0, 2, 4).index(which)], lengths)
        if bounds is None:
            return None
        for low, high, length, taken in zip(cuts[:-1], cuts[1:], lengths[::-1], bounds[::-1], strict=True):
            flat.append((low, high, Factor(length, "_", taken)))
    by_axis: dict[int, list[Factor]] = {axis: [] for axis in part.axes}
    for low, high, factor in sorted(flat, key=lambda one: -one[0]):
        for place, axis in enumerate(reversed(part.axes)):
            if axis_cuts[place] <= low and high <= axis_cuts[place + 1]:
                by_axis[axis].append(factor)
                break
        else:
            return None
    full = {axis: factors or [Factor(1, "_", (0, 1))] for axis, factors in by_axis.items()}
    return tuple(tuple(full.get(axis, [Factor(length, "_", (0, length))])) for axis, length in enumerate(shape))


def _digits(bounds: tuple[int, int], lengths: Sequence[int]) -> list[tuple[int, int]] | None:
    """A range of a product of factors, outermost first, as a range of each; None if it is no such product."""
    start, stop = bounds
    if len(lengths) == 1 or (start, stop) == (0, math.prod(lengths)):
        return [bounds] if len(lengths) == 1 else [(0, length) for length in lengths]
    rest = math.prod(lengths[1:])
    if start % rest == 0 and stop % rest == 0:
        return [(start // rest, stop // rest), *((0, length) for length in lengths[1:])]
    if start // rest == (stop - 1) // rest:
        first = start // rest
        inner = _digits((start - first * rest, stop - first * rest), lengths[1:])
        return None if inner is None else [(first, first + 1), *inner]
    return None


def words(family: Family, texts: Sequence[LegText], names: Sequence[str]) -> str:
    """Paths, parts and group of a family in a line."""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for leg in texts:
        power = "" if abs(leg.power) == 1 else f" (power {leg.power:+g})"
        sides[leg.power > 0].append(f"{names[leg.leaf]}{_part_words(leg)}{power}")
    blocks = family.length // family.size
    if family.length == 1:
        group = "one scaling"
    elif family.size == 1:
        group = f"{family.length} scalings"
    else:
        group = f"GL({family.size})" if blocks == 1 else f"{blocks} blocks of {family.size}, GL"
    return " ↔ ".join(", ".join(side) for side in sides.values() if side) + f": {group}"


def _part_words(leg: LegText) -> str:
    at = leg.whole_axis
    if at is not None:
        axis, _ = at
        return "" if axis < 0 or len(leg.axes) == 1 else f" {_axis_words(axis, len(leg.axes))}"
    touched = [axis for axis, factors in enumerate(leg.axes) if len(factors) > 1 or factors[0].name != "_"]  # pyright: ignore[reportGeneralTypeIssues]
    span = _span(leg.axes[touched[0]]) if len(touched) == 1 else None
    if span is not None:
        return f" {_axis_words(touched[0], len(leg.axes))} {span[0]}:{span[1]}"
    return f" as {leg.pattern}"


def _axis_words(axis: int, count: int) -> str:
    return ("rows", "columns")[axis] if count == 2 else "entries" if count == 1 else f"axis {axis}"


def _span(factors: Sequence[Factor]) -> tuple[int, int] | None:
    """The entries of an axis that a leg takes, if it only takes a range and shares nothing."""
    first, rest = factors[0], factors[1:]
    if any(factor.name == "_" for factor in rest) or not all(factor.is_whole for factor in rest):
        return None
    inner = math.prod(factor.length for factor in rest)
    if first.name == "_" and first.bounds[1] - first.bounds[0] > 1:
        return None
    return first.bounds[0] * inner, first.bounds[1] * inner
