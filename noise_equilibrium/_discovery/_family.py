"""A family: parts of parameters that are scaled together, and how slices become parts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ._part import Part, Range, whole


@dataclass(frozen=True)
class Family:
    """Parts of one length d that are scaled together, entry by entry: part p by e^{w_p b_j} for each j ≤ d.

    Attributes:
        parts: the parts and their weights w.
        violation: the root mean square of Σ_p w_p t_p, relative to its terms.
        gap: by how many times the next larger singular value exceeds it.
        size: k, if entries (a, κ, b) of the d = A·k·B allow any symmetric k × k matrix on κ for each (a, b); 1 if only
            diagonal ones.
        inner: B.
    """

    parts: tuple[tuple[Part, float], ...]
    violation: float
    gap: float
    size: int = 1
    inner: int = 1

    @property
    def length(self) -> int:
        return self.parts[0][0].length

    @property
    def overlaps(self) -> bool:
        """Whether an entry of a parameter is scaled twice."""
        return not disjoint([part for part, _ in self.parts])


def disjoint(parts: Sequence[Part]) -> bool:
    """Whether no entry of a parameter is in two parts; parts along different axes of one always meet."""
    seen: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        seen[part.leaf].append(part)
    for of_leaf in seen.values():
        if len({part.axes for part in of_leaf}) > 1:
            return False
        entries = np.concatenate([part.indices.ravel() for part in of_leaf])
        if len(np.unique(entries)) < len(entries):
            return False
    return True


def whole_of(leaf: int) -> Part:
    """A parameter as a whole."""
    return whole(leaf, (), 1)


def merged(
    chosen: list[tuple[Part, float]], parameter_shapes: Sequence[tuple[int, ...]]
) -> tuple[tuple[Part, float], ...]:
    """Slices with the same weight put together, where they fill ranges."""
    groups: dict[tuple, list[Part]] = defaultdict(list)
    for part, weight in chosen:
        groups[part.leaf, part.axes, part.shape, weight].append(part)
    found = []
    for (*_, weight), parts in groups.items():
        found += [(part, weight) for part in boxes(parts)]
    simple = [(part.simplified(parameter_shapes[part.leaf]), weight) for part, weight in found]
    return tuple(sorted(simple, key=lambda one: (one[0].leaf, one[0].axes, one[0].ranges)))


def boxes(parts: list[Part]) -> list[Part]:
    """Parts of one shape, joined wherever their ranges touch along one factor and agree in the others."""
    for factor in (2, 1, 0):
        groups: dict[tuple, list[Part]] = defaultdict(list)
        for part in parts:
            groups[tuple(bounds for place, bounds in enumerate(part.ranges) if place != factor)].append(part)
        parts = []
        for group in groups.values():
            group.sort(key=lambda part: part.ranges[factor])
            current = group[0]
            for part in group[1:]:
                if part.ranges[factor][0] == current.ranges[factor][1]:
                    current = _with_range(current, factor, (current.ranges[factor][0], part.ranges[factor][1]))
                else:
                    parts.append(current)
                    current = part
            parts.append(current)
    return parts


def _with_range(part: Part, factor: int, bounds: Range) -> Part:
    first, second, third = (bounds if place == factor else own for place, own in enumerate(part.ranges))
    return replace(part, ranges=(first, second, third))
