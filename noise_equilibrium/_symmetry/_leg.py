"""A leg: one axis of one parameter that a symmetry multiplies by a power of P."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._parameters import is_array, is_parameter


@dataclass(frozen=True)
class Leg:
    """The axis `axis` of the parameter `where(params)` is multiplied by P^power, P = e^{element}.

    Args:
        where: `where(params)` selects the parameter; with `axis=None` it may select a subtree, every parameter of which
            is scaled. It sees the structure only: select, do not compute.
        axis: the axis that P multiplies; None scales the whole parameter (scalar algebra only).
        power: +1 or −1; in the scalar and diagonal algebras any non-zero number (homogeneous activations).
        blocks: splits the axis into that many groups with an element each (attention heads).

    Raises:
        ValueError: if the power is 0, if blocks < 1, or if blocks > 1 comes with axis=None.
    """

    where: Callable[[PyTree], Any]
    axis: int | None = None
    power: float = 1
    blocks: int = 1

    def __post_init__(self) -> None:
        if not callable(self.where):
            raise ValueError(
                f"where is {self.where!r}; expected a function that selects a parameter, "
                "such as lambda params: params['w']."
            )
        if self.axis is not None and not isinstance(self.axis, numbers.Integral):
            raise ValueError(f"axis is {self.axis!r}; expected an integer, or None for the whole parameter.")
        if not isinstance(self.power, numbers.Real) or not math.isfinite(self.power) or self.power == 0:
            raise ValueError(f"power is {self.power!r}; expected +1, −1 or another non-zero number.")
        if not isinstance(self.blocks, numbers.Integral) or self.blocks < 1 or (self.blocks > 1 and self.axis is None):
            raise ValueError(
                f"blocks is {self.blocks} with axis {self.axis}; "
                "expected blocks ≥ 1, and an axis to split if blocks > 1."
            )


@dataclass(frozen=True)
class BoundLeg:
    """A leg of known parameters: a static, hashable description that costs nothing to rebuild.

    Attributes:
        index: the position of the parameter among the parameters (see `flatten`).
        axis: the axis, counted from 0, or None for the whole parameter.
        power: the power of P.
        blocks: H, the number of groups of the axis.
        size: k, the length of one group.
        name: the path of the parameter, for messages.
    """

    index: int
    axis: int | None
    power: float
    blocks: int
    size: int
    name: str

    def to_matrix(self, array: Array) -> Float[Array, "H m k"]:
        """The parameter with its symmetry axis last and split into blocks, the other axes in one."""
        if self.axis is None:
            return array.reshape(1, -1, 1)
        last = jnp.moveaxis(array, self.axis, -1)
        return jnp.moveaxis(last.reshape(-1, self.blocks, self.size), 1, 0)

    def from_matrix(self, matrix: Float[Array, "H m k"], like: Array) -> Array:
        """The inverse of `to_matrix`, for a parameter shaped like another."""
        if self.axis is None:
            return matrix.reshape(like.shape)
        last = jnp.moveaxis(like, self.axis, -1).shape
        return jnp.moveaxis(jnp.moveaxis(matrix, 0, 1).reshape(last), -1, self.axis)


class _Slot:
    """Stands for a leaf while `where` selects it."""

    def __init__(self, place: int):
        self.place = place


def bind_leg(leg: Leg, params: PyTree) -> list[BoundLeg]:
    """Find the parameters that a leg names.

    Raises:
        ValueError: if it selects no parameter, more than one for an axis, a parameter that is not floating-point, or an
            axis that does not exist or cannot be split.
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
            f"a leg with axis {leg.axis} selects {len(floating)} arrays; expected one. "
            "Give one leg per array, as a list."
        )
    order = [place for place, (_, leaf) in enumerate(with_paths) if is_parameter(leaf)]
    return [_bound(leg, with_paths[place][1].shape, order.index(place), names[place]) for place in floating]


def _bound(leg: Leg, shape: tuple[int, ...], index: int, name: str) -> BoundLeg:
    if leg.axis is None:
        return BoundLeg(index, None, leg.power, 1, 1, name)
    if not -len(shape) <= leg.axis < len(shape):
        raise ValueError(f"a leg takes axis {leg.axis} of {name}, which has shape {shape}; expected one of its axes.")
    axis = leg.axis % len(shape)
    if shape[axis] % leg.blocks:
        raise ValueError(
            f"a leg splits axis {leg.axis} of {name}, of length {shape[axis]}, into {leg.blocks} blocks; "
            "expected a number of blocks that divides the length."
        )
    return BoundLeg(index, axis, leg.power, leg.blocks, shape[axis] // leg.blocks, name)
