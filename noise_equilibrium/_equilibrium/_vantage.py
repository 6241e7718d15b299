"""Where to measure a matrix symmetry: at the point of the orbit where its two sides have one Gram, and a diagonal one.

A loss sees the product of its factors, and the noise of one factor in a direction is as strong as the other factor.
What is weak by s in one of them and strong in the other shows as s² in a Gram; at this point it shows as s in either.
And as the axis is turned so that its directions come strong and weak one by one, not mixed, the rounding errors of each
are small against itself. The equilibrium does not depend on where the moments are taken, only its precision does.
"""

import jax
from jaxtyping import Array

from .._double import in_double
from .._symmetry import BoundSymmetry
from ._balance import Motion, legs_only, weights_of
from ._geometric_mean import only_core, side, split, where_needed


def vantage(symmetry: BoundSymmetry, arrays: list[Array]) -> Motion:
    """The motion to that point, a constant for derivatives. Directions without a finite one are left alone."""

    def of_weights(arrays: list[Array]) -> Motion:
        with jax.default_matmul_precision("highest"):
            plus, minus = jax.vmap(_same_grams)(*weights_of(symmetry, arrays))
        return {1: symmetry.public(plus), -1: symmetry.public(minus)}

    return in_double(of_weights, jax.lax.stop_gradient(legs_only(symmetry, arrays)), keep=True)


def _same_grams(plus: Array, minus: Array) -> tuple[Array, Array]:
    # The weights are numbers as they stand: their Grams are right to the rounding of double precision.
    parts = split(side(plus, plus, plus.dtype), side(minus, minus, minus.dtype))
    return where_needed(parts.ranks.core < len(plus), lambda: tuple(only_core(parts)), tuple(parts.core))
