"""Scalar and diagonal symmetries that share parameters: all from one pass over the data, and then without data.

Entry (i, j) of a parameter that is scaled by e^{a_i} along one axis and by e^{b_j} along another goes as
W² ↦ e^{2(a_i + b_j)} W², and the variance of its gradient as V ↦ e^{−2(a_i + b_j)} V. So with W², V and ḡ² of single
entries known, every charge and its flow are explicit anywhere on the orbit, and the search for the point without flow
needs the data no more (theory, "Several scalar and diagonal symmetries from one measurement"). Of a parameter that one
symmetry alone moves, their sums along its axis suffice.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._noise import Moments
from .._symmetry import BoundSymmetry, ElementwiseLegs
from .._symmetry._algebra import ALGEBRAS
from .._symmetry._leg import BoundLeg
from ._turns import Ground


class Scalings(NamedTuple):
    """What is measured of some scalar and diagonal symmetries, and what they are on it; static.

    Attributes:
        terms: what is measured: symmetries of one leg each, of single entries or of sums along an axis.
        symmetries: for each symmetry the same one, with legs on the measured terms in place of the parameters.
        shapes: those of the arrays that stand for the parameters.
    """

    terms: tuple[BoundSymmetry, ...]
    symmetries: tuple[BoundSymmetry, ...]
    shapes: tuple[tuple[int, ...], ...]

    def ground(self, samples: int) -> Ground:
        """Where their joint equilibrium is searched for."""
        return Ground(self._moments, self._moved, samples)

    def arrays(self, measured: Sequence[Moments]) -> list[Array]:
        """What stands for the parameters: W², V and ḡ² of every term, in this order, from the moments of the terms."""
        kinds = [moments.weight for moments in measured], [m.noise for m in measured], [m.mean for m in measured]
        return [gram[0].reshape(shape) for kind in kinds for gram, shape in zip(kind, self.shapes, strict=True)]

    def _moments(self, arrays: list[Array], symmetries: Any, double: bool) -> tuple[Moments, ...]:
        count = len(self.terms)
        kinds = [arrays[place : place + count] for place in range(0, 3 * count, count)]
        return tuple(_moments(symmetry, *kinds) for symmetry in symmetries)

    def _moved(self, symmetry: Any, arrays: list[Array], motion: dict[float, Array]) -> list[Array]:
        count, moved = len(self.terms), list(arrays)
        # At a limit one side dies and its gradients, which are 0, stay; the other is empty and its gradients die.
        dies = jnp.any(jnp.stack([factor == 0 for factor in motion.values()]), axis=0)
        for leg in symmetry.legs:
            square = jnp.where(dies, 1, motion[leg.power]) ** 2
            for kind, factor in enumerate((square, 1 / square, 1 / square)):
                place = kind * count + leg.index
                whole = symmetry.algebra.apply(leg.to_matrix(arrays[place]), jnp.where(dies, 0, factor))
                moved[place] = leg.from_matrix(whole, moved[place])
        return moved


def scalings(symmetries: Sequence[Any], arrays: Sequence[Array]) -> Scalings:
    """How to measure scalar and diagonal symmetries at once."""
    legs: list[BoundLeg] = [leg for symmetry in symmetries for leg in symmetry.legs]
    terms: list[BoundSymmetry] = []
    shapes: list[tuple[int, ...]] = []
    of_leaf: dict[int, int] = {}

    def stand_in(symmetry: BoundSymmetry, leg: BoundLeg) -> BoundLeg:
        if sum(leg.meets(other) for other in legs) == 1:  # none but itself
            terms.append(replace(symmetry, legs=(leg,)))
            size = leg.size if symmetry.algebra.rank else 1
            shapes.append((1, leg.blocks * size))
            return leg.of_matrix(len(terms) - 1, 1, size)
        if leg.index not in of_leaf:
            of_leaf[leg.index] = len(terms)
            shape = arrays[leg.index].shape
            terms.append(ElementwiseLegs((leg.of_entries(shape),), ALGEBRAS["diagonal"]))
            shapes.append(shape)
        return replace(leg, index=of_leaf[leg.index])

    stand_ins = [replace(s, legs=tuple(stand_in(s, leg) for leg in s.legs)) for s in symmetries]
    return Scalings(tuple(terms), tuple(stand_ins), tuple(shapes))


def _moments(
    symmetry: BoundSymmetry, weight: Sequence[Array], noise: Sequence[Array], mean: Sequence[Array]
) -> Moments:

    def sums(entries: Sequence[Array]) -> tuple[Array, ...]:
        totals = symmetry.product(entries, [jnp.ones_like(entry) for entry in entries])
        return tuple(symmetry.public(totals[power]) for power in symmetry.powers)

    return Moments(sums(weight), sums(noise), sums(mean), symmetry.powers)
