"""The joint equilibrium of several symmetries, with as few passes over the data as they allow.

Symmetries that share no parameter do not see each other, because the gradient of a parameter that is not moved does not
change along an orbit: one pass serves all of them, and scalar and diagonal symmetries that share parameters too. Only
where matrices, or generators that mix all parameters, meet others in a parameter are they balanced in turn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._flow import ChargeLaw
from .._group import AbstractGroup, Groups
from .._noise import measured_moments
from .._numbers import all_finite
from .._problem import Problem
from .._symmetry import share_entries
from ._alike import balances, vantages
from ._scalings import Scalings, scalings
from ._turns import Rebuild, data_ground, search


class End(NamedTuple):
    """What becomes of one symmetry.

    Attributes:
        motion: the factors of its legs, from the start.
        element: log P.
        to_zero: the directions where P → 0.
        to_infinity: the directions where P → ∞.
        diverges: whether some direction had no finite limit.
        idle: whether nothing acted on it.
    """

    motion: Any
    element: Any
    to_zero: Any
    to_infinity: Any
    diverges: Bool[Array, ""]
    idle: Bool[Array, ""]


class Joint(NamedTuple):
    """The ends of all symmetries, whether all numbers at the start were finite, and how often each was balanced."""

    ends: list[End]
    finite: Bool[Array, ""]
    sweeps: Int[Array, ""]


def joint(problem: Problem, arrays: list[Array], rebuild: Rebuild, symmetries: Groups, law: ChargeLaw) -> Joint:
    """The motions to the joint equilibrium; differentiable to any order in everything that goes in."""
    alone, scaled, turned = _sorted(symmetries, len(arrays))
    plans = [scalings([symmetries[place] for place in places], arrays) for places in scaled]
    ends: dict[int, End] = {}
    finite, sweeps = all_finite(arrays), jnp.ones((), jnp.int32)
    if alone or plans:
        at_once, of_scalings, measured_finite, sweeps = _from_one_pass(
            problem, arrays, rebuild, [symmetries[place] for place in alone], plans, law
        )
        finite &= measured_finite
        for places, found in zip([alone, *scaled], [at_once, *of_scalings], strict=True):
            ends |= dict(zip(places, found, strict=True))
    if turned:
        there = arrays
        for place, end in ends.items():
            there = symmetries[place].multiply(there, end.motion)
        found, start_finite, turns = _in_turn(
            problem, there, rebuild, tuple(symmetries[place] for place in turned), law
        )
        finite, sweeps = finite & start_finite, jnp.maximum(sweeps, turns)
        ends |= dict(zip(turned, found, strict=True))
    return Joint([ends[place] for place in range(len(symmetries))], finite, sweeps)


def _sorted(symmetries: Sequence[AbstractGroup], count: int) -> tuple[list[int], list[list[int]], list[int]]:
    """Symmetries that share no entry with others; those that share some, but scale alone; and all others."""
    groups: list[list[int]] = []
    for place, one in enumerate(symmetries):
        met = [group for group in groups if any(share_entries(one, symmetries[other], count) for other in group)]
        groups = [group for group in groups if group not in met] + [[place, *(one for group in met for one in group)]]
    alone = sorted(group[0] for group in groups if len(group) == 1)
    several = [sorted(group) for group in groups if len(group) > 1]
    scaled = [
        group
        for group in several
        if all(symmetries[place].legs and not symmetries[place].of_matrices for place in group)
    ]
    return alone, scaled, sorted(place for group in several if group not in scaled for place in group)


def _from_one_pass(
    problem: Problem,
    arrays: list[Array],
    rebuild: Rebuild,
    symmetries: Sequence[AbstractGroup],
    plans: Sequence[Scalings],
    law: ChargeLaw,
) -> tuple[list[End], list[list[End]], Array, Array]:
    """The ends of symmetries that share no parameter, and of groups that scale; whether all is finite; the sweeps."""
    gauges = vantages(symmetries, arrays)
    seen = arrays
    for symmetry, gauge in zip(symmetries, gauges, strict=True):
        seen = seen if gauge is None else symmetry.multiply(seen, gauge)
    terms = [term for plan in plans for term in plan.terms]
    measured, _ = measured_moments(problem, rebuild(seen), (*symmetries, *terms), True)
    finite = all_finite(jax.tree_util.tree_leaves(measured))
    measured = jax.tree_util.tree_map(lambda leaf: jnp.where(finite, leaf, 1), measured)
    moments, rest = measured[: len(symmetries)], list(measured[len(symmetries) :])
    found = balances(symmetries, arrays, moments, law, problem.num_samples, gauges)
    ends = [End(one.motion, one.element, one.to_zero, one.to_infinity, one.diverges, one.idle) for one in found]
    of_plans, sweeps = [], jnp.ones((), jnp.int32)
    for plan in plans:
        mine, rest = rest[: len(plan.terms)], rest[len(plan.terms) :]
        state = search(plan.ground(problem.num_samples), plan.arrays(mine), plan.symmetries, law)  # pyright: ignore[reportArgumentType]
        sweeps = jnp.maximum(sweeps, state.sweeps)
        of_plans.append(
            [
                End(state.motions[i], state.elements[i], *state.limits[i], state.diverges[i], state.idle[i])
                for i in range(len(plan.symmetries))
            ]
        )
    return ends, of_plans, finite, sweeps


def _in_turn(
    problem: Problem, arrays: list[Array], rebuild: Rebuild, symmetries: Groups, law: ChargeLaw
) -> tuple[list[End], Array, Array]:
    """The ends of symmetries that share parameters, of any kind; whether the start was finite; the sweeps."""
    found = search(data_ground(problem, rebuild), arrays, symmetries, law)
    ends = []
    for place, symmetry in enumerate(symmetries):
        end = symmetry.end(found.motions[place], found.elements[place], found.limits[place])
        ends.append(End(*end, found.diverges[place], found.idle[place]))
    return ends, found.finite, found.sweeps
