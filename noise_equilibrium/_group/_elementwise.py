"""One number per direction: scalar, diagonal and exponential symmetries, P = e^λ with legs of any power."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._numbers import cast
from ._abstract import AbstractGroup, Balance, audible, outer, uncentred
from ._ratios import Extremes, extreme_entries, quotient
from ._root import Spectrum, flow_root


class ElementwiseGroup(AbstractGroup):
    """A group whose elements are numbers that do not see each other, λ of any shape (H, …).

    To derive one, give `powers`, `shape`, `public_shape`, `name`, `leaves`, `product` and `multiply`; factors and Grams
    are dictionaries from each power to an array of the shape of an element.

    Examples:
        Rows of one parameter that are scaled in pairs, e^λ on the first row of a pair and e^{−λ} on the second:

        >>> import equinox as eqx, jax.numpy as jnp, noise_equilibrium as ne
        >>> class Pairs(ne.ElementwiseGroup):
        ...     count: int = eqx.field(static=True)
        ...     powers = (1, -1)
        ...     name = "pairs of rows"
        ...     shape = property(lambda self: (1, self.count))
        ...     public_shape = property(lambda self: (self.count,))
        ...
        ...     def leaves(self, count):
        ...         return {0}
        ...
        ...     def product(self, left, right):
        ...         rows = jnp.sum(left[0] * right[0], axis=1)
        ...         return {1: rows[None, 0::2], -1: rows[None, 1::2]}
        ...
        ...     def multiply(self, arrays, factors):
        ...         each = jnp.stack([factors[1][0], factors[-1][0]], axis=1).ravel()
        ...         return [arrays[0] * each[:, None], *arrays[1:]]
        >>> class PairsOfRows(ne.AbstractSymmetry):
        ...     def bind(self, params):
        ...         return Pairs(len(params) // 2)
        >>> PairsOfRows().charge(jnp.array([[2.0], [1.0], [1.0], [3.0]])).tolist()  # 4 − 1, 1 − 9
        [3.0, -8.0]
    """

    of_matrices: ClassVar[bool] = False

    def exponential(self, element: Array) -> Any:
        return self.each(lambda power: jnp.exp(jnp.multiply(*outer(power, element))))

    def near_identity(self, element: Array) -> Any:
        return self.exponential(element)

    def identity(self, dtype: Any) -> Any:
        return self.exponential(jnp.zeros(self.shape, dtype))

    def compose(self, first: Any, second: Any) -> Any:
        return jax.tree_util.tree_map(jnp.multiply, first, second)

    def zero(self, dtype: Any) -> Array:
        return jnp.zeros(self.shape, dtype)

    def sum_of(self, first: Any, *others: Any) -> Any:
        return sum(others, first)

    @property
    def dimension(self) -> int:
        return math.prod(self.shape)

    def coordinates(self, element: Array) -> Array:
        return element.ravel()

    def element_of(self, numbers: Array) -> Array:
        return numbers.reshape(self.shape)

    def on_basis(self, values: Array, squared: bool = False) -> Array:
        return values.ravel()

    def name_of(self, place: int) -> str:
        if len(self.shape) < 2:
            return "1" + self._of_block(place)
        block, inside = divmod(place, math.prod(self.shape[1:]))
        return f"B[{inside}]" + self._of_block(block)

    def _of_block(self, block: int) -> str:
        return f" of block {block}" if self.blocks > 1 else ""

    def direction_of(self, limit: Any) -> str:
        places = np.flatnonzero(np.asarray(limit))
        if not places.size:
            return ""
        more = f" and {places.size - 1} others" if places.size > 1 else ""
        index = np.unravel_index(int(places[0]), self.public_shape)
        return f"at [{', '.join(map(str, map(int, index)))}]{more}" if index else "as a whole"

    def in_own_precision(self, function: Any, *args: Any, keep: bool = False) -> Any:
        return function(*args)

    def across(self, arrays: Sequence[Array]) -> Callable[[list[Array]], list[Array]]:
        square = self.weighted(self.gram(arrays), 2)
        # An empty direction is not moved by its element: it has no part along the orbit, and the inner choice no 1/0.
        inverse = jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1), 0)

        def project(vectors: list[Array]) -> list[Array]:
            inside = inverse * self.weighted(self.product(arrays, vectors))
            moved = self.tangent(arrays, inside)
            return [vector - part.astype(vector.dtype) for vector, part in zip(vectors, moved, strict=True)]

        return project

    def vantage(self, arrays: Sequence[Array]) -> None:
        return None

    def balance(self, arrays: Sequence[Array], moments: Any, law: Any, samples: Any, gauge: Any = None) -> Balance:
        heard = audible(moments, samples, moments.weight_plus.dtype)
        whole = eqx.tree_at(lambda m: m.noise, heard, uncentred(heard))
        spectrum, resolution = (self._spectrum(law.spectrum(one)) for one in (heard, whole))
        sides = heard.weight_plus.reshape(self.shape) > 0, heard.weight_minus.reshape(self.shape) > 0
        return balance_elements(spectrum, resolution, jax.lax.stop_gradient(sides), moments.powers)

    def _spectrum(self, values: tuple[Array, Array, Array]) -> Spectrum:
        sizes, lowers, raises = values
        return Spectrum(sizes, lowers.reshape(-1, *self.shape), raises.reshape(-1, *self.shape))

    def further_limits(self, limits: tuple[Any, Any], motion: Any, found: Balance) -> tuple[Any, Any]:
        return self.joined_limits(limits, motion, (found.to_zero, found.to_infinity))

    def joined_limits(self, limits: tuple[Any, Any], motion: Any, more: tuple[Any, Any]) -> tuple[Any, Any]:
        return jnp.maximum(limits[0], more[0]), jnp.maximum(limits[1], more[1])

    def end(self, motion: Any, element: Any, limits: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        return motion, element, *limits

    def ratios(self, noise: Array, weight: Array, most: int) -> Array:
        return quotient(noise, weight)

    def extreme_ratios(self, noise: Array, weight: Array) -> Extremes:
        return extreme_entries(noise, weight, len(self.public_shape) - int(self.blocks > 1))


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
    # The errors of centring are roundings of the sums before it: what is below a few of these is none.
    down = lowers > 8 * eps * resolution.total(resolution.lowers)
    up = raises > 8 * eps * resolution.total(resolution.raises)
    finite = down & up
    if isinstance(powers, tuple) and len({abs(power) for power in powers}) == 1:
        # Roots before the quotient: it would overflow where |λ| > 177.
        ratio = jnp.sqrt(jnp.where(finite, raises, 1)) / jnp.sqrt(jnp.where(finite, lowers, 1))
        element = jnp.log(ratio) / (2 * abs(powers[0]))
    else:
        proper = [
            # Below rounding a power does not act; where nothing is solved for, spectra of ones have a root, and finite
            # derivatives.
            jnp.where(finite, jnp.where(values >= 8 * eps * whole, values, 0), 1)
            for values, whole in zip(spectrum[1:], resolution[1:], strict=True)
        ]
        element = flow_root(Spectrum(spectrum.sizes, *proper))
    dies_plus, dies_minus = down & ~up, up & ~down
    diverges = (dies_plus & occupied[1]) | (dies_minus & occupied[0])

    def factor(power: Any) -> Array:
        moving = jnp.exp(cast(power, element) * element)
        # What has the power 0 does not move, whatever becomes of P.
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
