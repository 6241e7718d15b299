"""One block of every search: a symmetry is balanced at a point, from its moments there, and the legs are moved."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._flow import ChargeLaw
from .._noise import AbstractMoments
from .._parameters import flatten
from .._symmetry import Bound, BoundSymmetry
from ._elementwise import Balance, balance_elements
from ._geometric_mean import Parts, balance_matrices, floors, occupied, split, where_needed
from ._root import Spectrum


def balance(
    symmetry: Bound, arrays: Sequence[Array], moments: AbstractMoments, law: ChargeLaw, samples: int
) -> Balance:
    """The motion from a point to the equilibrium of one symmetry, others held fixed.

    Args:
        symmetry: of known parameters.
        arrays: the parameters.
        moments: the moments of the symmetry there.
        law: the coefficients of the law of motion.
        samples: N.
    """
    moments = _audible(moments, samples)
    resolution = eqx.tree_at(lambda m: m.noise, moments, _uncentred(moments))
    if isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank == 2:
        # Legs are looked at in the precision of their moments, and moved in their own.
        arrays = [array.astype(moments.weight[0].dtype) for array in arrays]
        return _balance_matrices(symmetry, arrays, law.sides(moments), law.sides(resolution))
    spectra = Spectrum(*law.spectrum(moments)), Spectrum(*law.spectrum(resolution))
    occupied = jax.lax.stop_gradient((moments.weight_plus > 0, moments.weight_minus > 0))
    powers = moments.powers  # pyright: ignore[reportAttributeAccessIssue] - of legs or of a spectrum
    return balance_elements(*spectra, occupied, powers)


def move(symmetry: Bound, arrays: Sequence[Array], motion: Any) -> list[Array]:
    """The legs multiplied by the factors of a `Balance`; other parameters as they are."""
    with jax.default_matmul_precision("highest"):
        if isinstance(symmetry, BoundSymmetry):
            factors = {power: factor.reshape(symmetry.shape) for power, factor in motion.items()}
            return symmetry.transform(arrays, factors)
        vector, unflatten = flatten(list(arrays))
        return unflatten(symmetry.of_spectrum(vector, motion))


def relative_flow(lowers: Array, raises: Array) -> Float[Array, ""]:
    """‖T − R‖ / (‖T‖ + ‖R‖), 0/0 := 0, with derivative 0 where the flow vanishes."""
    numerator, denominator = norm(raises - lowers), norm(raises) + norm(lowers)
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def norm(array: Array) -> Float[Array, ""]:
    """The 2-norm of all entries, with derivative 0 at 0."""
    square = jnp.sum(array**2)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def all_finite(leaves: Sequence[Any]) -> Array:
    """Whether every entry of every array is finite."""
    return jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]).all()


def _uncentred(moments: AbstractMoments) -> Any:
    """The noise without centring: the size against which its rounding errors are small."""
    return jax.tree_util.tree_map(jnp.add, moments.noise, moments.mean)


def _audible(moments: AbstractMoments, samples: int) -> AbstractMoments:
    """The moments without a noise that is all rounding: sums over N equal samples err by up to about Nε/8 of them."""

    def size(grams: Any) -> Array:
        totals = [jnp.sum(jnp.abs(gram)) for gram in jax.tree_util.tree_leaves(grams)]
        return jnp.sum(jnp.stack(totals))

    noise, whole = jax.lax.stop_gradient((size(moments.noise), size(_uncentred(moments))))
    heard = noise > samples / 4 * jnp.finfo(noise.dtype).eps * whole
    audible = jax.tree_util.tree_map(lambda gram: jnp.where(heard, gram, 0), moments.noise)
    return eqx.tree_at(lambda m: m.noise, moments, audible)


def _balance_matrices(
    symmetry: BoundSymmetry, arrays: list[Array], sides: tuple[Array, Array], resolution: tuple[Array, Array]
) -> Balance:
    over_blocks = (lambda function: function) if symmetry.blocks == 1 else jax.vmap
    with jax.default_matmul_precision("highest"):
        least = over_blocks(floors)(resolution)
        parts = over_blocks(split)(*sides, least)
        stuck = _stuck(symmetry, arrays, parts)
        found = over_blocks(balance_matrices)(*sides, least, parts, stuck)
    return found._replace(diverges=jnp.any(found.diverges), idle=jnp.all(found.idle))


def _stuck(symmetry: BoundSymmetry, arrays: list[Array], parts: Parts) -> tuple[Array, Array]:
    """The projectors on what has no finite limit: of 𝓑, where − legs would be blown up; of 𝓒, where + legs would."""
    over_blocks = (lambda function: function) if symmetry.blocks == 1 else jax.vmap
    arrays = jax.lax.stop_gradient(arrays)

    def full() -> tuple[Array, Array]:
        minus_on_zero = _weights(symmetry, _projected(symmetry, arrays, parts.to_zero))[1]
        plus_on_infinity = _weights(symmetry, _projected(symmetry, arrays, parts.to_infinity))[0]
        plus, minus = (jnp.trace(jnp.sum(weight, axis=0)) for weight in _weights(symmetry, arrays))
        grams = minus_on_zero / jnp.where(minus > 0, minus, 1), plus_on_infinity / jnp.where(plus > 0, plus, 1)
        return tuple(over_blocks(occupied)(symmetry.public(gram)) for gram in grams)  # pyright: ignore[reportReturnType]

    ranks = parts.ranks
    nothing = jnp.zeros_like(parts.to_zero)
    return where_needed(jnp.any(ranks.lowers + ranks.raises > 2 * ranks.core), full, (nothing, nothing))


def _weights(symmetry: BoundSymmetry, arrays: list[Array]) -> tuple[Array, Array]:
    """The Grams of all + legs and of all − legs, of the internal shape."""
    plus = minus = jnp.zeros(symmetry.shape, arrays[0].dtype)
    for power, gram in symmetry.grams(arrays).items():
        plus, minus = (plus + gram, minus) if power > 0 else (plus, minus + gram)
    return plus, minus


def _projected(symmetry: BoundSymmetry, arrays: list[Array], projector: Array) -> list[Array]:
    """The legs on a subspace: projected before they are squared, so that an empty one is empty to rounding."""
    return symmetry.transform(arrays, {leg.power: projector.reshape(symmetry.shape) for leg in symmetry.legs})
