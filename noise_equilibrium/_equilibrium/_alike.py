"""Symmetries of the same group on parameters of the same shapes, balanced as one batch.

A program of a network of many layers then has as many balances as there are different ones, not as many as layers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._flow import ChargeLaw
from .._group import AbstractGroup, Balance
from .._noise import AbstractMoments
from .._symmetry import BoundSymmetry


def alike(symmetries: Sequence[AbstractGroup], arrays: Sequence[Array]) -> list[list[int]]:
    """The places of symmetries in groups whose balances are one program."""
    groups: dict[Any, list[int]] = {}
    for place, symmetry in enumerate(symmetries):
        groups.setdefault(_kind(symmetry, arrays) or place, []).append(place)
    return list(groups.values())


def _kind(symmetry: AbstractGroup, arrays: Sequence[Array]) -> Any:
    """What the balance of a symmetry depends on, numbers apart; nothing for a generator, which is one of its kind."""
    if not isinstance(symmetry, BoundSymmetry):
        return None
    legs = [(leg.power, leg.rows, arrays[leg.index].dtype) for leg in symmetry.legs]
    return symmetry.algebra, symmetry.shape, tuple(legs) if symmetry.of_matrices else symmetry.powers


def vantages(symmetries: Sequence[AbstractGroup], arrays: Sequence[Array]) -> list[Any]:
    """For each symmetry the motion to where its moments are best taken; None where it makes no difference."""
    gauges: list[Any] = [None] * len(symmetries)
    for places in alike(symmetries, arrays):
        if symmetries[places[0]].of_matrices:
            found = _over(places, symmetries, arrays, lambda one, legs: one.vantage(legs))
            for place, gauge in zip(places, found, strict=True):
                gauges[place] = gauge
    return gauges


def balances(
    symmetries: Sequence[AbstractGroup],
    arrays: Sequence[Array],
    moments: Sequence[AbstractMoments],
    law: ChargeLaw,
    samples: int,
    gauges: Sequence[Any],
) -> list[Balance]:
    """The balances of symmetries that share no parameter."""
    results: dict[int, Balance] = {}
    for places in alike(symmetries, arrays):
        found = _over(
            places,
            symmetries,
            arrays,
            lambda one, legs, moments, gauge: one.balance(legs, moments, law, samples, gauge),
            moments,
            gauges,
        )
        results |= dict(zip(places, found, strict=True))
    return [results[place] for place in range(len(symmetries))]


def _over(
    places: Sequence[int], symmetries: Sequence[Any], arrays: Sequence[Array], function: Any, *others: Sequence[Any]
) -> list[Any]:
    """A function of a symmetry, its parameters and what else belongs to it, for symmetries of one kind."""
    first = symmetries[places[0]]
    if len(places) == 1:
        return [function(first, arrays, *(other[places[0]] for other in others))]
    one = replace(first, legs=tuple(leg.of_matrix(place, leg.rows, leg.size) for place, leg in enumerate(first.legs)))
    legs = [_legs(symmetries[place], arrays) for place in places]
    parts = [(mine, *(other[place] for other in others)) for mine, place in zip(legs, places, strict=True)]
    stacked = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *parts)
    found = jax.vmap(lambda part: function(one, *part))(stacked)
    return [jax.tree_util.tree_map(lambda leaf, row=row: leaf[row], found) for row in range(len(places))]


def _legs(symmetry: BoundSymmetry, arrays: Sequence[Array]) -> list[Array]:
    """The legs with their axis last, whichever it is in the parameter; none where a balance looks at moments alone."""
    if not symmetry.of_matrices:
        return []
    matrices = [leg.to_matrix(arrays[leg.index]) for leg in symmetry.legs]
    return [jnp.moveaxis(matrix, 0, 1).reshape(matrix.shape[1], -1) for matrix in matrices]
