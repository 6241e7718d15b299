"""What a symmetry is once it knows its parameters: a group that acts on them.

There are two kinds. In an elementwise group an element is one number per direction; in a matrix group, one symmetric
matrix per block. What they can do has one form here, so that no other room asks which of them it has.

Parameters come as the list of their arrays, in the order of `flatten`. Inside, elements and charges have the shape
(H, …) of H blocks, also where there is one. *Factors*, which multiply parameters, and Grams are a dictionary with one
entry for each power of the elements, or, where powers are the eigenvalues of a generator, an array along them.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._double import single
from .._numbers import cast


class Balance(NamedTuple):
    """The motion to an equilibrium.

    Attributes:
        motion: the factors of the parameters, or their limits.
        element: log P; −∞ and +∞ in elementwise groups where P goes to 0 or ∞.
        to_zero: the directions where P → 0: 1 or 0 for each, or the projector on them.
        to_infinity: the directions where P → ∞, likewise.
        dies: those of both in which something dies: the ones with a finite limit.
        diverges: whether some direction has no finite limit and is left unmoved.
        idle: whether nothing acts in any direction.
    """

    motion: Any
    element: Any
    to_zero: Any
    to_infinity: Any
    dies: tuple[Any, Any]
    diverges: Array
    idle: Array


class AbstractGroup(eqx.Module):
    """A group of known parameters: how it acts, and what its charge, its equilibrium and its rates are.

    For a group of your own derive from `ElementwiseGroup` or `MatrixGroup`, say what is abstract in the first part
    below, and return it from the `bind` of an `AbstractSymmetry`.

    Attributes:
        of_matrices: which of the two kinds it is.
        legs: those whose Grams add up to `gram`, if there are such: then no gradient of a single sample is built.
    """

    of_matrices: ClassVar[bool]
    legs: ClassVar[Any] = ()

    # --- what a group says of itself

    @property
    @abc.abstractmethod
    def powers(self) -> Any:
        """The powers of its elements that multiply something: a tuple of static numbers, positive and negative."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of elements and charges inside, (H, …)."""

    @property
    @abc.abstractmethod
    def public_shape(self) -> tuple[int, ...]:
        """That of elements and charges as users see them, with the same entries in the same order."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The parameters it moves, for messages."""

    @abc.abstractmethod
    def leaves(self, count: int) -> set[int]:
        """The parameters that it moves, by their places among so many."""

    @abc.abstractmethod
    def product(self, left: Sequence[Any], right: Sequence[Any]) -> Any:
        """leftᵀ right for every power, contracted with everything that the elements cannot see.

        Args:
            left: arrays like the parameters; those that are not moved are not looked at.
            right: likewise.
        """

    @abc.abstractmethod
    def multiply(self, arrays: Sequence[Any], factors: Any) -> list[Any]:
        """The parameters with what belongs to each power multiplied by its factor; others as they are."""

    # --- what its kind says

    @abc.abstractmethod
    def exponential(self, element: Float[Array, "*shape"]) -> Any:
        """The factors e^{power × element}."""

    @abc.abstractmethod
    def near_identity(self, element: Float[Array, "*shape"]) -> Any:
        """Factors that are those of an element of the group, and of e^{element} to first order."""

    @abc.abstractmethod
    def identity(self, dtype: Any) -> Any:
        """The factors that move nothing."""

    @abc.abstractmethod
    def compose(self, first: Any, second: Any) -> Any:
        """The factors of one motion after another."""

    @abc.abstractmethod
    def zero(self, dtype: Any) -> Any:
        """The element that moves nothing, as it is kept."""

    @abc.abstractmethod
    def sum_of(self, first: Any, *others: Any) -> Any:
        """The element of one motion after others, where elements commute; where they do not it means nothing."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """How many numbers an element has."""

    @abc.abstractmethod
    def coordinates(self, element: Array) -> Float[Array, " dimension"]:
        """An element or a charge as numbers, in an orthonormal basis for Tr[AB]."""

    @abc.abstractmethod
    def element_of(self, numbers: Float[Array, " dimension"]) -> Float[Array, "*shape"]:
        """The inverse of `coordinates`."""

    @abc.abstractmethod
    def on_basis(self, values: Float[Array, "*shape"], squared: bool = False) -> Float[Array, " basis"]:
        """Tr[B C], or Tr[B² C] if `squared`, for a value C and every element B of a basis of single entries."""

    @abc.abstractmethod
    def name_of(self, place: int) -> str:
        """An element of that basis in words."""

    @abc.abstractmethod
    def direction_of(self, limit: Any) -> str:
        """A direction that goes to 0 or to ∞ in words; empty if there is none."""

    @abc.abstractmethod
    def in_own_precision(self, function: Any, *args: Any, keep: bool = False) -> Any:
        """`function(*args)` in the precision that the group needs: matrices in double, numbers as they are."""

    @abc.abstractmethod
    def across(self, arrays: Sequence[Array]) -> Any:
        """The map of vectors like the parameters to their part across the orbit: v − T(T*T)⁻¹T*v, T(B) = Aθ."""

    @abc.abstractmethod
    def vantage(self, arrays: Sequence[Array]) -> Any:
        """A motion to where moments show all that they can, a constant for derivatives; None if it makes no odds."""

    @abc.abstractmethod
    def balance(self, arrays: Sequence[Array], moments: Any, law: Any, samples: Any, gauge: Any = None) -> Balance:
        """The motion from a point to the equilibrium, other groups held fixed.

        Args:
            arrays: the parameters.
            moments: the moments of the symmetry there, or behind the gauge if there is one.
            law: the coefficients of the law of motion, see `ChargeLaw`.
            samples: how many gradients the moments are sums of.
            gauge: a motion of `vantage`, behind which the moments were taken.
        """

    @abc.abstractmethod
    def further_limits(self, limits: tuple[Any, Any], motion: Any, found: Balance) -> tuple[Any, Any]:
        """The directions that went to 0 and to ∞, with those that did after a motion, as seen from its start.

        Args:
            limits: positive on those that did before; 0 on the others.
            motion: the factors until now.
            found: what follows.
        """

    @abc.abstractmethod
    def joined_limits(self, limits: tuple[Any, Any], motion: Any, more: tuple[Any, Any]) -> tuple[Any, Any]:
        """The same for two motions of many steps, each with limits of its own."""

    @abc.abstractmethod
    def end(self, motion: Any, element: Any, limits: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
        """The motion of many steps as that of one element.

        Args:
            motion: the product of their factors.
            element: the sum of their elements.
            limits: see `further_limits`.

        Returns:
            The factors, log P, and the directions that went to 0 and to ∞; for matrices without the rotation that their
            products leave behind.
        """

    @abc.abstractmethod
    def ratios(self, noise: Array, weight: Array, most: int) -> Array:
        """Ascending ratios M/N, generalised eigenvalues for matrices, of public shape; +inf where N is empty.

        Args:
            noise: M = M₊ + M₋, legs counted with their power squared.
            weight: N = Q₊ + Q₋, likewise.
            most: the longest axis of a matrix for which all of them are given; of longer ones the extremes.
        """

    @abc.abstractmethod
    def extreme_ratios(self, noise: Array, weight: Array) -> Any:
        """The smallest and the largest of these that is not +inf, (…, 2), their directions, and how many are finite."""

    # --- what follows from all that

    def require_spectrum(self, what: str) -> None:
        """Raise a ValueError if the powers are not known."""

    def gram(self, arrays: Sequence[Any]) -> Any:
        """The Gram of vectors shaped like the parameters, for every power."""
        return self.product(arrays, arrays)

    def charge(self, arrays: Sequence[Array]) -> Float[Array, "*shape"]:
        """Q = Q₊ − Q₋ = Σ power × Gram."""
        return self.weighted(self.gram(arrays))

    def weighted(self, values: Any, exponent: int = 1) -> Float[Array, "*shape"]:
        """Σ power^exponent × value over the powers."""
        if isinstance(self.powers, tuple):
            return sum(cast(power**exponent, value) * value for power, value in values.items())  # pyright: ignore[reportReturnType]
        # At its default precision a GPU would round the factors to TF32.
        return jnp.tensordot(cast(self.powers, values) ** exponent, values, axes=1, precision=jax.lax.Precision.HIGHEST)

    def tangent(self, arrays: Sequence[Array], element: Array) -> list[Array]:
        """Aθ, the derivative of the action along an element; 0 on parameters that are not moved."""
        moved = self.multiply(self.only(arrays), self.each(lambda power: jnp.multiply(*outer(power, element))))
        return [jnp.zeros_like(array) if part is None else part for part, array in zip(moved, arrays, strict=True)]

    def lengths(self, arrays: Sequence[Array]) -> Float[Array, " basis"]:
        """‖Aθ‖ for every element of the basis of `on_basis`."""
        return jnp.sqrt(self.on_basis(self.weighted(self.gram(arrays), 2), squared=True))

    def each(self, function: Any) -> Any:
        """A value for every power: of each, or of the array of them."""
        if isinstance(self.powers, tuple):
            return {power: function(power) for power in self.powers}
        return function(self.powers)

    def public(self, value: Any) -> Array:
        """An element or a charge as users see it, rounded to the precision they have."""
        return single(value).reshape(self.public_shape)

    def internal(self, element: Any) -> Float[Array, "*shape"]:
        """The inverse of `public`.

        Raises:
            ValueError: if the element has another shape than the charge.
        """
        element = jnp.asarray(element)
        if not jnp.issubdtype(element.dtype, jnp.floating):
            element = element.astype(float)
        if element.shape != self.public_shape:
            raise ValueError(
                f"the element has shape {element.shape}; expected {self.public_shape}, the shape of the charge."
            )
        return element.reshape(self.shape)

    @property
    def blocks(self) -> int:
        """H."""
        return self.shape[0] if self.shape else 1

    @property
    def size(self) -> int:
        """How many numbers a charge has."""
        return math.prod(self.shape)

    def only(self, arrays: Sequence[Any]) -> list[Any]:
        """The parameters that it moves in their places, 0 at entries that it does not move; None in the others."""
        leaves = self.leaves(len(arrays))
        return [array if place in leaves else None for place, array in enumerate(arrays)]


def outer(power: Any, element: Array) -> tuple[Array, Array]:
    """A power, or each of an array of them, to be multiplied with an element."""
    power = cast(power, element)
    return power.reshape(*power.shape, *[1] * element.ndim), element


def audible(moments: Any, samples: Any, precision: Any) -> Any:
    """The moments without a noise that is all rounding.

    Args:
        moments: the moments.
        samples: N.
        precision: the dtype of single gradients and of their mean; the sums of squares may be more precise.
    """

    def size(grams: Any) -> Array:
        totals = [jnp.sum(jnp.abs(gram)) for gram in jax.tree_util.tree_leaves(grams)]
        return jnp.sum(jnp.stack(totals))

    # A threshold has no derivative, and |·| none at 0.
    noise, mean, whole = jax.lax.stop_gradient((size(moments.noise), size(moments.mean), size(uncentred(moments))))
    squares = float(jnp.finfo(noise.dtype).eps)
    # Sums are taken at least in single precision, also of half-precision gradients.
    rounding = min(float(jnp.finfo(precision).eps), float(jnp.finfo(jnp.float32).eps))
    # Sums over N equal samples err by up to about Nε/8 of them, and the square of the mean by twice that. Gradients
    # that should be equal, and are each wrong by a few roundings, look like a noise of the square of that.
    heard = noise > cast(samples, noise) / 4 * (squares * whole + rounding * mean) + (8 * rounding) ** 2 * whole
    left = jax.tree_util.tree_map(lambda gram: jnp.where(heard, gram, 0), moments.noise)
    return eqx.tree_at(lambda m: m.noise, moments, left)


def uncentred(moments: Any) -> Any:
    """The noise without centring: the size against which its rounding errors are small."""
    return jax.tree_util.tree_map(jnp.add, moments.noise, moments.mean)
