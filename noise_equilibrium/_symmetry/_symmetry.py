"""A symmetry: legs and an algebra, with its charge, its action and its generator."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._numbers import cast, jit
from .._parameters import split
from ._algebra import ALGEBRAS, Algebra
from ._leg import BoundLeg, Leg, bind_leg


@jax.tree_util.register_static
@dataclass(frozen=True)
class BoundSymmetry:
    """A symmetry of known parameters: static and hashable, so that it is a constant of a compiled program.

    Its methods take the list of parameter arrays (see `flatten`) and keep the block axis H in front.
    """

    legs: tuple[BoundLeg, ...]
    algebra: Algebra
    blocks: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of elements and charges, with the block axis."""
        return self.algebra.shape(self.blocks, self.size)

    def public(self, value: Array) -> Array:
        """A charge or element as the user sees it: without the block axis if there is one block."""
        return value[0] if self.blocks == 1 else value

    def internal(self, element: Array) -> Array:
        """The inverse of `public`.

        Raises:
            ValueError: if the element has another shape than the algebra asks for.
        """
        element = jnp.asarray(element)
        if not jnp.issubdtype(element.dtype, jnp.floating):
            element = element.astype(float)
        expected = self.shape[1:] if self.blocks == 1 else self.shape
        if element.shape != expected:
            raise ValueError(f"the element has shape {element.shape}; expected {expected}, the shape of the charge.")
        return element[None] if self.blocks == 1 else element

    def grams(self, arrays: Sequence[Array]) -> dict[float, Array]:
        """For each power, the sum of the Grams of its legs."""
        totals: dict[float, Array] = {}
        for leg in self.legs:
            gram = self.algebra.gram(leg.to_matrix(arrays[leg.index]))
            totals[leg.power] = totals[leg.power] + gram if leg.power in totals else gram
        return totals

    def transform(self, arrays: Sequence[Array], factors: dict[float, Any]) -> list[Array]:
        """Every leg with its axis multiplied by the factor of its power; other parameters as they are."""
        moved = list(arrays)
        for leg in self.legs:
            array = arrays[leg.index]
            matrix = self.algebra.apply(leg.to_matrix(array), factors[leg.power])
            moved[leg.index] = leg.from_matrix(matrix, array)
        return moved


class AbstractSymmetry(eqx.Module):
    """A continuous symmetry θ → e^{B}θ with a charge: what every symmetry can do."""

    @abc.abstractmethod
    def bind(self, params: PyTree) -> Any:
        """The symmetry of these parameters, checked against them: what computations work with."""

    @abc.abstractmethod
    def charge(self, params: PyTree) -> Array:
        """Q(θ); the Noether charge of an element B is C_B = Tr[B Q]."""

    @abc.abstractmethod
    def act(self, params: PyTree, element: Array) -> PyTree:
        """e^{element} θ, Eq. (8)."""

    @abc.abstractmethod
    def generator(self, params: PyTree, element: Array) -> PyTree:
        """A θ, the derivative of `act(params, ρ·element)` at ρ = 0; Definition 4.1."""


class Symmetry(AbstractSymmetry):
    """A symmetry that multiplies axes of parameters by powers of one P = e^{element}.

    Args:
        legs: the axes and their powers.
        algebra: which elements are allowed: "scalar" (a number), "diagonal" (a vector, one number per index of the
            axis) or "symmetric" (a symmetric matrix on the axis). With `blocks=H` there is one element per block.

    Raises:
        ValueError: at once for an unknown algebra, no legs, or legs that do not fit it; when params are first seen, for
            legs that select nothing usable, axes that differ in length, or a parameter in two legs.

    Not checked: that the loss has the symmetry.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> symmetry = ne.Symmetry([ne.Leg(lambda p: p["u"], power=1), ne.Leg(lambda p: p["w"], power=-1)], "scalar")
        >>> params = {"u": jnp.array([3.0]), "w": jnp.array([1.0, 2.0])}
        >>> float(symmetry.charge(params))  # ‖u‖² − ‖w‖², Eq. (6)
        4.0
    """

    legs: tuple[Leg, ...] = eqx.field(static=True)
    algebra: str = eqx.field(static=True)

    def __init__(self, legs: Sequence[Leg], algebra: str):
        if isinstance(legs, Leg) or not all(isinstance(leg, Leg) for leg in legs):
            raise ValueError(f"legs is {legs!r}; expected a sequence of Leg objects.")
        self.legs = tuple(legs)
        self.algebra = algebra
        if not isinstance(algebra, str) or algebra not in ALGEBRAS:
            raise ValueError(f"algebra is {algebra!r}; expected one of {', '.join(map(repr, ALGEBRAS))}.")
        if not self.legs:
            raise ValueError("a symmetry without legs does nothing; expected at least one Leg.")
        for leg in self.legs:
            if algebra != "scalar" and leg.axis is None:
                raise ValueError(f"a leg has axis=None; expected an axis, because the algebra is {algebra!r}.")
            if algebra == "symmetric" and abs(leg.power) != 1:
                raise ValueError(
                    f"a leg has power {leg.power}; expected +1 or −1, because powers of P do not act on matrices as a "
                    "group. Other powers belong to the scalar and diagonal algebras."
                )
        blocks = {leg.blocks for leg in self.legs}
        if len(blocks) > 1:
            raise ValueError(f"the legs have {sorted(blocks)} blocks; expected the same number in every leg.")

    def bind(self, params: PyTree) -> BoundSymmetry:
        """The symmetry of these parameters, with every leg resolved and checked; works on shapes alone."""
        legs = tuple(bound for leg in self.legs for bound in bind_leg(leg, params))
        indices = [leg.index for leg in legs]
        for leg in legs:
            if indices.count(leg.index) > 1:
                raise ValueError(f"{leg.name} is in two legs of one symmetry; expected at most one leg per parameter.")
        sizes = {leg.name: leg.size for leg in legs}
        if self.algebra != "scalar" and len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise ValueError(f"the axes of the legs differ in length ({listed}); expected one length for all.")
        return BoundSymmetry(legs, ALGEBRAS[self.algebra], self.legs[0].blocks, legs[0].size)

    def charge(self, params: PyTree) -> Array:
        """Q = Σ_legs power × Gram: the Noether charge, Eq. (6); C_B = Tr[B Q].

        Args:
            params: the parameters, any pytree.

        Returns:
            A scalar, (d,) or (d, d) for the scalar, diagonal and symmetric algebras; (H, …) with H blocks.

        Raises:
            ValueError: if a leg does not fit params.
        """
        return _charge(self.bind(params), split(params)[0])

    def act(self, params: PyTree, element: Array) -> PyTree:
        """e^{element} θ, Eq. (8): every leg's axis multiplied by e^{power × element}.

        Args:
            params: the parameters, any pytree.
            element: of the charge's shape; symmetric matrices in the symmetric algebra (not checked).

        Raises:
            ValueError: if the element has the wrong shape.
        """
        bound = self.bind(params)
        element = bound.internal(element)
        arrays, rebuild = split(params)
        powers = {leg.power for leg in bound.legs}
        factors = {power: bound.algebra.exponential(cast(power, element) * element) for power in powers}
        return rebuild(bound.transform(arrays, factors))

    def generator(self, params: PyTree, element: Array) -> PyTree:
        """A θ = d/dρ act(params, ρ·element) at ρ = 0, Definition 4.1; zero on parameters outside the legs.

        Args:
            params: the parameters, any pytree.
            element: of the charge's shape.

        Returns:
            A pytree like params; leaves that are not parameters are left in place.

        Raises:
            ValueError: if the element has the wrong shape.
        """
        bound = self.bind(params)
        element = bound.internal(element)
        arrays, rebuild = split(params)
        tangents = bound.transform(arrays, {leg.power: cast(leg.power, element) * element for leg in bound.legs})
        inside = {leg.index for leg in bound.legs}
        return rebuild([t if index in inside else jnp.zeros_like(t) for index, t in enumerate(tangents)])


@jit
def _charge(symmetry: BoundSymmetry, arrays: list[Array]) -> Array:
    return symmetry.public(sum(cast(power, gram) * gram for power, gram in symmetry.grams(arrays).items()))  # pyright: ignore[reportArgumentType]
