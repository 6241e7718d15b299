"""A symmetry: legs and an algebra, with its charge, its action and its generator."""

import abc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._group import AbstractGroup, ElementwiseGroup, MatrixGroup
from .._numbers import jit
from .._parameters import split
from ._algebra import ALGEBRAS, Algebra
from ._leg import BLOCK, BoundLeg, Leg, bind_leg
from ._pattern import ACTED, factors


class BoundSymmetry(AbstractGroup):
    """A group that multiplies axes of parameters: legs, and an algebra.

    Static, so that it is a constant of a compiled program.
    """

    legs: tuple[BoundLeg, ...] = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    algebra: Algebra = eqx.field(static=True)

    @property
    def powers(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(leg.power for leg in self.legs))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.algebra.shape(self.legs[0].blocks, self.legs[0].size)

    @property
    def public_shape(self) -> tuple[int, ...]:
        return self.shape[1:] if self.blocks == 1 else self.shape

    @property
    def name(self) -> str:
        return ", ".join(leg.title for leg in self.legs)

    def leaves(self, count: int) -> set[int]:
        return {leg.index for leg in self.legs}

    def product(self, left: Sequence[Any], right: Sequence[Any]) -> dict[float, Array]:
        totals: dict[float, Array] = {}
        for leg in self.legs:
            part = self.algebra.product(leg.to_matrix(left[leg.index]), leg.to_matrix(right[leg.index]))
            totals[leg.power] = totals[leg.power] + part if leg.power in totals else part
        return totals

    def multiply(self, arrays: Sequence[Any], factors: dict[float, Any]) -> list[Any]:
        moved = list(arrays)
        for leg in self.legs:
            array = arrays[leg.index]
            matrix = self.algebra.apply(leg.to_matrix(array), factors[leg.power])
            moved[leg.index] = leg.from_matrix(matrix, moved[leg.index])  # which another leg may have moved elsewhere
        return moved

    def only(self, arrays: Sequence[Any]) -> list[Any]:
        inside: list[Any] = [None] * len(arrays)
        for leg in self.legs:
            array = arrays[leg.index]
            if leg.is_part:  # entries beside the legs are not moved either
                so_far = jnp.zeros_like(array) if inside[leg.index] is None else inside[leg.index]
                array = leg.from_matrix(leg.to_matrix(array), so_far)
            inside[leg.index] = array
        return inside


class ElementwiseLegs(BoundSymmetry, ElementwiseGroup):
    """Legs that numbers multiply: the scalar and the diagonal algebra."""


class MatrixLegs(BoundSymmetry, MatrixGroup):
    """Legs that matrices multiply: the symmetric algebra."""

    def length(self, arrays: Sequence[Any]) -> int:
        return max(leg.rows for leg in self.legs)


class AbstractSymmetry(eqx.Module):
    """A continuous symmetry θ → e^{B}θ with a charge.

    For one of your own say in `bind` which group it is of given parameters, see `ElementwiseGroup`.
    """

    @abc.abstractmethod
    def bind(self, params: PyTree) -> AbstractGroup:
        """The symmetry of these parameters, checked against them: what computations work with."""

    def charge(self, params: PyTree) -> Array:
        """Q = Σ power × Gram: the Noether charge, Eq. (6); that of an element B is C_B = Tr[B Q].

        Args:
            params: the parameters, any pytree.

        Returns:
            For legs a scalar, (d,) or (d, d) in the scalar, diagonal and symmetric algebras; (H, …) with H blocks. For
            a generator the scalar θᵀAθ.

        Raises:
            ValueError: if the symmetry does not fit params.
        """
        return _charge(self.bind(params), split(params)[0])

    def act(self, params: PyTree, element: Array) -> PyTree:
        """e^{element} θ, Eq. (8).

        Args:
            params: the parameters, any pytree.
            element: of the charge's shape; symmetric matrices in the symmetric algebra (not checked).

        Raises:
            ValueError: if the symmetry does not fit params, or is of a matrix-free generator; if the element has the
                wrong shape.
        """
        group = self.bind(params)
        group.require_spectrum("the group action")
        arrays, rebuild = split(params)
        return rebuild(group.multiply(arrays, group.exponential(group.internal(element))))

    def generator(self, params: PyTree, element: Array) -> PyTree:
        """A θ = d/dρ act(params, ρ·element) at ρ = 0, Definition 4.1; zero on parameters that are not moved.

        Args:
            params: the parameters, any pytree.
            element: of the charge's shape.

        Returns:
            A pytree like params; leaves that are not parameters are left in place.

        Raises:
            ValueError: as `act`; a matrix-free generator is good enough.
        """
        group = self.bind(params)
        arrays, rebuild = split(params)
        return rebuild(group.tangent(arrays, group.internal(element)))


class Symmetry(AbstractSymmetry):
    """A symmetry that multiplies axes of parameters by powers of one P = e^{element}.

    Args:
        legs: the axes and their powers.
        algebra: which elements are allowed: "scalar" (a number), "diagonal" (a vector, one number per index of the
            axis) or "symmetric" (a symmetric matrix on the axis). With blocks there is one element per block.

    Raises:
        ValueError: at once for an unknown algebra, no legs, or legs that do not fit it; when params are first seen, for
            legs that select nothing usable, axes or blocks that differ in length, or an entry in two legs.

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
            if algebra != "scalar" and isinstance(leg.axis, str) and ACTED not in leg.axis:
                raise ValueError(
                    f"a leg has axis {leg.axis!r}, in which nothing is acted on; expected '{ACTED}' once, because the "
                    f"algebra is {algebra!r}."
                )
        blocks = {leg.blocks for leg in self.legs if not isinstance(leg.axis, str)}
        if len(blocks) > 1:
            raise ValueError(f"the legs have {sorted(blocks)} blocks; expected the same number in every leg.")

    def bind(self, params: PyTree) -> BoundSymmetry:
        """The symmetry of these parameters, with every leg resolved and checked; works on shapes alone."""
        names = [[factor.role for factor in factors(leg.pattern) if factor.is_block] for leg in self.legs]
        (block,) = next((several for several in names if len(several) == 1), (BLOCK,))
        legs = [bound for leg in self.legs for bound in bind_leg(leg, params, block)]
        for place, leg in enumerate(legs):
            for other in legs[:place]:
                if leg.meets(other):
                    raise ValueError(
                        f"{leg.name} is in two legs of one symmetry, {other} and {leg}, that have entries in common; "
                        "expected every entry in at most one leg."
                    )
        order, widths = legs[0].order, legs[0].block_widths
        for leg in legs:
            if leg.block_widths != widths:
                raise ValueError(
                    f"the legs {legs[0]} and {leg} differ in their blocks ({_listed(widths)}; "
                    f"{_listed(leg.block_widths)}); expected the same names with the same lengths in every leg."
                )
        sizes = {leg.size for leg in legs}
        if self.algebra != "scalar" and len(sizes) > 1:
            listed = ", ".join(f"{leg.name}: {leg.size}" for leg in legs)
            whole = "; ".join(map(str, legs))
            raise ValueError(
                f"the axes of the legs differ in length ({listed}); expected one length for all of what '{ACTED}' "
                f"stands for in {whole}. An axis that holds more, such as a flattened image, is read as a product: "
                "'(_36 *) _' if the channels are last, '(* _36) _' if they are first."
            )
        group = MatrixLegs if self.algebra == "symmetric" else ElementwiseLegs
        return group(tuple(replace(leg, order=order) for leg in legs), ALGEBRAS[self.algebra])


def _listed(widths: dict[str, int]) -> str:
    return ", ".join(f"{name}={width}" for name, width in widths.items()) or "none"


def share_entries(first: AbstractGroup, second: AbstractGroup, count: int) -> bool:
    """Whether two groups move some entry of the parameters, of which there are so many arrays, both of them."""
    if not first.leaves(count) & second.leaves(count):
        return False
    if isinstance(first, BoundSymmetry) and isinstance(second, BoundSymmetry):
        return any(one.meets(other) for one in first.legs for other in second.legs)
    return True


@jit
def _charge(group: AbstractGroup, arrays: list[Array]) -> Array:
    return group.public(group.charge(arrays))
