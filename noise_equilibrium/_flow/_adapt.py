"""Laws whose numbers d₊ and d₋ follow the gradients: d± = (mean ĝ²)^{−1/2} over all entries of the legs of a sign.

Along an orbit such numbers move with the gradients, so that where the charge comes to rest is not where it would with
the numbers of the start. A scalar x = P² moves R and T as √x and 1/√x, where fixed numbers have x and 1/x: the root is
x = T/R, that of the fixed numbers d₊√k and d₋/√k with k = Tr T/Tr R. Without decay that holds for any algebra, for then
d₊k/d₋ is n₊/n₋, n± the numbers of entries, wherever it is taken.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from .._group import AbstractGroup
from .._noise import AbstractMoments
from .._numbers import cast
from ._charge_law import ChargeLaw


def adapted(law: ChargeLaw, group: AbstractGroup, arrays: Sequence[Array], moments: AbstractMoments) -> ChargeLaw:
    """The law with the numbers that it has at a point; any law whose numbers are fixed as it is.

    Raises:
        ValueError: for a group without legs, of which nobody knows the entries.
    """
    if not law.adapts:
        return law
    if not group.legs:
        raise ValueError(
            f"the numbers d₊ and d₋ follow the gradients of legs, and {group.name} has none. Give the numbers: "
            "Preconditioned(learning_rate, batch_size, plus, minus)."
        )
    shapes = [array.shape for array in arrays]

    def numbers(moments: AbstractMoments, law: ChargeLaw) -> tuple[Array, Array]:
        sums = [_size(group, side) for side in dataclasses.replace(law, plus=None, minus=None).gradients(moments, 0)]
        ones = group.gram([jnp.ones(shape, sums[0].dtype) for shape in shapes])
        counts = [
            sum(_size(group, gram) for power, gram in ones.items() if power * sign > 0) + jnp.zeros_like(sums[0])
            for sign in (1, -1)
        ]
        # Where nothing pushes, any number does.
        return tuple(
            jnp.where(total > 0, jnp.sqrt(count / jnp.where(total > 0, total, 1)), 1)
            for total, count in zip(sums, counts, strict=True)
        )  # pyright: ignore[reportReturnType]

    plus, minus = group.in_own_precision(numbers, moments, dataclasses.replace(law, plus=1.0, minus=1.0))
    return dataclasses.replace(law, plus=plus, minus=minus)


def settling(law: ChargeLaw, group: AbstractGroup, arrays: Sequence[Array], moments: AbstractMoments) -> ChargeLaw:
    """A law of fixed numbers with the equilibrium of this one, without decay or of one number; else nearer to it."""
    if not law.adapts:
        return law
    here = adapted(law, group, arrays, moments)

    def lift(moments: AbstractMoments, law: ChargeLaw) -> Array:
        lowers, raises = (_size(group, side) for side in law.sides(moments))
        proper = (lowers > 0) & (raises > 0)
        return jnp.where(proper, jnp.sqrt(jnp.where(proper, raises, 1) / jnp.where(proper, lowers, 1)), 1)

    root = group.in_own_precision(lift, moments, here)
    return dataclasses.replace(here, plus=here.plus * cast(root, here.plus), minus=here.minus / cast(root, here.minus))


def _size(group: AbstractGroup, gram: Array) -> Array:
    """The trace of a Gram, times a number that all Grams of a group share."""
    return jnp.sum(group.on_basis(gram.reshape(group.shape), squared=True))
