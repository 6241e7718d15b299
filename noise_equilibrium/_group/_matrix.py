"""A symmetric matrix per block: double rotations, P = e^B on legs of power +1 and P⁻¹ on those of power −1.

All of it is done in double precision, from the moments to the legs, see `.._double`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._double import in_double, precision_kept
from .._linalg import eigh, expm, inv
from . import _psd
from ._abstract import AbstractGroup, Balance, audible, uncentred
from ._geometric_mean import (
    Parts,
    Side,
    balance_matrices,
    image,
    occupied,
    only_core,
    seen_from,
    side,
    split,
    where_needed,
)
from ._ratios import Extremes, all_ratios, extremes

Matrix = Float[Array, "d d"]


def times(rows: Float[Array, "H m k"], factor: Any) -> Float[Array, "H m k"]:
    """Rows multiplied by a matrix each block, in double precision, in their own dtype."""
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return in_double(product, rows, factor).astype(rows.dtype)


class MatrixGroup(AbstractGroup):
    """A group whose elements are symmetric k × k matrices, one for each of H blocks: `shape` is (H, k, k).

    To derive one, give `powers`, of +1 and −1, `shape`, `public_shape`, `name`, `leaves`, `product` and `multiply`.
    Factors and Grams are dictionaries from each power to an array of shape (H, k, k). `multiply` gets factors in double
    precision, which `times` knows to multiply with.
    """

    of_matrices: ClassVar[bool] = True

    def length(self, arrays: Sequence[Array]) -> int:
        """How many numbers a row of the axis has at most: the length of the inner products gradients come from."""
        return max(array.size for array in self.only(arrays) if array is not None) // (self.blocks * self.axis)

    def times(self, rows: Float[Array, "H m k"], factor: Any) -> Float[Array, "H m k"]:
        """Rows multiplied by a factor, in double precision, in their own dtype."""
        return times(rows, factor)

    @property
    def axis(self) -> int:
        """k."""
        return self.shape[-1]

    def exponential(self, element: Array) -> Any:
        return in_double(lambda element: self.each(lambda power: expm(power * element)), element, keep=True)

    def near_identity(self, element: Array) -> Any:
        def matrices(element: Array) -> Any:
            # Linear in the element, and the other legs get its inverse: no series has to be differentiated.
            plus = jnp.eye(self.axis, dtype=element.dtype) + element
            return {1: plus, -1: inv(plus)}

        return in_double(matrices, element, keep=True)

    def identity(self, dtype: Any) -> Any:
        one = jnp.broadcast_to(jnp.eye(self.axis, dtype=dtype), self.shape)
        return in_double(lambda one: dict.fromkeys([1, -1], one), one, keep=True)

    def compose(self, first: Any, second: Any) -> Any:
        multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return in_double(partial(jax.tree_util.tree_map, multiply), first, second, keep=True)

    def zero(self, dtype: Any) -> Any:
        return in_double(lambda zero: zero, jnp.zeros(self.shape, dtype), keep=True)

    def sum_of(self, first: Any, *others: Any) -> Any:
        return first

    @property
    def dimension(self) -> int:
        return self.blocks * self.axis * (self.axis + 1) // 2

    def coordinates(self, element: Array) -> Array:
        # NumPy's indices are constants; those of newer versions of JAX are an operation that a program in double cannot
        # hold.
        rows, columns = np.triu_indices(self.axis)
        # An entry off the diagonal stands twice in Tr[AB].
        weights = jnp.where(rows == columns, 1, jnp.sqrt(2)).astype(element.dtype)
        return (element[:, rows, columns] * weights).ravel()

    def element_of(self, numbers: Array) -> Array:
        rows, columns = np.triu_indices(self.axis)
        halves = jnp.where(rows == columns, 0.5, jnp.sqrt(0.5)).astype(numbers.dtype)
        upper = jnp.zeros(self.shape, numbers.dtype)
        upper = upper.at[:, rows, columns].set(numbers.reshape(self.blocks, -1) * halves)
        return upper + upper.mT

    def on_basis(self, values: Array, squared: bool = False) -> Array:
        """The basis is E_kl + E_lk, and E_kk on the diagonal."""
        rows, columns = np.triu_indices(self.axis)
        diagonal = jnp.diagonal(values, axis1=1, axis2=2)
        if squared:  # (E_kl + E_lk)² = E_kk + E_ll
            both = diagonal[:, rows] + diagonal[:, columns]
        else:
            both = values[:, rows, columns] + values[:, columns, rows]
        return jnp.where(rows == columns, diagonal[:, rows], both).ravel()

    def name_of(self, place: int) -> str:
        rows, columns = np.triu_indices(self.axis)
        block, inside = divmod(place, len(rows))
        name = f"B[{rows[inside]}, {columns[inside]}]"
        return name + (f" of block {block}" if self.blocks > 1 else "")

    def direction_of(self, limit: Any) -> str:
        limit = np.asarray(limit, np.float64).reshape(self.shape)
        if not np.any(limit):
            return ""
        values, vectors = np.linalg.eigh(limit)
        block, rank = int(np.argmax(values[:, -1])), round(float(np.sum(values)))
        places = np.sort(np.argsort(-np.abs(vectors[block][:, -1]))[:3])
        main = ", ".join(f"{vectors[block][place, -1]:.2g} at {place}" for place in places)
        inside = f" of block {block}" if self.blocks > 1 else ""
        return f"in {rank} direction{'s' * (rank > 1)}, one of them{inside} with entries {main}"

    def in_own_precision(self, function: Any, *args: Any, keep: bool = False) -> Any:
        return in_double(function, *args, keep=keep)

    def across(self, arrays: Sequence[Array]) -> Callable[[list[Array]], list[Array]]:
        """Of all invertible matrices B, under which + legs go to θB and − legs to −θBᵀ.

        T*T B = Q₊B + BQ₋ (Sylvester) is solved in the eigenbases of Q±: d³, where the directions are d² vectors of all
        parameters. A direction whose length is the share s of the longest is projected out to ε/s². That suffices:
        along the orbit of a minimum there is no curvature.
        """
        grams = self.gram(arrays)
        (high, turn_plus), (low, turn_minus) = (eigh(grams.get(power, jnp.zeros(self.shape))) for power in (1, -1))
        sums = high[:, :, None] + low[:, None, :]
        # At 8dε of the largest, as every Gram.
        floor = 8 * self.axis * jnp.finfo(sums.dtype).eps * jnp.max(sums, axis=(1, 2), keepdims=True)
        inverse = jnp.where(sums > floor, 1 / jnp.where(sums > floor, sums, 1), 0)

        def project(vectors: list[Array]) -> list[Array]:
            products = self.product(arrays, vectors)
            along = products.get(1, 0) - jnp.swapaxes(products[-1], 1, 2) if -1 in products else products[1]
            inside = turn_plus @ ((turn_plus.mT @ along @ turn_minus) * inverse) @ turn_minus.mT
            moved = self.multiply(self.only(arrays), {1: inside, -1: -inside.mT})
            return [
                vector if part is None else vector - part.astype(vector.dtype)
                for vector, part in zip(vectors, moved, strict=True)
            ]

        return project

    # --- equilibria

    def vantage(self, arrays: Sequence[Array]) -> Any:
        """The motion to the point of the orbit where both sides have one Gram, and a diagonal one.

        A loss sees the product of its factors, and the noise of one factor in a direction is as strong as the other
        factor. What is weak by s in one of them and strong in the other shows as s² in a Gram; at this point it shows
        as s in either. And as the axis is turned so that its directions come strong and weak one by one, not mixed, the
        rounding errors of each are small against itself. The equilibrium does not depend on where the moments are
        taken, only its precision does. Directions without a finite motion are left alone.
        """

        def of_weights(arrays: list[Array]) -> dict[float, Array]:
            with jax.default_matmul_precision("highest"):
                plus, minus = jax.vmap(_same_grams)(*self._sides(arrays))
            return {1: plus, -1: minus}

        return in_double(of_weights, jax.lax.stop_gradient(self.only(arrays)), keep=True)

    def balance(self, arrays: Sequence[Array], moments: Any, law: Any, samples: Any, gauge: Any = None) -> Balance:
        moving = [array for array in self.only(arrays) if array is not None]
        # The least precise dtype of the legs is that of the gradients which the moments are sums of.
        precision = max((array.dtype for array in moving), key=lambda dtype: float(jnp.finfo(dtype).eps))
        summed = precision_kept(moments)

        def of_matrices(arrays: list[Array], moments: Any, law: Any, samples: Any, gauge: Any) -> Balance:
            return self._balance(arrays, moments, law, samples, gauge, precision, summed)

        return in_double(of_matrices, self.only(arrays), moments, law, samples, gauge, keep=True)

    def _balance(
        self, arrays: list[Array], measured: Any, law: Any, samples: Any, gauge: Any, precision: Any, summed: Any
    ) -> Balance:
        moments = audible(measured, samples, precision)
        whole = eqx.tree_at(lambda m: m.noise, moments, uncentred(moments))
        weights = moments.weight_plus, moments.weight_minus
        grams = [
            [gram.reshape(self.shape) for gram in grams]
            for grams in zip(law.sides(moments), law.sides(whole), weights, strict=True)
        ]
        # Behind a gauge the legs are graded along the axis, from directions where they are strong to those where they
        # are weak; elsewhere the axis is not turned in any such way.
        graded, length = gauge is not None, self.length(arrays)

        def seen(matrix: Array, whole: Array, weight: Array) -> Side:
            return side(matrix, whole, precision, length, weight if graded else None, summed)

        with jax.default_matmul_precision("highest"):
            parts = jax.vmap(split)(jax.vmap(seen)(*grams[0]), jax.vmap(seen)(*grams[1]))
            stuck = self._stuck(arrays if gauge is None else self.multiply(arrays, gauge), parts, precision)
            lowers, raises = (gram for gram, *_ in grams)
            if gauge is not None:
                plus, minus = gauge[1], gauge[-1]
                parts, stuck = jax.vmap(seen_from)((plus, minus), parts, stuck)
                lowers, raises = minus @ lowers @ minus.mT, plus @ raises @ plus.mT
            found = jax.vmap(balance_matrices)(lowers, raises, parts, stuck)
        return found._replace(diverges=jnp.any(found.diverges), idle=jnp.all(found.idle))

    def _stuck(self, arrays: list[Array], parts: Parts, precision: Any) -> tuple[Array, Array]:
        """Projectors on what has no finite limit: of 𝓑, where − legs would be blown up; of 𝓒, where + legs would."""
        arrays = jax.lax.stop_gradient(arrays)

        def full() -> tuple[Array, Array]:
            # Projected before they are squared, so that an empty leg is empty to rounding.
            minus_on_zero = self._sides(self.multiply(arrays, dict.fromkeys([1, -1], parts.to_zero)))[1]
            plus_on_infinity = self._sides(self.multiply(arrays, dict.fromkeys([1, -1], parts.to_infinity)))[0]
            plus, minus = (jnp.trace(jnp.sum(weight, axis=0)) for weight in self._sides(arrays))
            grams = minus_on_zero / jnp.where(minus > 0, minus, 1), plus_on_infinity / jnp.where(plus > 0, plus, 1)
            on_zero, on_infinity = (
                jax.vmap(lambda gram, subspace: occupied(gram, subspace, precision))(gram, subspace)
                for gram, subspace in zip(grams, (parts.to_zero, parts.to_infinity), strict=True)
            )
            return on_zero, on_infinity

        ranks = parts.ranks
        nothing = jnp.zeros_like(parts.to_zero)
        # 𝓑 has rank R − k directions and 𝓒 rank T − k: without any nothing can be stuck.
        return where_needed(jnp.any(ranks.lowers + ranks.raises > 2 * ranks.core), full, (nothing, nothing))

    def _sides(self, arrays: Sequence[Any]) -> tuple[Array, Array]:
        """The Grams of all + legs and of all − legs."""
        grams = self.gram(arrays)
        nothing = jnp.zeros_like(next(iter(grams.values())))
        return grams.get(1, nothing), grams.get(-1, nothing)

    def further_limits(self, limits: tuple[Any, Any], motion: Any, found: Balance) -> tuple[Any, Any]:
        return self.joined_limits(limits, motion, found.dies)

    def joined_limits(self, limits: tuple[Any, Any], motion: Any, more: tuple[Any, Any]) -> tuple[Any, Any]:
        """A limit of the axis after a motion (A of + legs, B of − legs) is one before it: 𝓑 ← B 𝓑 and 𝓒 ← A 𝓒."""

        def carried(motion: Any, limits: tuple[Array, Array], more: tuple[Array, Array]) -> tuple[Array, ...]:
            to_zero, to_infinity = (jax.vmap(_range)(limit) for limit in more)
            moved = jax.vmap(image)
            return limits[0] + moved(motion[-1], to_zero), limits[1] + moved(motion[1], to_infinity)

        return in_double(carried, jax.lax.stop_gradient(motion), limits, more, keep=True)  # pyright: ignore[reportReturnType]

    def end(self, motion: Any, element: Any, limits: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        """The product A of the motions of + legs is P O if it is regular, O orthogonal, and B of − legs P⁻¹ O.

        O is the polar factor of A + B outside of what died on the way.
        """

        def turned_back(motion: Any, limits: tuple[Array, Array]) -> tuple[Any, ...]:
            rotation, *rest = jax.vmap(_rotation)(motion[1], motion[-1], limits)
            return {power: factor @ rotation.mT for power, factor in motion.items()}, *rest

        with jax.default_matmul_precision("highest"):
            return in_double(turned_back, motion, limits, keep=True)

    # --- rates

    def ratios(self, noise: Array, weight: Array, most: int) -> Array:
        if self.axis <= most:
            return self._by_block(all_ratios, noise, weight)
        found = self._by_block(extremes, noise, weight)
        first, last = found.ratios[..., 0], found.ratios[..., 1]
        # A NaN is not an empty direction.
        some_empty = (found.active < self.axis) & ~jnp.isnan(last)
        return jnp.stack([first, jnp.where(some_empty, jnp.inf, last)], axis=-1)

    def extreme_ratios(self, noise: Array, weight: Array) -> Extremes:
        return self._by_block(extremes, noise, weight)

    def _by_block(self, function: Callable[[Array, Array], Any], noise: Array, weight: Array) -> Any:
        with jax.default_matmul_precision("highest"):
            return (function if len(self.public_shape) == 2 else jax.vmap(function))(noise, weight)


def _same_grams(plus: Matrix, minus: Matrix) -> tuple[Matrix, Matrix]:
    """The factors of + and of − legs behind which Q₊ and Q₋ are one diagonal matrix, wherever both act."""
    # The weights are numbers as they stand: their Grams are right to the rounding of double precision.
    parts = split(side(plus, plus, plus.dtype), side(minus, minus, minus.dtype))
    return where_needed(parts.ranks.core < len(plus), lambda: tuple(only_core(parts)), tuple(parts.core))


def _rotation(plus: Matrix, minus: Matrix, limits: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """O, log P, and the projectors on what went to 0 and to ∞, for the factors A and B of many motions."""
    eye = jnp.eye(len(plus), dtype=plus.dtype)
    to_zero, to_infinity = _range(limits[0]), _range(limits[1])
    finite = eye - _range(limits[0] + limits[1])
    both = finite @ (plus + minus)
    rank = jnp.round(jnp.trace(finite)).astype(int)
    root = _psd.pinv(_psd.sqrt(both.T @ both, rank), rank)
    rotation = both @ root
    p = finite @ plus @ rotation.T @ finite
    return rotation, _psd.log((p + p.T) / 2 + eye - finite), to_zero, to_infinity


def _range(matrix: Matrix) -> Matrix:
    """The projector on the range of a sum of projectors."""
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    # Two directions at an angle φ have the eigenvalues 1 ± cos φ: this takes them for one below φ ≈ ε^{1/4}.
    inside = jnp.where(values > jnp.finfo(values.dtype).eps ** 0.5, vectors, 0)
    return inside @ inside.T
