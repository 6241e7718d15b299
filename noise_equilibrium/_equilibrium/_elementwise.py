"""Scalar and diagonal symmetries: one number per direction, P = (T/R)^{1/4} for legs of power ±1."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


class Balance(NamedTuple):
    """How to balance R and T, in whatever algebra.

    Attributes:
        plus: what multiplies the axis of a + leg; P itself, or its limit.
        minus: what multiplies the axis of a − leg; P⁻¹ itself, or its limit.
        element: log P.
        to_zero: the directions where P → 0: 1 or 0 for each, or the projector on them.
        to_infinity: the directions where P → ∞, likewise.
        diverges: whether some direction has no finite limit and is left unmoved.
        idle: whether nothing acts in any direction.
    """

    plus: Array
    minus: Array
    element: Array
    to_zero: Array
    to_infinity: Array
    diverges: Array
    idle: Array


def balance_elements(
    lowers: Array, raises: Array, resolution: tuple[Array, Array], occupied: tuple[Array, Array], power: float
) -> Balance:
    """P^power = (T/R)^{1/4}, element by element: theory, "Closed form" and "The singular case".

    Where only R acts P → 0 and the + leg dies; where only T acts P → ∞ and the − leg dies; where neither acts nothing
    is moved. A limit is finite if the leg that would be blown up is empty.

    Args:
        lowers: R, of the charge's internal shape.
        raises: T.
        resolution: R and T without centring; what is smaller than their rounding error is zero.
        occupied: whether the + legs and the − legs hold anything.
        power: the common |power| of the legs.
    """
    eps = jnp.finfo(lowers.dtype).eps
    down = lowers > 8 * eps * resolution[0]
    up = raises > 8 * eps * resolution[1]
    finite = down & up
    quarter = jnp.sqrt(jnp.sqrt(jnp.where(finite, raises, 1) / jnp.where(finite, lowers, 1)))
    dies_plus, dies_minus = down & ~up, up & ~down
    diverges = (dies_plus & occupied[1]) | (dies_minus & occupied[0])
    limit = ~diverges
    one = jnp.ones_like(quarter)
    element = jnp.log(quarter) / power
    return Balance(
        plus=jnp.where(finite, quarter, jnp.where(dies_plus & limit, 0, one)),
        minus=jnp.where(finite, 1 / quarter, jnp.where(dies_minus & limit, 0, one)),
        element=jnp.where(dies_plus, -jnp.inf, jnp.where(dies_minus, jnp.inf, element)),
        to_zero=dies_plus.astype(quarter.dtype),
        to_infinity=dies_minus.astype(quarter.dtype),
        diverges=jnp.any(diverges),
        idle=~jnp.any(down | up),
    )
