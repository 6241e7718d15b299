"""Scalings that nearly are symmetries: what is broken, and by how much."""

import math
from collections.abc import Iterator

import numpy as np

from ._family import Family, merged
from ._null_space import MARGIN, rational
from ._part import Part, parts_of, whole
from ._search import SILENT, Search

NEAR = 0.3  # of the size of the terms: what is broken by more is not called near
CLOSE = 0.01  # what is broken by more than this is listed only for whole axes and equal powers: the rest are accidents
NEARLY_INVARIANT = 0.02  # of the slope without cancellation
PARTNERS = 4  # the most parts that are looked for to compensate one
HELPS = 0.8  # a further part lowers the rest at least by this factor
MOST = 300  # parts of one length that are compared


def near_misses(search: Search) -> list[Family]:
    """Families that are no symmetries and would be if their violation were zero, the least broken first.

    Looks at whole axes and pooled ones that no symmetry moves; adds what it finds to the relations of the search, so
    that consequences are not listed.
    """
    found: list[Family] = []
    explained = search.explained()
    places = [place for place in search.places() if place not in explained and len(place[1]) <= 1]
    lengths = {math.prod(search.axis_lengths(place)) for place in places}
    divisors = {d for length in lengths for d in range(1, length + 1) if length % d == 0}
    for d in sorted(divisors, reverse=True):
        parts = _candidates(search, d)
        for part in parts:
            slope, gross, noise = search.sizes(part)
            if (
                noise <= SILENT * gross
                and MARGIN * noise < slope <= NEARLY_INVARIANT * gross
                and not search.is_known(part)
            ):
                simple = part.simplified(search.shapes[part.leaf])
                found.append(Family(((simple, 1.0),), slope / gross, 1.0))
                search.relations.add_family(found[-1].parts)
        found += _near_related(search, parts[:MOST])
    return sorted(found, key=lambda family: family.violation)


def _candidates(search: Search, d: int) -> list[Part]:
    explained = search.explained()
    found = []
    for leaf, axes in search.places():
        lengths = search.axis_lengths((leaf, axes))
        if len(axes) > 1 or (leaf, axes) in explained or math.prod(lengths) % d or (d == 1) != (axes == ()):
            continue
        found += [whole(leaf, axes, d)] if math.prod(lengths) == d else parts_of(leaf, axes, lengths, d, "pooled")
    return found


def _near_related(search: Search, parts: list[Part]) -> list[Family]:
    sized = [(part, search.sizes(part)) for part in parts]
    sized = [(part, slope) for part, (slope, gross, noise) in sized if slope > MARGIN * noise and gross > 0]
    if len(sized) < 2:
        return []
    columns = [search.marginals.slope[part.leaf, part.axes] for part, _ in sized]
    matrix = np.stack(
        [part.column(column).ravel() / size for (part, size), column in zip(sized, columns, strict=True)], 1
    )
    found = []
    for place in range(len(sized)):
        tried = [
            _family(search, sized, matrix, chosen) for chosen in _pursuit(matrix, place, [p.leaf for p, _ in sized])
        ]
        valid = [family for family in tried if family is not None]
        if not valid:
            continue
        family = min(valid, key=lambda family: family.violation)
        if not search.follows(family):
            search.relations.add_family(family.parts)
            found.append(family)
    return found


def _family(search: Search, sized: list[tuple[Part, float]], matrix: np.ndarray, chosen: list[int]) -> Family | None:
    """The family of some columns with whole numbers for weights, if it is nearly a symmetry."""
    sizes = np.array([sized[one][1] for one in chosen])
    solution = np.linalg.lstsq(matrix[:, chosen[1:]], matrix[:, chosen[0]], rcond=None)[0]
    weights = rational(np.concatenate([[1.0], -solution]) / sizes, 0.4, 1)
    if weights is None:
        return None
    terms = matrix[:, chosen] * (weights * sizes)
    violation = float(np.sqrt(np.mean(terms.sum(axis=1) ** 2) / np.mean(np.sum(terms**2, axis=1))))
    plain = any(sized[one][0].axes and sized[one][0].is_whole and sized[one][0].count == 1 for one in chosen)
    plain &= len(set(np.abs(weights))) == 1
    if violation > NEAR or (violation > CLOSE and not plain):
        return None
    parts = [(sized[one][0], float(weight)) for one, weight in zip(chosen, weights, strict=True)]
    return Family(merged(parts, search.shapes), violation, 1.0)


def _pursuit(matrix: np.ndarray, place: int, leaves: list[int]) -> Iterator[list[int]]:
    """A column and one, two, … of other parameters, one each, whose combination comes nearest to it."""
    chosen, rest = [place], matrix[:, place]
    for _ in range(PARTNERS):
        free = [one for one in range(matrix.shape[1]) if leaves[one] not in {leaves[other] for other in chosen}]
        if not free:
            return
        best = free[int(np.argmax(np.abs(rest @ matrix[:, free])))]
        tried = matrix[:, [*chosen[1:], best]]
        left = matrix[:, place] - tried @ np.linalg.lstsq(tried, matrix[:, place], rcond=None)[0]
        if np.linalg.norm(left) > HELPS * np.linalg.norm(rest):
            return
        chosen, rest = [*chosen, best], left
        yield chosen
