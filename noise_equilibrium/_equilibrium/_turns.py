"""Symmetries that share parameters: each balanced in turn until no charge flows (theory, "Several symmetries").

Φ = 2γ‖θ‖² + σ² Tr Σ is convex along every one-parameter subgroup, and balancing one symmetry minimises it over that
block. Symmetries that share no parameter do not see each other, so those of one turn are measured at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._double import in_double
from .._flow import ChargeLaw
from .._noise import AbstractMoments, bound_moments
from .._parameters import accumulation_dtype
from .._problem import Problem
from .._symmetry import Bound, BoundSymmetry, is_matrix, leaves_of
from ._balance import all_finite, balance, move, norm, relative_flow
from ._group import compose, coordinates, dimension, element_of, further_limits, identity, nearby
from ._implicit import implicit_zero

MAX_SWEEPS = 500
# Sweeps that are differentiated step by step: directions die in them, which no finite motion can do afterwards.
FIRST_SWEEPS = 2

Rebuild = Callable[[list[Array]], PyTree]


class Ground(NamedTuple):
    """Where a search takes place.

    Attributes:
        moments: of some symmetries, from the arrays there; matrices in double precision if the third argument says so.
        moved: the arrays after a motion of a symmetry: (symmetry, arrays, motion).
        samples: N.
    """

    moments: Callable[[list[Array], tuple[Bound, ...], bool], tuple[AbstractMoments, ...]]
    moved: Callable[[Bound, list[Array], Any], list[Array]]
    samples: int


def data_ground(problem: Problem, rebuild: Rebuild) -> Ground:
    """The parameters themselves, measured by a pass over the data at every place."""

    def moments(arrays: list[Array], symmetries: tuple[Bound, ...], double: bool) -> tuple[AbstractMoments, ...]:
        return bound_moments(problem, rebuild(arrays), symmetries, double)

    return Ground(moments, move, problem.num_samples)


class Search(eqx.Module):
    """Where the search stands.

    Attributes:
        arrays: the parameters, or what stands for them.
        motions: for each symmetry the product of its motions.
        elements: for each symmetry the sum of its elements; means nothing in the symmetric algebra.
        limits: for each symmetry which directions went to 0, and which to ∞, as numbers > 0 or as matrices that are
            positive on them.
        diverges: for each symmetry whether some direction had no finite limit in the last sweep.
        idle: for each symmetry whether nothing acted on it in the last sweep.
        finite: whether the moments at the start were finite.
        flow: the largest relative flow met in the last sweep, over the symmetries with a finite limit.
        step: the largest relative motion of a parameter in the last sweep.
        sweeps: how many sweeps there were.
    """

    arrays: list[Array]
    motions: tuple[Any, ...]
    elements: tuple[Array, ...]
    limits: tuple[tuple[Array, Array], ...]
    diverges: Bool[Array, " symmetries"]
    idle: Bool[Array, " symmetries"]
    finite: Bool[Array, ""]
    flow: Float[Array, ""]
    step: Float[Array, ""]
    sweeps: Int[Array, ""]


def search(ground: Ground, arrays: list[Array], symmetries: tuple[Bound, ...], law: ChargeLaw) -> Search:
    """Balance symmetries in turn until every relative flow is below ε^0.7, or nothing moves any more.

    Differentiable by the implicit function theorem in everything that the ground, the arrays and the law hold.
    """
    turns = _turns(symmetries, len(arrays))

    def sweep(state: Search) -> Search:
        return _sweep(ground, symmetries, law, turns, state)

    start = _at(arrays, symmetries)
    first = start
    for _ in range(FIRST_SWEEPS):  # not a scan, whose derivative of a gradient forgets what is held constant inside
        first = sweep(first)
    end = _iterate(sweep, _unmoved(first, start))
    # From where derivatives are known: the remaining motions as constants, and what the theorem says of their changes.
    rest = jax.lax.stop_gradient((end.motions, end.elements))
    arrays = _moved(ground, symmetries, first.arrays, rest[0])
    change = _correction(ground, arrays, symmetries, law)
    turned = tuple(nearby(symmetry, element) for symmetry, element in zip(symmetries, change, strict=True))
    motions = tuple(
        compose(symmetry, compose(symmetry, one, two), three)
        for symmetry, one, two, three in zip(symmetries, first.motions, rest[0], turned, strict=True)
    )
    elements = tuple(
        one if is_matrix(symmetry) else one + two + three
        for symmetry, one, two, three in zip(symmetries, first.elements, rest[1], change, strict=True)
    )
    limits = tuple(
        further_limits(symmetry, *parts)
        for symmetry, *parts in zip(symmetries, first.limits, first.motions, end.limits, strict=True)
    )
    moved = _moved(ground, symmetries, arrays, turned)
    return eqx.tree_at(lambda s: (s.arrays, s.motions, s.elements, s.limits), end, (moved, motions, elements, limits))


def _at(arrays: list[Array], symmetries: tuple[Bound, ...]) -> Search:
    dtype = accumulation_dtype(arrays)
    count = len(symmetries)
    zeros = [_zero(symmetry, dtype) for symmetry in symmetries]
    return Search(
        arrays=arrays,
        motions=tuple(identity(symmetry, dtype) for symmetry in symmetries),
        elements=tuple(zeros),
        limits=tuple((zero, zero) for zero in zeros),
        diverges=jnp.zeros(count, bool),
        idle=jnp.zeros(count, bool),
        finite=all_finite(arrays),
        flow=jnp.asarray(jnp.inf, dtype),
        step=jnp.asarray(jnp.inf, dtype),
        sweeps=jnp.zeros((), jnp.int32),
    )


def _zero(symmetry: Bound, dtype: Any) -> Any:
    """The element that moves nothing."""
    if not isinstance(symmetry, BoundSymmetry):
        return jnp.zeros((), dtype)
    zero = symmetry.public(jnp.zeros(symmetry.shape, dtype))
    return in_double(lambda zero: zero, zero, keep=True) if is_matrix(symmetry) else zero


def _unmoved(state: Search, start: Search) -> Search:
    """The same place as a start of its own."""
    fresh = (start.motions, start.elements, start.limits)
    return eqx.tree_at(lambda s: (s.motions, s.elements, s.limits), state, fresh)


def _moved(ground: Ground, symmetries: tuple[Bound, ...], arrays: list[Array], motions: tuple[Any, ...]) -> list[Array]:
    for symmetry, motion in zip(symmetries, motions, strict=True):
        arrays = ground.moved(symmetry, arrays, motion)
    return arrays


def _turns(symmetries: tuple[Bound, ...], count: int) -> list[list[int]]:
    """The symmetries in groups that share no parameter."""
    groups: list[tuple[list[int], set[int]]] = []
    for place, symmetry in enumerate(symmetries):
        leaves = leaves_of(symmetry, count)
        for members, taken in groups:
            if not taken & leaves:
                members.append(place)
                taken |= leaves
                break
        else:
            groups.append(([place], leaves))
    return [members for members, _ in groups]


def _sweep(
    ground: Ground,
    symmetries: tuple[Bound, ...],
    law: ChargeLaw,
    turns: Sequence[Sequence[int]],
    state: Search,
) -> Search:
    """Every symmetry balanced once."""
    dtype = state.flow.dtype
    arrays, finite = state.arrays, state.finite
    motions, elements, limits = list(state.motions), list(state.elements), list(state.limits)
    diverges, idle, flow = state.diverges, state.idle, jnp.zeros((), dtype)
    for turn in turns:
        measured = ground.moments(arrays, tuple(symmetries[place] for place in turn), True)
        usable = all_finite([*jax.tree_util.tree_leaves(measured), *arrays])
        finite = finite & (usable | (state.sweeps > 0))
        usable_law = jax.tree_util.tree_map(lambda number: jnp.where(usable, number, jnp.ones_like(number)), law)  # noqa: B023
        for place, moments in zip(turn, measured, strict=True):
            moments = jax.tree_util.tree_map(lambda leaf: jnp.where(usable, leaf, 1), moments)  # noqa: B023
            found = balance(symmetries[place], arrays, moments, usable_law, ground.samples)
            if not is_matrix(symmetries[place]):
                found = jax.tree_util.tree_map(lambda x: x.astype(dtype) if x.dtype != bool else x, found)
                elements[place] = elements[place] + found.element
            here = in_double(_relative_flow, jax.lax.stop_gradient(moments), usable_law).astype(dtype)
            flow = jnp.maximum(flow, jnp.where(found.idle | found.diverges, 0, here))
            lost = found.dies if is_matrix(symmetries[place]) else (found.to_zero, found.to_infinity)
            limits[place] = further_limits(
                symmetries[place], limits[place], motions[place], jax.lax.stop_gradient(lost)
            )
            motions[place] = compose(symmetries[place], motions[place], found.motion)
            diverges, idle = diverges.at[place].set(found.diverges), idle.at[place].set(found.idle)
            arrays = [
                jnp.where(usable, new, old)
                for new, old in zip(ground.moved(symmetries[place], arrays, found.motion), arrays, strict=True)
            ]
    pairs = zip(*jax.lax.stop_gradient((arrays, state.arrays)), strict=True)
    steps = [(norm(new - old) / jnp.where(norm(old) > 0, norm(old), 1)).astype(dtype) for new, old in pairs]
    step = jnp.max(jnp.stack(steps))
    motions, elements, limits = tuple(motions), tuple(elements), tuple(limits)
    return Search(arrays, motions, elements, limits, diverges, idle, finite, flow, step, state.sweeps + 1)


def _relative_flow(moments: AbstractMoments, law: ChargeLaw) -> Array:
    return relative_flow(*law.sides(moments))


def _iterate(sweep: Callable[[Search], Search], start: Search) -> Search:
    """Sweeps until the flow is small; a constant for derivatives, whatever the sweep closes over."""
    pure, numbers = jax.closure_convert(sweep, start)
    start, numbers = jax.lax.stop_gradient((start, numbers))
    eps = jnp.finfo(start.flow.dtype).eps
    resting = 4 * max(jnp.finfo(array.dtype).eps for array in start.arrays)

    def goes_on(state: Search) -> Array:
        return (state.flow > eps**0.7) & (state.step > resting) & (state.sweeps < MAX_SWEEPS)

    return jax.lax.while_loop(goes_on, lambda state: pure(state, *numbers), start)


def _correction(ground: Ground, arrays: list[Array], symmetries: tuple[Bound, ...], law: ChargeLaw) -> list[Array]:
    """Elements that are 0, with the derivatives of those that keep every flow at 0."""
    sizes = [dimension(symmetry) for symmetry in symmetries]
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]

    def elements(vector: Array) -> list[Array]:
        parts = jnp.split(vector, ends[:-1])
        return [element_of(symmetry, part) for symmetry, part in zip(symmetries, parts, strict=True)]

    def flows(vector: Array) -> Array:
        motions = [nearby(symmetry, part) for symmetry, part in zip(symmetries, elements(vector), strict=True)]
        measured = ground.moments(_moved(ground, symmetries, arrays, tuple(motions)), symmetries, False)
        every = [
            coordinates(symmetry, law.flow(moments)).astype(vector.dtype)
            for symmetry, moments in zip(symmetries, measured, strict=True)
        ]
        return jnp.concatenate(every)

    return elements(implicit_zero(flows, sum(sizes), accumulation_dtype(arrays)))
