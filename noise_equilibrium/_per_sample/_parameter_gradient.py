"""The gradient of one parameter as the sum of the gradients of its parts.

A parameter is one part, unless slices of it are used: the layers of a stack, the queries, keys and values of a fused
projection. Grams of parts that do not overlap add up, for legs that act within each part: on all of an axis, or on
blocks that are not cut; otherwise the parts are brought to the shape of the parameter and joined.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._symmetry import window_of
from ._actions import Use
from ._linear_view import Window
from ._outer_products import GradientForm, Gram, LegGram, dense_form, gradient_form, gram, hold, one_hot, total_gradient
from ._tapped_loss import TappedLoss


class LeafForm(NamedTuple):
    """How the per-sample gradient of one parameter is held; static.

    Attributes:
        leaf: which parameter.
        shape: its shape.
        parts: how the gradients of its parts are held; none if the loss does not depend on the parameter.
        joint: how all of it is held, where the Grams of the parts do not add up.
        slot: its place among the parameters that are tapped at themselves, if it is one.
    """

    leaf: int
    shape: tuple[int, ...]
    parts: tuple[GradientForm, ...]
    joint: GradientForm | None
    slot: int | None

    @property
    def forms(self) -> tuple[GradientForm, ...]:
        """What the factors are held as."""
        return self.parts if self.joint is None else (self.joint,)

    def hold(
        self,
        uses: Sequence[Use],
        pairs: Sequence[tuple[Array, Array]],
        slots: Sequence[Array],
        dtype: jnp.dtype,
    ) -> list[list[Array]]:
        """The factors of each form, from what the tapped loss returns for n samples."""
        if self.slot is not None:
            return [[slots[self.slot][:, None].astype(dtype)]]
        factors = [
            hold(part, [uses[place] for place in part.uses], [pairs[place] for place in part.uses], dtype)
            for part in self.parts
        ]
        return factors if self.joint is None else [self._joined(self.joint, factors)]

    def total(self, factors: Sequence[Sequence[Array]]) -> Array:
        """Σ_i g_i, of the shape of the parameter."""
        totals = [
            _embedded(total_gradient(form, held), {axis: axis for axis in range(len(self.shape))}, form.windows)
            for form, held in zip(self.forms, factors, strict=True)
        ]
        return sum(totals[1:], totals[0])

    def gram(self, wanted: LegGram, factors: Sequence[Sequence[Array]], per_sample: bool = False) -> Array:
        """The Gram of the gradients for a leg: its sum over the samples, or one per sample."""
        n = len(factors[0][0])
        found = [
            seen.in_place(one(factors_for(self.forms[place], seen.wanted, factors[place])), wanted)
            for place, seen, one in self.grams(wanted, n, per_sample)
        ]
        if not found:
            return jnp.zeros((n,) * per_sample + wanted.shape, factors[0][0].dtype)
        return sum(found[1:], found[0])

    def grams(self, wanted: LegGram, n: int, per_sample: bool = False) -> list[tuple[int, "Seen", Gram]]:
        """The Grams that add up to that of a leg: the place of the form, what is seen there, and how it is found."""
        every = [(place, form, within(wanted, form.windows)) for place, form in enumerate(self.forms)]
        return [
            (place, seen, gram(form_for(form, seen.wanted), seen.wanted, n, per_sample))
            for place, form, seen in every
            if seen is not None and not seen.is_empty
        ]

    def _joined(self, joint: GradientForm, factors: Sequence[Sequence[Array]]) -> list[Array]:
        """The factors of the parts, brought to the shape of the parameter and joined along the positions."""
        if joint.is_dense:
            grown = []
            for part, held in zip(self.parts, factors, strict=True):
                full = held[0][:, 0] if part.is_dense else _per_sample(part, held)
                grown.append(_embedded(full, {1 + axis: axis for axis in range(len(self.shape))}, part.windows))
            return [sum(grown[1:], grown[0])[:, None]]
        columns = []
        for place, owned in enumerate(joint.factors):
            axes = {2 + position: axis for position, axis in enumerate(owned)}
            grown = [_embedded(held[place], axes, part.windows) for part, held in zip(self.parts, factors, strict=True)]
            columns.append(jnp.concatenate(grown, axis=1))
        return columns


def leaf_form(tapped: TappedLoss, leaf: int, shape: tuple[int, ...], wanted: Sequence[LegGram]) -> LeafForm:
    """Choose how to hold the gradient of a parameter for the legs that want it."""
    if leaf in tapped.escaped:
        return LeafForm(leaf, shape, (dense_form(shape),), None, tapped.escaped.index(leaf))
    places: dict[tuple[Window, ...], list[int]] = {}
    for place, use in enumerate(tapped.uses):
        if use.view.leaf == leaf:
            places.setdefault(use.view.windows, []).append(place)
    parts = []
    for windows, mine in places.items():
        sizes = {window.label: window.size for window in windows}
        part = tuple(sizes.get(axis, n) for axis, n in enumerate(shape))
        parts.append(gradient_form(part, [tapped.uses[place] for place in mine], mine))
    joint = None if _add_up(parts, [one for one in wanted if one.leg.index == leaf]) else _joint(shape, parts)
    return LeafForm(leaf, shape, tuple(parts), joint, None)


def form_for(form: GradientForm, wanted: LegGram) -> GradientForm:
    """The form of a Gram: rows that a leg tells apart are written out."""
    return form._replace(rows=None) if _tells_rows_apart(form, wanted) else form


def factors_for(form: GradientForm, wanted: LegGram, factors: Sequence[Array]) -> Sequence[Array]:
    """The factors of such a form."""
    if not _tells_rows_apart(form, wanted):
        return factors
    assert form.rows is not None
    return [factors[0], one_hot(factors[1], form.shape[form.rows], factors[0].dtype)]


def _tells_rows_apart(form: GradientForm, wanted: LegGram) -> bool:
    """Whether rows of the parameter are looked up, and the Gram depends on which."""
    return form.rows is not None and wanted.tells_apart(form.rows)


def _add_up(parts: Sequence[GradientForm], wanted: Sequence[LegGram]) -> bool:
    """Whether the Grams of the parts add up to that of the parameter, for all of these legs."""
    if not any(part.windows for part in parts):
        return True
    apart = all(_disjoint(a.windows, b.windows) for a, b in itertools.combinations(parts, 2))
    return apart and all(within(one, part.windows) is not None for one in wanted for part in parts)


class Seen(NamedTuple):
    """What a leg asks of a part of a parameter.

    Attributes:
        wanted: the Gram that is wanted of the part.
        begins: for each block that the part has a range of, where among its indices that begins.
    """

    wanted: LegGram
    begins: dict[str, int]

    @property
    def is_empty(self) -> bool:
        """Whether no entry of the part belongs to the leg."""
        return any(factor.width == 0 for axis in self.wanted.leg.axes for factor in axis)

    def in_place(self, part: Array, whole: LegGram) -> Array:
        """The Gram of the part among all blocks, 0 at the others."""
        if not self.begins:
            return part
        ours, every = self.wanted.leg.block_widths, whole.leg.block_widths
        inner = whole.shape[1:]
        front = part.shape[: part.ndim - len(inner) - 1]
        begins = [(self.begins.get(name, 0), ours[name], every[name]) for name in whole.leg.order]
        pads = [(begin, width - own - begin, 0) for begin, own, width in begins]
        split = part.reshape(*front, *(own for _, own, _ in begins), *inner)
        fill = jnp.zeros((), part.dtype)
        none = (0, 0, 0)
        return jax.lax.pad(split, fill, [none] * len(front) + pads + [none] * len(inner)).reshape(*front, *whole.shape)


def within(wanted: LegGram, windows: Sequence[Window]) -> Seen | None:
    """What a leg asks of a part of the parameter; None if the Grams of such parts do not add up to its own."""
    axes, begins = list(wanted.leg.axes), {}
    for window in windows:
        if not wanted.tells_apart(window.label):
            continue
        read = window_of(axes[window.label], window.start, window.size, wanted.rank > 0)
        if window.stride != 1 or read is None:
            return None
        axes[window.label], begun = read
        begins |= begun
    return Seen(wanted._replace(leg=replace(wanted.leg, axes=tuple(axes))), begins)


def _disjoint(first: Sequence[Window], second: Sequence[Window]) -> bool:
    """Whether two parts of a parameter have no entry in common: along one axis that is enough."""
    return any(a.label == b.label and not {*a.entries()} & {*b.entries()} for a in first for b in second)


def _joint(shape: tuple[int, ...], parts: Sequence[GradientForm]) -> GradientForm:
    """How all of a parameter is held: the factors of all parts if they own the same axes, or else the gradient."""
    uses = tuple(place for part in parts for place in part.uses)
    if len({part.factors for part in parts}) > 1 or any(part.rows is not None or part.is_dense for part in parts):
        return dense_form(shape, uses)
    return GradientForm(shape, parts[0].factors, sum(part.positions for part in parts), uses)


def _per_sample(part: GradientForm, factors: Sequence[Array]) -> Array:
    """(n, *part): the gradients themselves."""
    return jax.vmap(lambda *held: total_gradient(part, [factor[None] for factor in held]))(*factors)


def _embedded(array: Array, axes: dict[int, int], windows: Sequence[Window]) -> Array:
    """An array with the axes of a part, brought to the lengths of the parameter; `axes` maps places to labels."""
    for window in windows:
        for place, label in axes.items():
            if label == window.label:
                array = window.pull(array, place, None)
    return array
