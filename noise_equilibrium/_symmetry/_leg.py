"""A leg: an axis of a parameter, or a part of one, that a symmetry multiplies by a power of P."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._parameters import is_array, is_parameter
from ._pattern import ACTED, SHARED, Axes, factors, fit, meet, parse, spelled, whole

BLOCK = "block"  # the name of blocks that are a number of parts of an axis


@dataclass(frozen=True)
class Leg:
    """An axis of the parameter `where(params)`, or a part of it, is multiplied by P^power, P = e^{element}.

    A *pattern* in the place of `axis` says which part. It has one item for every axis of the parameter, and reads an
    axis in parentheses as a product of factors, outermost first, as einops does:

    - `*` is acted on: the axis that P multiplies, exactly once (in the scalar algebra it may be missing);
    - a name carries an element each: a block, such as heads or layers. All legs of a symmetry have the same names with
      the same lengths, and the charge has them in front in the order of the first leg, flattened into one axis;
    - `_` shares the element: other axes, positions of a flattened image, query heads of a group.

    A length may follow (`*16`, `head=4`, `_3`), and must for all but one factor of an axis; and an index or a range of
    the factor, if the rest of it is not part of the leg (`_3[0]`, `*96[0:64]`). A parameter may be in several legs of
    a symmetry that have no entry in common.

        queries of a fused (3·H·k, D) matrix         "(_3[0] head=4 *) _"
        keys shared by 3 query heads, and queries    "(group=2 *) _", "(group=2 _3 *) _"
        gate of a fused gate and up projection       "(_2[0] *) _"
        layers stacked and scanned                   "layer * _"
        dense after flatten, channels last           "(_36 *) _"

    Args:
        where: `where(params)` selects the parameter; with `axis=None` it may select a subtree, every parameter of which
            is scaled. It sees the structure only: select, do not compute.
        axis: the axis that P multiplies, or a pattern; None scales the whole parameter (scalar algebra only).
        power: +1 or −1; in the scalar and diagonal algebras any non-zero number (homogeneous activations).
        blocks: splits an axis that is a number into that many groups with an element each (attention heads).

    Raises:
        ValueError: if the power is 0, if blocks < 1, if blocks > 1 comes with axis=None or a pattern, or if a string is
            not a pattern.

    Examples:
        Queries and keys of two heads in one matrix, which the scores multiply with each other:

        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> queries = ne.Leg(lambda p: p["qkv"], "(_3[0] head=2 *) _", +1)
        >>> keys = ne.Leg(lambda p: p["qkv"], "(_3[1] head=2 *) _", -1)
        >>> symmetry = ne.Symmetry([queries, keys], "symmetric")
        >>> params = {"qkv": jnp.ones((3 * 2 * 4, 8))}
        >>> symmetry.charge(params).shape
        (2, 4, 4)
        >>> print(symmetry.bind(params).legs[0])
        params['qkv'] "(_3[0] head=2 *4) _8"
    """

    where: Callable[[PyTree], Any]
    axis: int | str | None = None
    power: float = 1
    blocks: int = 1

    def __post_init__(self) -> None:
        if not callable(self.where):
            raise ValueError(
                f"where is {self.where!r}; expected a function that selects a parameter, "
                "such as lambda params: params['w']."
            )
        if self.axis is not None and not isinstance(self.axis, numbers.Integral | str):
            raise ValueError(
                f"axis is {self.axis!r}; expected an integer, a pattern such as '(head=4 *) _', or None for the whole "
                "parameter."
            )
        if not isinstance(self.power, numbers.Real) or not math.isfinite(self.power) or self.power == 0:
            raise ValueError(f"power is {self.power!r}; expected +1, −1 or another non-zero number.")
        if not isinstance(self.blocks, numbers.Integral) or self.blocks < 1 or (self.blocks > 1 and self.axis is None):
            raise ValueError(
                f"blocks is {self.blocks} with axis {self.axis}; "
                "expected blocks ≥ 1, and an axis to split if blocks > 1."
            )
        if isinstance(self.axis, str):
            if self.blocks > 1:
                raise ValueError(
                    f"blocks is {self.blocks} with axis {self.axis!r}; expected blocks by name in a pattern: "
                    f"'(head={self.blocks} *)' reads an axis as that many heads."
                )
            parse(self.axis)

    @property
    def pattern(self) -> Axes:
        """What a pattern says, with open lengths; nothing for an axis that is a number."""
        return parse(self.axis) if isinstance(self.axis, str) else ()


@dataclass(frozen=True)
class BoundLeg:
    """A leg of known parameters: a static, hashable description that costs nothing to rebuild.

    Attributes:
        index: the position of the parameter among the parameters (see `flatten`).
        axes: how each axis of the parameter is read, with all lengths.
        power: the power of P.
        order: the names of the blocks, outermost first in the H of charges.
        name: the path of the parameter, for messages.
    """

    index: int
    axes: Axes
    power: float
    order: tuple[str, ...]
    name: str

    @property
    def blocks(self) -> int:
        """H, the number of blocks."""
        return math.prod(factor.width for factor in factors(self.axes) if factor.is_block)

    @property
    def size(self) -> int:
        """k, the number of indices that are acted on in a block."""
        return math.prod(factor.width for factor in factors(self.axes) if factor.role == ACTED)

    @property
    def rows(self) -> int:
        """m, the number of entries that share an element."""
        return math.prod(factor.width for factor in factors(self.axes) if factor.role == SHARED)

    @property
    def is_part(self) -> bool:
        """Whether some entries of the parameter do not belong to the leg."""
        return any(factor.is_part for factor in factors(self.axes))

    @property
    def block_widths(self) -> dict[str, int]:
        """The number of indices of each block."""
        return {factor.role: factor.width for factor in factors(self.axes) if factor.is_block}

    def meets(self, other: "BoundLeg") -> bool:
        """Whether two legs have an entry in common."""
        return self.index == other.index and meet(self.axes, other.axes)

    def to_matrix(self, array: Array) -> Float[Array, "H m k"]:
        """The part with what is acted on last and the blocks in front, all others in one."""
        every = factors(self.axes)
        part = array.reshape([factor.length for factor in every])  # pyright: ignore[reportArgumentType, reportCallIssue]
        if self.is_part:
            part = part[tuple(slice(factor.start, factor.stop) for factor in every)]
        return part.transpose(self._arranged).reshape(self.blocks, self.rows, self.size)

    def from_matrix(self, matrix: Float[Array, "H m k"], like: Array) -> Array:
        """The inverse of `to_matrix`: a parameter like another, with the part of the leg replaced."""
        every, order = factors(self.axes), self._arranged
        part = matrix.reshape([every[place].width for place in order])
        part = part.transpose([order.index(place) for place in range(len(order))])
        if not self.is_part:
            return part.reshape(like.shape)
        split = jnp.asarray(like).reshape([factor.length for factor in every])  # pyright: ignore[reportArgumentType, reportCallIssue]
        starts = [factor.start for factor in every]
        return jax.lax.dynamic_update_slice(split, part, starts).reshape(like.shape)

    @property
    def _arranged(self) -> list[int]:
        """The places of the factors: blocks in their order, shared ones, what is acted on."""
        roles = [factor.role for factor in factors(self.axes)]
        blocks = [roles.index(name) for name in self.order]
        return blocks + [place for role in (SHARED, ACTED) for place, one in enumerate(roles) if one == role]

    def of_matrix(self, index: int, rows: int, size: int) -> "BoundLeg":
        """The leg of a matrix whose last axis holds the same blocks and, in each, so many entries that are acted on."""
        blocks = [whole(name, self.block_widths[name]) for name in self.order]
        return replace(self, index=index, axes=((whole(SHARED, rows),), (*blocks, whole(ACTED, size))))

    def of_entries(self, shape: tuple[int, ...]) -> "BoundLeg":
        """The leg that acts on every entry of the parameter, of this shape, by itself."""
        return replace(self, axes=tuple((whole(ACTED, n),) for n in shape), power=1, order=())

    @property
    def title(self) -> str:
        """The path of the parameter, with the pattern if the leg is a part of it."""
        return str(self) if self.is_part else self.name

    def __str__(self) -> str:
        return f'{self.name} "{" ".join(map(spelled, self.axes))}"'


class _Slot:
    """Stands for a leaf while `where` selects it."""

    def __init__(self, place: int):
        self.place = place


def bind_leg(leg: Leg, params: PyTree, block: str = BLOCK) -> list[BoundLeg]:
    """Find the parameters that a leg names.

    Args:
        leg: the leg.
        params: the parameters, any pytree.
        block: the name of blocks that are a number of parts of an axis.

    Raises:
        ValueError: if it selects no parameter, more than one for an axis, a parameter that is not floating-point, or an
            axis that does not exist or cannot be read as the leg says.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    slots = jax.tree_util.tree_unflatten(treedef, [_Slot(place) for place in range(len(with_paths))])
    try:
        selected = leg.where(slots)
    except Exception as error:
        raise ValueError(
            f"a leg's where failed on params ({type(error).__name__}: {error}); "
            "expected a function that selects a leaf and computes nothing, such as lambda params: params['w']."
        ) from error
    chosen = jax.tree_util.tree_leaves(selected)
    places = [slot.place for slot in chosen if isinstance(slot, _Slot)]
    names = {place: "params" + jax.tree_util.keystr(with_paths[place][0]) for place in places}
    arrays = [place for place in places if is_array(with_paths[place][1])]
    floating = [place for place in arrays if is_parameter(with_paths[place][1])]
    whole_subtree = leg.axis is None and len(places) > 1
    unfit = [place for place in arrays if place not in floating]
    if unfit and not whole_subtree:
        dtype = with_paths[unfit[0]][1].dtype
        raise ValueError(
            f"a leg selects {names[unfit[0]]} of dtype {dtype}; expected real floating-point parameters. "
            "Convert integers with .astype(float); keep complex numbers as real and imaginary parts."
        )
    if not floating:
        described = ", ".join(names.values()) or repr(selected)
        raise ValueError(
            f"a leg selects no array (it selects {described}); expected a floating-point array of params. "
            "Python numbers are constants: make them arrays with jnp.asarray."
        )
    if leg.axis is not None and len(floating) > 1:
        raise ValueError(
            f"a leg with axis {leg.axis!r} selects {len(floating)} arrays; expected one. "
            "Give one leg per array, as a list."
        )
    order = [place for place, (_, leaf) in enumerate(with_paths) if is_parameter(leaf)]
    return [_bound(leg, with_paths[place][1].shape, order.index(place), names[place], block) for place in floating]


def _bound(leg: Leg, shape: tuple[int, ...], index: int, name: str, block: str) -> BoundLeg:
    if isinstance(leg.axis, str):
        axes = fit(leg.pattern, shape, name)
    else:
        axes = tuple((whole(SHARED, n),) for n in shape)
        if leg.axis is not None:
            axes = _split(axes, leg.axis, leg.blocks, name, block)
    order = tuple(factor.role for factor in factors(axes) if factor.is_block)
    return BoundLeg(index, axes, leg.power, order, name)


def _split(axes: Axes, axis: int, blocks: int, name: str, block: str) -> Axes:
    """Axes that are shared, but for one that is acted on in so many blocks."""
    shape = tuple(factor.width for factor in factors(axes))
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"a leg takes axis {axis} of {name}, which has shape {shape}; expected one of its axes.")
    place = axis % len(shape)
    if shape[place] % blocks:
        raise ValueError(
            f"a leg splits axis {axis} of {name}, of length {shape[place]}, into {blocks} blocks; "
            "expected a number of blocks that divides the length."
        )
    acted = whole(ACTED, shape[place] // blocks)
    return (*axes[:place], (acted,) if blocks == 1 else (whole(block, blocks), acted), *axes[place + 1 :])
