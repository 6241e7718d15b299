"""Scalar and diagonal symmetries that share parameters: all from one pass over the data, and then without data.

Entry (i, j) of a parameter that is scaled by e^{a_i} along one axis and by e^{b_j} along another goes as
W² ↦ e^{2(a_i + b_j)} W², and the variance of its gradient as V ↦ e^{−2(a_i + b_j)} V. So with W², V and ḡ² of single
entries known, every charge and its flow are explicit anywhere on the orbit, and the search for the point without flow
needs the data no more (theory, "Several scalar and diagonal symmetries from one measurement"). Of a parameter that one
symmetry alone moves, their sums along its axis suffice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._noise import Moments
from .._symmetry import BoundSymmetry
from .._symmetry._algebra import Entrywise
from .._symmetry._leg import BoundLeg
from ._turns import Ground


class Scalings(NamedTuple):
    """What is measured of some scalar and diagonal symmetries, and what they are on it; static.

    Attributes:
        terms: what is measured: symmetries of one leg each, of single entries or of sums along an axis.
        symmetries: for each symmetry the same one, with legs on the measured terms in place of the parameters.
    """

    terms: tuple[BoundSymmetry, ...]
    symmetries: tuple[BoundSymmetry, ...]

    def ground(self, samples: int) -> Ground:
        """Where their joint equilibrium is searched for."""
        return Ground(self._moments, self._moved, samples)

    def arrays(self, measured: Sequence[Moments], like: Sequence[Array]) -> list[Array]:
        """What stands for the parameters: W², V and ḡ² of every term, in this order.

        Args:
            measured: the moments of the terms.
            like: the parameters.
        """
        shapes = [
            like[leg.index].shape if isinstance(term.algebra, Entrywise) else (-1,)
            for term in self.terms
            for leg in term.legs
        ]
        kinds = [moments.weight for moments in measured], [m.noise for m in measured], [m.mean for m in measured]
        return [gram[0].reshape(shape) for kind in kinds for gram, shape in zip(kind, shapes, strict=True)]

    def _moments(self, arrays: list[Array], symmetries: Any, double: bool) -> tuple[Moments, ...]:
        count = len(self.terms)
        kinds = [arrays[place : place + count] for place in range(0, 3 * count, count)]
        return tuple(_moments(symmetry, *kinds) for symmetry in symmetries)

    def _moved(self, symmetry: Any, arrays: list[Array], motion: dict[float, Array]) -> list[Array]:
        count, moved = len(self.terms), list(arrays)
        factors = {power: factor.reshape(symmetry.shape) for power, factor in motion.items()}
        # At a limit one side dies and its gradients, which are 0, stay; the other is empty and its gradients die.
        dies = jnp.any(jnp.stack([factor == 0 for factor in factors.values()]), axis=0)
        for leg in symmetry.legs:
            square = jnp.where(dies, 1, factors[leg.power]) ** 2
            for kind, factor in enumerate((square, 1 / square, 1 / square)):
                place = kind * count + leg.index
                whole = symmetry.algebra.apply(leg.to_matrix(arrays[place]), jnp.where(dies, 0, factor))
                moved[place] = leg.from_matrix(whole, arrays[place])
        return moved


def scalings(symmetries: Sequence[BoundSymmetry], arrays: Sequence[Array]) -> Scalings:
    """How to measure scalar and diagonal symmetries at once."""
    moving = Counter(leg.index for symmetry in symmetries for leg in symmetry.legs)
    terms: list[BoundSymmetry] = []
    of_leaf: dict[int, int] = {}

    def stand_in(symmetry: BoundSymmetry, leg: BoundLeg) -> BoundLeg:
        if moving[leg.index] == 1:
            terms.append(replace(symmetry, legs=(leg,)))
            size = leg.size if symmetry.algebra.rank else 1
            return replace(leg, index=len(terms) - 1, axis=0, size=size)
        if leg.index not in of_leaf:
            of_leaf[leg.index] = len(terms)
            whole = BoundLeg(leg.index, None, 1, 1, arrays[leg.index].size, leg.name)
            terms.append(BoundSymmetry((whole,), Entrywise(), 1, whole.size))
        return replace(leg, index=of_leaf[leg.index])

    stand_ins = [replace(s, legs=tuple(stand_in(s, leg) for leg in s.legs)) for s in symmetries]
    return Scalings(tuple(terms), tuple(stand_ins))


def _moments(
    symmetry: BoundSymmetry, weight: Sequence[Array], noise: Sequence[Array], mean: Sequence[Array]
) -> Moments:
    powers = tuple(dict.fromkeys(leg.power for leg in symmetry.legs))

    def sums(entries: Sequence[Array]) -> tuple[Array, ...]:
        totals = {}
        for leg in symmetry.legs:
            matrix = leg.to_matrix(entries[leg.index])
            part = symmetry.algebra.product(matrix, jnp.ones_like(matrix))
            totals[leg.power] = totals[leg.power] + part if leg.power in totals else part
        return tuple(symmetry.public(totals[power]) for power in powers)

    return Moments(sums(weight), sums(noise), sums(mean), powers)
