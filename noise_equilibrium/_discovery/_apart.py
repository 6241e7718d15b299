"""Scalings that move an entry twice, one index at a time: A → D A D⁻¹ as a symmetry of numbers for each entry of D.

In a `Symmetry` every entry is in one leg, so that the equations of the d numbers do not depend on each other. Those of
D do: A_ij is multiplied by D_i / D_j. One at a time, the powers of an entry add up, and boxes of one power are legs.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ._describe import Factor, LegText
from ._family import Family

MOST_APART = 32  # numbers that are written one by one; a joint equilibrium of more takes minutes to compile
MOST_LEGS = 16  # of one of them; parts that are strided in an axis would need many


def legs_apart(family: Family, shapes: Sequence[tuple[int, ...]]) -> list[list[LegText]] | None:
    """For each of the numbers of a family the legs that it scales; None if it would take too many."""
    if family.length > MOST_APART:
        return None
    leaves = sorted({part.leaf for part, _ in family.parts})
    found = []
    for number in range(family.length):
        legs = [
            leg for leaf in leaves for leg in _boxes(leaf, _powers(family, leaf, shapes[leaf], number), shapes[leaf])
        ]
        if len(legs) > MOST_LEGS:
            return None
        found.append(legs)
    return found


def _powers(family: Family, leaf: int, shape: tuple[int, ...], number: int) -> np.ndarray:
    """The power of one number of a family at every entry of a parameter."""
    powers = np.zeros(shape)
    for part, weight in family.parts:
        if part.leaf == leaf:
            rows = part.gather(powers).copy()
            rows[number] += weight
            powers = part.scatter(powers, rows)
    return powers


def _boxes(leaf: int, powers: np.ndarray, shape: tuple[int, ...]) -> Iterator[LegText]:
    """Boxes of entries with one power, other than 0: between the places on each axis where powers change."""
    edges = []
    for axis, length in enumerate(shape):
        slices = np.moveaxis(powers, axis, 0).reshape(length, -1)
        changes = np.flatnonzero(np.any(slices[1:] != slices[:-1], axis=1)) + 1
        edges.append(list(itertools.pairwise([0, *changes.tolist(), length])))
    for box in itertools.product(*edges):
        power = float(powers[tuple(start for start, _ in box)])
        if power:
            yield LegText(
                leaf, power, tuple((Factor(length, "_", bounds),) for length, bounds in zip(shape, box, strict=True))
            )
