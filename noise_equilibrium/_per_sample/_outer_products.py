"""Per-sample gradients of one parameter, kept as outer products, and their Grams.

With (δ, h) of a use, the gradient of a sample is Σ_p δ_p h_pᵀ over positions p: an einsum of two factors of shapes
(n, P, …), which share the axes of the parameter between them. Uses whose factors own the same axes are joined along P,
a transposed use (W and Wᵀ) with its factors swapped. A Gram is one einsum over two copies of the factors, in the order
with the fewest operations; a symmetric Gram at P = 1 is then E[‖h‖² δδᵀ], a scalar one E[‖h‖²‖δ‖²]. Where rows of the
parameter are looked up, the second factor is an index, and two copies of it meet in the matrix [index_p = index_q].
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import opt_einsum
from jaxtyping import Array

from .._symmetry import ACTED, SHARED, BoundLeg, Factor, whole
from ._actions import Use
from ._linear_view import POSITION, Window

SAMPLE, FIRST, SECOND, PRIMED = "sample", "p", "q", "primed"
# Axes of the parameter are numbers, factors of them pairs of numbers, and blocks have their names in a tuple.
Label = int | str | tuple[int, int] | tuple[str]


class LegGram(NamedTuple):
    """The Gram that is wanted of the gradient of one leg.

    Attributes:
        leg: the leg.
        rank: how many axes of a block the Gram has: 2 for a matrix, 1 for its diagonal, 0 for its trace.
    """

    leg: BoundLeg
    rank: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the Gram, with the block axis in front."""
        return (self.leg.blocks,) + (self.leg.size,) * self.rank

    def tells_apart(self, axis: int) -> bool:
        """Whether the Gram depends on which entry along an axis is which."""
        return any(
            factor.is_part or (factor.is_block and factor.width > 1) or (factor.role == ACTED and self.rank > 0)
            for factor in self.leg.axes[axis]
        )

    def read(self, axis: int, n: int) -> list[tuple[Label | None, Factor]]:
        """The factors along an axis of length n, with their labels; without one if they are fixed to one index."""
        if not self.tells_apart(axis):
            return [(axis, whole(SHARED, n))]  # of a part of the parameter n is another length than that of the leg
        factors = self.leg.axes[axis]
        return [(self._label(axis, place, len(factors)), factor) for place, factor in enumerate(factors)]

    def _label(self, axis: int, place: int, several: int) -> Label | None:
        factor = self.leg.axes[axis][place]
        if factor.width == 1 and factor.role != ACTED:
            return None
        return (factor.role,) if factor.is_block else axis if several == 1 else (axis, place)

    @property
    def output(self) -> tuple[Label, ...]:
        """The labels of the axes of the Gram."""
        blocks: list[Label] = [(name,) for name in self.leg.order if self.leg.block_widths[name] > 1]
        acted = [
            self._label(axis, place, len(factors))
            for axis, factors in enumerate(self.leg.axes)
            for place, factor in enumerate(factors)
            if factor.role == ACTED
        ]
        return (*blocks, *acted * (self.rank > 0), *[PRIMED] * (self.rank == 2))  # pyright: ignore[reportReturnType]


class GradientForm(NamedTuple):
    """How the per-sample gradient of one parameter, or of a part of it, is held; static.

    Attributes:
        shape: the shape of the part.
        factors: for each factor, the axes of the parameter that it owns, ascending; one factor with all axes is the
            gradient itself.
        positions: P, the number of outer products in a sum; 1 for the gradient itself.
        uses: the places of its uses among all uses; empty where the parameter is tapped at itself.
        rows: the axis that the second factor owns as an index, if it does.
        windows: the slices of the parameter that make up the part; none if it is the whole parameter.
    """

    shape: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    positions: int
    uses: tuple[int, ...]
    rows: int | None = None
    windows: tuple[Window, ...] = ()

    @property
    def is_dense(self) -> bool:
        """Whether per-sample gradients are built in full."""
        return len(self.factors) == 1

    def factor_shapes(self, n: int) -> list[tuple[int, ...]]:
        """The shapes of the factors for n samples, an index among them."""
        shapes = [(n, self.positions, *(self.shape[axis] for axis in owned)) for owned in self.factors]
        return shapes if self.rows is None else [shapes[0], (n, self.positions)]

    def numbers_per_sample(self) -> int:
        """How many numbers a sample's factors are."""
        return sum(math.prod(shape) for shape in self.factor_shapes(1))


def dense_form(shape: tuple[int, ...], uses: Sequence[int] = (), windows: tuple[Window, ...] = ()) -> GradientForm:
    """Per-sample gradients in full."""
    return GradientForm(shape, (tuple(range(len(shape))),), 1, tuple(uses), None, windows)


def gradient_form(shape: tuple[int, ...], uses: Sequence[Use], places: Sequence[int]) -> GradientForm:
    """Choose how to hold the gradient of a parameter, or of a part of it, with these uses of the same part."""
    windows = uses[0].view.windows
    signatures = {_signature(use) for use in uses}
    if len(signatures) != 1:
        return dense_form(shape, places, windows)
    first, second = signatures.pop()
    looked_up = {use.looked_up for use in uses}
    rows = looked_up.pop() if len(looked_up) == 1 else None
    if rows is not None and second != (rows,):  # the index comes second
        first, second = second, first
    units = [axis for axis, n in enumerate(shape) if n == 1]
    positions = sum(map(_positions, uses))
    return GradientForm(shape, (tuple(sorted([*first, *units])), second), positions, tuple(places), rows, windows)


def hold(
    form: GradientForm, uses: Sequence[Use], pairs: Sequence[tuple[Array, Array]], dtype: jnp.dtype
) -> list[Array]:
    """The factors of per-sample gradients, from (δ, h) of the uses of a parameter; every array has n in front."""
    canonical = []
    for use, (delta, other) in zip(uses, pairs, strict=True):
        second = _index(use, other) if use.kind == "rows" else _canonical(other, use.other, dtype)
        if use.kind == "rows" and form.rows is None:
            second = one_hot(second, use.view.shape[use.other[-1]], dtype)
        parts = [_canonical(delta, use.output, dtype), second]
        swapped = form.rows is None and _signature(use) != (_owned(use.output), _owned(use.other))
        canonical.append(parts[::-1] if swapped else parts)
    if form.is_dense:
        total = sum(_outer(form, use, *parts) for use, parts in zip(uses, canonical, strict=True))
        return [jnp.asarray(total)[:, None]]
    joined = [jnp.concatenate(parts, axis=1) for parts in zip(*canonical, strict=True)]
    return [part.reshape(shape) for part, shape in zip(joined, form.factor_shapes(len(joined[0])), strict=True)]


def one_hot(index: Array, length: int, dtype: jnp.dtype) -> Array:
    """An index as the factor that it stands for; zero beyond the end."""
    return jax.nn.one_hot(index, length, dtype=dtype)


def total_gradient(form: GradientForm, factors: Sequence[Array]) -> Array:
    """Σ_i g_i, of the shape of the part."""
    if form.rows is not None:
        delta, index = factors
        owned = delta.shape[2:]
        rows = jnp.zeros((form.shape[form.rows], *owned), delta.dtype)
        total = rows.at[index.ravel()].add(delta.reshape(-1, *owned), mode="drop")
        return jnp.moveaxis(total, 0, form.rows)
    labels: list[Sequence[Label]] = [(SAMPLE, FIRST, *owned) for owned in form.factors]
    return _einsum(labels, tuple(range(len(form.shape))), factors)


class Operand(NamedTuple):
    """What a Gram makes of one factor: a reshape, a slice and a reshape; and the labels of the axes then."""

    labels: tuple[Label, ...]
    shape: tuple[int, ...]
    split: tuple[int, ...] = ()
    part: tuple[slice, ...] = ()

    def __call__(self, factor: Array) -> Array:
        if self.part:
            factor = factor.reshape(self.split)[self.part]
        return factor.reshape(self.shape)


class Gram(NamedTuple):
    """The einsum of Σ_i gram(g_i), or of every gram(g_i), for one leg of a symmetry; static."""

    form: GradientForm
    operands: tuple[Operand, ...]
    output: tuple[Label, ...]
    element: tuple[int, ...]

    def largest(self) -> int:
        """The number of entries of its largest intermediate."""
        return int(self._cost().largest_intermediate)

    def flops(self) -> float:
        """The number of multiplications and additions."""
        return float(self._cost().opt_cost)

    def _cost(self) -> Any:
        return _path(self.labels, self.output, [operand.shape for operand in self.operands])[1]

    @property
    def labels(self) -> list[tuple[Label, ...]]:
        """Those of all operands."""
        return [operand.labels for operand in self.operands]

    def __call__(self, factors: Sequence[Array]) -> Array:
        """The Gram, with the block axis in front."""
        if self.form.rows is None:
            arrays = [*factors, *factors]
        else:
            delta, index = factors
            length = self.form.shape[self.form.rows]
            meets = (index[:, :, None] == index[:, None, :]) & (index < length)[:, :, None]
            arrays = [delta, delta, meets.astype(delta.dtype)]
        parts = [operand(array) for operand, array in zip(self.operands, arrays, strict=True)]
        return _einsum(self.labels, self.output, parts).reshape(self.element)


def gram(form: GradientForm, wanted: LegGram, n: int, per_sample: bool = False) -> Gram:
    """Prepare the Gram of per-sample gradients of n samples for a leg: their sum, or each."""
    operands = [
        _operand(form, wanted, n, owned, position)
        for position in (FIRST, SECOND)
        for owned in (form.factors[:1] if form.rows is not None else form.factors)
    ]
    if form.rows is not None:
        labels, shape = _front(form, n, FIRST, SECOND)
        operands.append(Operand(labels, shape))
    output = (SAMPLE,) * per_sample + wanted.output
    return Gram(form, tuple(operands), output, (n,) * per_sample + wanted.shape)


def _front(form: GradientForm, n: int, *positions: Label) -> tuple[tuple[Label, ...], tuple[int, ...]]:
    """Labels and lengths of samples and positions."""
    if form.positions == 1:
        return (SAMPLE,), (n,)
    return (SAMPLE, *positions), (n,) + (form.positions,) * len(positions)


def _operand(form: GradientForm, wanted: LegGram, n: int, owned: Sequence[int], position: Label) -> Operand:
    """A copy of a factor: its axes as the leg reads them, of which a slice of a product of factors is one too."""
    labels, front = _front(form, n, position)
    read = [pair for axis in owned for pair in wanted.read(axis, form.shape[axis])]
    kept = [(label, factor) for label, factor in read if label is not None]
    primed = position == SECOND and wanted.rank == 2
    labels += tuple(PRIMED if primed and factor.role == ACTED else label for label, factor in kept)
    shape = front + tuple(factor.width for _, factor in kept)
    if not any(factor.is_part for _, factor in read):
        return Operand(labels, shape)
    cut = tuple(slice(factor.start, factor.stop) for _, factor in read)
    whole = tuple(factor.length for _, factor in read if factor.length is not None)
    return Operand(labels, shape, front + whole, (slice(None),) * len(front) + cut)


def gram_of(wanted: LegGram, array: Array) -> Array:
    """The Gram of one array along the axis of a leg, as of the gradient of a single sample."""
    return gram(dense_form(array.shape), wanted, 1)([array[None, None]])


def _owned(labels: Sequence[int]) -> tuple[int, ...]:
    """The axes of the parameter among the axes of a factor."""
    return tuple(sorted(label for label in labels if label < POSITION))


def _signature(use: Use) -> tuple[tuple[int, ...], ...]:
    """Which axes the two factors own, in an order that does not depend on which of them is δ."""
    return tuple(sorted((_owned(use.output), _owned(use.other))))


def _positions(use: Use) -> int:
    """The number of outer products in the gradient that a use makes."""
    return math.prod(n for n, label in zip(use.shape, use.output, strict=True) if label >= POSITION)


def _canonical(array: Array, labels: Sequence[int], dtype: jnp.dtype) -> Array:
    """(n, P, owned axes ascending): positions joined in the order of their labels."""
    positions = sorted(label for label in labels if label >= POSITION)
    owned = _owned(labels)
    arranged = array.transpose([0, *(1 + list(labels).index(label) for label in [*positions, *owned])])
    return arranged.reshape(len(array), -1, *arranged.shape[1 + len(positions) :]).astype(dtype)


def _index(use: Use, index: Array) -> Array:
    """(n, P): the index of every position."""
    labels = use.other[:-1]
    return index.transpose([0, *(1 + labels.index(label) for label in sorted(labels))]).reshape(len(index), -1)


def _outer(form: GradientForm, use: Use, first: Array, second: Array) -> Array:
    """Σ_p δ_p h_pᵀ of every sample, of the shape of the part."""
    owners = _signature(use)
    axes = tuple(sorted({*owners[0], *owners[1]}))
    labels = [(SAMPLE, FIRST, *owned) for owned in owners]
    return _einsum(labels, (SAMPLE, *axes), [first, second]).reshape(len(first), *form.shape)


def _path(
    labels: Sequence[Sequence[Label]], output: Sequence[Label], shapes: Sequence[tuple[int, ...]]
) -> tuple[Any, Any]:
    """The cheapest order of an einsum, and its cost; of four operands at most, so that all orders can be tried."""
    return opt_einsum.contract_path(_expression(labels, output), *shapes, shapes=True, optimize="optimal")


def _expression(labels: Sequence[Sequence[Label]], output: Sequence[Label]) -> str:
    """An einsum as it is spelled, with a letter for each label."""
    symbols: dict[Label, str] = {}
    for label in (label for operand in labels for label in operand):
        symbols.setdefault(label, opt_einsum.get_symbol(len(symbols)))
    spell = ["".join(symbols[label] for label in operand) for operand in [*labels, output]]
    return ",".join(spell[:-1]) + "->" + spell[-1]


def _einsum(labels: Sequence[Sequence[Label]], output: Sequence[Label], operands: Sequence[Array]) -> Array:
    """An einsum in the order with the fewest operations, pair by pair."""
    path, _ = _path(labels, output, [operand.shape for operand in operands])
    terms = [(tuple(label), operand) for label, operand in zip(labels, operands, strict=True)]
    for step in path:
        chosen = [terms[place] for place in step]
        terms = [term for place, term in enumerate(terms) if place not in step]
        needed = {label for term in [(output, None), *terms] for label in term[0]}
        result = tuple(dict.fromkeys(label for term in chosen for label in term[0] if label in needed))
        result = tuple(output) if not terms else result
        terms.append((result, _contract(chosen, result)))
    return terms[0][1]


def _contract(terms: Sequence[tuple[Sequence[Label], Array]], output: Sequence[Label]) -> Array:
    """One step of an einsum, so that XLA moves, and so copies, as little as possible."""
    labels, operands = [list(label) for label, _ in terms], [operand for _, operand in terms]
    if len(terms) == 2 and {*labels[0]} == {*labels[1]}:
        return _summed_product(labels, output, operands)
    # Axes that both operands have in front, and that are summed over, become one: several would be moved for the
    # matrix product.
    common = 0
    if len(terms) == 2:
        for first, second in zip(*labels, strict=False):
            if first != second or first in output:
                break
            common += 1
    if common > 1:
        labels = [label[common - 1 :] for label in labels]
        operands = [operand.reshape(-1, *operand.shape[common:]) for operand in operands]
    return jnp.einsum(_expression(labels, output), *operands, precision=jax.lax.Precision.HIGHEST)


def _summed_product(labels: Sequence[Sequence[Label]], output: Sequence[Label], operands: Sequence[Array]) -> Array:
    """Two arrays with the same axes, multiplied entry by entry and summed up: no matrix product.

    As one, with each axis that stays for a batch axis, both operands would be copied to have these in front: of a
    diagonal Gram that is three times the rest of its work.
    """
    (first, second), (order, other) = operands, labels
    product = first * second.transpose([other.index(label) for label in order])
    kept = [label for label in order if label in output]
    total = jnp.sum(product, axis=tuple(place for place, label in enumerate(order) if label not in output))
    return total.transpose([kept.index(label) for label in output])
