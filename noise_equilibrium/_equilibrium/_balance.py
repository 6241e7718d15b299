"""One block of every search: a symmetry is balanced at a point, from its moments there, and the legs are moved.

What acts on legs by matrices stays in double precision from the moments to the legs, see `.._double`.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._double import in_double, precision_kept
from .._flow import ChargeLaw
from .._noise import AbstractMoments, Moments
from .._numbers import cast
from .._parameters import flatten
from .._symmetry import Bound, BoundSymmetry
from ._elementwise import Balance, balance_elements
from ._geometric_mean import Parts, Side, balance_matrices, occupied, seen_from, side, split, where_needed
from ._root import Spectrum

Motion = dict[float, Any]


def balance(
    symmetry: Bound,
    arrays: Sequence[Array],
    moments: AbstractMoments,
    law: ChargeLaw,
    samples: Any,
    gauge: Motion | None = None,
) -> Balance:
    """The motion from a point to the equilibrium of one symmetry, others held fixed.

    Args:
        symmetry: of known parameters.
        arrays: the parameters.
        moments: the moments of the symmetry there, or behind the gauge if there is one.
        law: the coefficients of the law of motion.
        samples: N.
        gauge: a motion of a matrix symmetry, behind which the moments were taken.
    """
    if isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank == 2:
        precision, summed = precision_of(symmetry, arrays), precision_kept(moments)

        def of_matrices(arrays: list[Array], moments: Moments, law: ChargeLaw, samples: Any, gauge: Any) -> Balance:
            return _balance_matrices(symmetry, arrays, moments, law, samples, gauge, precision, summed)

        return in_double(of_matrices, legs_only(symmetry, arrays), moments, law, samples, gauge, keep=True)
    moments = _audible(moments, samples, moments.weight_plus.dtype)
    uncentred = eqx.tree_at(lambda m: m.noise, moments, _uncentred(moments))
    spectra = Spectrum(*law.spectrum(moments)), Spectrum(*law.spectrum(uncentred))
    occupied = jax.lax.stop_gradient((moments.weight_plus > 0, moments.weight_minus > 0))
    powers = moments.powers  # pyright: ignore[reportAttributeAccessIssue] - of legs or of a spectrum
    return balance_elements(*spectra, occupied, powers)


def precision_of(symmetry: BoundSymmetry, arrays: Sequence[Array]) -> Any:
    """The least precise dtype of the legs: that of the gradients which their moments are sums of."""
    return max((arrays[leg.index].dtype for leg in symmetry.legs), key=lambda dtype: float(jnp.finfo(dtype).eps))


def move(symmetry: Bound, arrays: Sequence[Array], motion: Any) -> list[Array]:
    """The legs multiplied by the factors of a `Balance`; other parameters as they are."""
    with jax.default_matmul_precision("highest"):
        if isinstance(symmetry, BoundSymmetry):
            return symmetry.transform(arrays, jax.tree_util.tree_map(lambda x: x.reshape(symmetry.shape), motion))
        vector, unflatten = flatten(list(arrays))
        return unflatten(symmetry.of_spectrum(vector, motion))


def legs_only(symmetry: BoundSymmetry, arrays: Sequence[Array]) -> list[Any]:
    """The parameters in their places, None in the places of those that the symmetry does not move."""
    inside = {leg.index for leg in symmetry.legs}
    return [array if place in inside else None for place, array in enumerate(arrays)]


def _transformed(symmetry: BoundSymmetry, arrays: Sequence[Array], motion: Motion) -> list[Array]:
    return symmetry.transform(arrays, {power: factor.reshape(symmetry.shape) for power, factor in motion.items()})


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


def _audible(moments: AbstractMoments, samples: Any, precision: Any) -> AbstractMoments:
    """The moments without a noise that is all rounding.

    Args:
        moments: the moments.
        samples: N.
        precision: the dtype of single gradients and of their mean; the sums of squares may be more precise.
    """

    def size(grams: Any) -> Array:
        totals = [jnp.sum(jnp.abs(gram)) for gram in jax.tree_util.tree_leaves(grams)]
        return jnp.sum(jnp.stack(totals))

    noise, mean, whole = jax.lax.stop_gradient((size(moments.noise), size(moments.mean), size(_uncentred(moments))))
    squares = float(jnp.finfo(noise.dtype).eps)
    rounding = min(float(jnp.finfo(precision).eps), float(jnp.finfo(jnp.float32).eps))
    # Sums over N equal samples err by up to about Nε/8 of them, and the square of the mean by twice that. Gradients
    # that should be equal, and are each wrong by a few roundings, look like a noise of the square of that.
    heard = noise > cast(samples, noise) / 4 * (squares * whole + rounding * mean) + (8 * rounding) ** 2 * whole
    audible = jax.tree_util.tree_map(lambda gram: jnp.where(heard, gram, 0), moments.noise)
    return eqx.tree_at(lambda m: m.noise, moments, audible)


def _balance_matrices(
    symmetry: BoundSymmetry,
    arrays: list[Array],
    measured: Moments,
    law: ChargeLaw,
    samples: Any,
    gauge: Motion | None,
    precision: Any,
    summed: Any,
) -> Balance:
    moments = _audible(measured, samples, precision)
    uncentred = eqx.tree_at(lambda m: m.noise, moments, _uncentred(moments))
    weights = moments.weight_plus, moments.weight_minus
    grams = [
        [gram.reshape(symmetry.shape) for gram in grams]
        for grams in zip(law.sides(moments), law.sides(uncentred), weights, strict=True)
    ]
    # Behind a gauge the legs are graded along the axis, from directions where they are strong to those where they are
    # weak; elsewhere the axis is not turned in any such way.
    graded = gauge is not None
    length = max(arrays[leg.index].size // (leg.blocks * leg.size) for leg in symmetry.legs)

    def seen(matrix: Array, uncentred: Array, weight: Array) -> Side:
        return side(matrix, uncentred, precision, length, weight if graded else None, summed)

    with jax.default_matmul_precision("highest"):
        parts = jax.vmap(split)(jax.vmap(seen)(*grams[0]), jax.vmap(seen)(*grams[1]))
        stuck = _stuck(symmetry, arrays if gauge is None else move(symmetry, arrays, gauge), parts, precision)
        lowers, raises = (gram for gram, *_ in grams)
        if gauge is not None:
            plus, minus = (gauge[power].reshape(symmetry.shape) for power in (1, -1))
            parts, stuck = jax.vmap(seen_from)((plus, minus), parts, stuck)
            lowers, raises = minus @ lowers @ minus.mT, plus @ raises @ plus.mT
        found = jax.vmap(balance_matrices)(lowers, raises, parts, stuck)
    diverges, idle = jnp.any(found.diverges), jnp.all(found.idle)
    if symmetry.blocks == 1:
        found = jax.tree_util.tree_map(lambda x: x[0], found)
    return found._replace(diverges=diverges, idle=idle)


def _stuck(symmetry: BoundSymmetry, arrays: list[Array], parts: Parts, precision: Any) -> tuple[Array, Array]:
    """The projectors on what has no finite limit: of 𝓑, where − legs would be blown up; of 𝓒, where + legs would."""
    arrays = jax.lax.stop_gradient(arrays)

    def full() -> tuple[Array, Array]:
        minus_on_zero = weights_of(symmetry, _projected(symmetry, arrays, parts.to_zero))[1]
        plus_on_infinity = weights_of(symmetry, _projected(symmetry, arrays, parts.to_infinity))[0]
        plus, minus = (jnp.trace(jnp.sum(weight, axis=0)) for weight in weights_of(symmetry, arrays))
        grams = minus_on_zero / jnp.where(minus > 0, minus, 1), plus_on_infinity / jnp.where(plus > 0, plus, 1)
        on_zero, on_infinity = (
            jax.vmap(lambda gram, subspace: occupied(gram, subspace, precision))(gram, subspace)
            for gram, subspace in zip(grams, (parts.to_zero, parts.to_infinity), strict=True)
        )
        return on_zero, on_infinity

    ranks = parts.ranks
    nothing = jnp.zeros_like(parts.to_zero)
    return where_needed(jnp.any(ranks.lowers + ranks.raises > 2 * ranks.core), full, (nothing, nothing))


def weights_of(symmetry: BoundSymmetry, arrays: Sequence[Array]) -> tuple[Array, Array]:
    """The Grams of all + legs and of all − legs, of the internal shape."""
    plus = minus = jnp.zeros(symmetry.shape, arrays[symmetry.legs[0].index].dtype)
    for power, gram in symmetry.grams(arrays).items():
        plus, minus = (plus + gram, minus) if power > 0 else (plus, minus + gram)
    return plus, minus


def _projected(symmetry: BoundSymmetry, arrays: list[Array], projector: Array) -> list[Array]:
    """The legs on a subspace: projected before they are squared, so that an empty one is empty to rounding."""
    return symmetry.transform(arrays, {leg.power: projector for leg in symmetry.legs})
