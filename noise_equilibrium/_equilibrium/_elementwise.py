"""One number per direction: scalar, diagonal and exponential symmetries, P = e^λ with legs of any power."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._numbers import cast
from ._root import Spectrum, flow_root


class Balance(NamedTuple):
    """How to balance R and T, in whatever algebra.

    Attributes:
        motion: what multiplies the legs, or its limit: for each power a factor of their axis, of the charge's public
            shape; for an exponential symmetry one number for each eigenvector.
        element: log P.
        to_zero: the directions where P → 0: 1 or 0 for each, or the projector on them.
        to_infinity: the directions where P → ∞, likewise.
        dies: those of both in which a leg dies: the ones with a finite limit.
        diverges: whether some direction has no finite limit and is left unmoved.
        idle: whether nothing acts in any direction.
    """

    motion: Any
    element: Array
    to_zero: Array
    to_infinity: Array
    dies: tuple[Array, Array]
    diverges: Array
    idle: Array


def balance_elements(
    spectrum: Spectrum, resolution: Spectrum, occupied: tuple[Array, Array], powers: tuple[float, ...] | Array
) -> Balance:
    """P = e^λ with no flow at λ, element by element: theory, "Closed form", "Any spectrum" and "The singular case".

    Where only R acts P → 0 and the + legs die; where only T acts P → ∞ and the − legs die; where neither acts nothing
    is moved. A limit is finite if the legs that would be blown up are empty.

    Args:
        spectrum: r and t for each power.
        resolution: the same without centring; what is smaller than its rounding error is zero.
        occupied: whether the + legs and the − legs hold anything.
        powers: the powers; those of legs are static.
    """
    eps = jnp.finfo(spectrum.lowers.dtype).eps
    lowers, raises = spectrum.total(spectrum.lowers), spectrum.total(spectrum.raises)
    down = lowers > 8 * eps * resolution.total(resolution.lowers)
    up = raises > 8 * eps * resolution.total(resolution.raises)
    finite = down & up
    if isinstance(powers, tuple) and len({abs(power) for power in powers}) == 1:
        # Roots before the quotient: it would overflow where |λ| > 177.
        ratio = jnp.sqrt(jnp.where(finite, raises, 1)) / jnp.sqrt(jnp.where(finite, lowers, 1))
        element = jnp.log(ratio) / (2 * abs(powers[0]))
    else:
        proper = [
            jnp.where(finite, jnp.where(values >= 8 * eps * whole, values, 0), 1)
            for values, whole in zip(spectrum[1:], resolution[1:], strict=True)
        ]
        element = flow_root(Spectrum(spectrum.sizes, *proper))
    dies_plus, dies_minus = down & ~up, up & ~down
    diverges = (dies_plus & occupied[1]) | (dies_minus & occupied[0])

    def factor(power: Any) -> Array:
        moving = jnp.exp(cast(power, element) * element)
        dies = ~diverges & jnp.where(cast(power, element) > 0, dies_plus, dies_minus) & (cast(power, element) != 0)
        return jnp.where(finite, moving, jnp.where(dies, 0, jnp.ones_like(moving)))

    return Balance(
        motion={power: factor(power) for power in powers} if isinstance(powers, tuple) else factor(powers),
        element=jnp.where(dies_plus, -jnp.inf, jnp.where(dies_minus, jnp.inf, jnp.where(finite, element, 0))),
        to_zero=dies_plus.astype(element.dtype),
        to_infinity=dies_minus.astype(element.dtype),
        dies=((dies_plus & ~diverges).astype(element.dtype), (dies_minus & ~diverges).astype(element.dtype)),
        diverges=jnp.any(diverges),
        idle=~jnp.any(down | up),
    )
