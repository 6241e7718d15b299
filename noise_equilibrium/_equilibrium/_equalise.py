"""Equalisation: the point of an orbit where the largest entries are least, as before weights are rounded to few bits.

Along one direction of an elementwise group the largest entry of the legs of power p is r_p e^{pλ}. The largest of all
is a convex function of λ, least where the legs that grow meet those that shrink (Nagel et al. 2019, arXiv 1906.04721,
for powers ±1). Symmetries that share parameters are equalised in turn.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._symmetry import BoundSymmetry, share_entries

# Symmetries that share parameters form chains of layers, along which an imbalance spreads and falls slowly: six layers
# take some hundred sweeps to rounding. No sweep looks at data.
MOST_SWEEPS = 2000
# Sweeps at the end that derivatives go through: they are right to what is left of a change after so many, 1e-6 or less
# for six layers.
LAST_SWEEPS = 48

State = tuple[list[Array], list[Array]]


def equalise(symmetries: Sequence[BoundSymmetry], arrays: list[Array]) -> tuple[list[Array], list[Array]]:
    """The parameters with their largest entries as small as can be, and the element of each symmetry."""
    pairs = itertools.combinations(symmetries, 2)

    def sweep(state: State) -> State:
        arrays, elements = state
        after = []
        for symmetry, element in zip(symmetries, elements, strict=True):
            step = _crossing(_ranges(symmetry, arrays))
            arrays = symmetry.multiply(arrays, symmetry.exponential(step))
            after.append(element + step)
        return arrays, after

    start = arrays, [jnp.zeros(symmetry.shape, arrays[symmetry.legs[0].index].dtype) for symmetry in symmetries]
    if not any(share_entries(one, other, len(arrays)) for one, other in pairs):  # none sees another: once is enough
        return sweep(start)
    _, elements = jax.lax.stop_gradient(_converged(symmetries, sweep, jax.lax.stop_gradient(start)))
    for symmetry, element in zip(symmetries, elements, strict=True):
        arrays = symmetry.multiply(arrays, symmetry.exponential(element))
    return jax.lax.scan(lambda state, _: (sweep(state), None), (arrays, elements), length=LAST_SWEEPS)[0]


def _converged(symmetries: Sequence[BoundSymmetry], sweep: Callable[[State], State], start: State) -> State:
    resting = 4 * max(float(jnp.finfo(array.dtype).eps) for array in start[0])

    def goes_on(carry: tuple[Array, State]) -> Array:
        return (carry[0] < MOST_SWEEPS) & (spread(symmetries, carry[1][0]) > resting)

    return jax.lax.while_loop(goes_on, lambda carry: (carry[0] + 1, sweep(carry[1])), (jnp.asarray(0), start))[1]


def spread(symmetries: Sequence[BoundSymmetry], arrays: Sequence[Array]) -> Array:
    """The largest |λ| that a further equalisation would move by: 0 where all is equal."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(_crossing(_ranges(one, arrays)))) for one in symmetries]))


def _ranges(symmetry: BoundSymmetry, arrays: Sequence[Array]) -> dict[float, Array]:
    """r_p of every direction: the largest entry of the legs of each power."""
    found: dict[float, Array] = {}
    for leg in symmetry.legs:
        sizes = jnp.max(jnp.abs(leg.to_matrix(arrays[leg.index])), axis=1)
        largest = (sizes if symmetry.algebra.rank else jnp.max(sizes, axis=1)).reshape(symmetry.shape)
        found[leg.power] = jnp.maximum(found[leg.power], largest) if leg.power in found else largest
    return found


def _crossing(ranges: dict[float, Array]) -> Array:
    """λ where max_p (ln r_p + pλ) is least; 0 where the legs of one sign are empty."""
    highest = value = None
    for grows, shrinks in itertools.product(ranges, ranges):
        if not (grows > 0 > shrinks):
            continue
        up, down = ranges[grows], ranges[shrinks]
        filled = (up > 0) & (down > 0)
        high, low = (jnp.log(jnp.where(filled, side, 1)) for side in (up, down))
        # Two lines of opposite slopes: the lowest point of the maximum of all lies on the pair that crosses highest.
        crossing = (low - high) / (grows - shrinks)
        height = jnp.where(filled, high + grows * crossing, -jnp.inf)
        crossing = jnp.where(filled, crossing, 0)
        if highest is None or value is None:
            highest, value = height, crossing
        else:
            value, highest = jnp.where(height > highest, crossing, value), jnp.maximum(height, highest)
    if value is None:
        raise ValueError("the legs of a symmetry all have powers of one sign; expected some of each to equalise.")
    return value
