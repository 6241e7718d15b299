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
from .._group import AbstractGroup, Groups
from .._noise import AbstractMoments, measured_moments
from .._numbers import all_finite
from .._parameters import accumulation_dtype
from .._problem import Problem
from .._symmetry import share_entries
from ._implicit import implicit_zero
from ._numerics import norm, relative_flow

# Deep linear networks of three and four layers take 20 to 40 sweeps; ten times as many are given up.
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

    moments: Callable[[list[Array], Groups, bool], tuple[AbstractMoments, ...]]
    moved: Callable[[AbstractGroup, list[Array], Any], list[Array]]
    samples: int


def data_ground(problem: Problem, rebuild: Rebuild) -> Ground:
    """The parameters themselves, measured by a pass over the data at every place."""

    def moments(arrays: list[Array], symmetries: Groups, double: bool) -> tuple[AbstractMoments, ...]:
        return measured_moments(problem, rebuild(arrays), symmetries, double)[0]

    return Ground(moments, lambda group, arrays, motion: group.multiply(arrays, motion), problem.num_samples)


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


def search(ground: Ground, arrays: list[Array], symmetries: Groups, law: ChargeLaw) -> Search:
    """Balance symmetries in turn until every relative flow is below ε^0.7, or nothing moves any more.

    Differentiable by the implicit function theorem in everything that the ground, the arrays and the law hold.
    """
    turns = _turns(symmetries, len(arrays))

    def sweep(state: Search) -> Search:
        return _sweep(ground, symmetries, law, turns, state)

    first, end = _swept(sweep, _at(arrays, symmetries))
    # From where derivatives are known: the remaining motions as constants, and what the theorem says of their changes.
    rest = jax.lax.stop_gradient((end.motions, end.elements))
    arrays = _moved(ground, symmetries, first.arrays, rest[0])
    change = _correction(ground, arrays, symmetries, law)
    turned = tuple(group.near_identity(element) for group, element in zip(symmetries, change, strict=True))
    motions = tuple(
        group.compose(group.compose(one, two), three)
        for group, one, two, three in zip(symmetries, first.motions, rest[0], turned, strict=True)
    )
    elements = tuple(
        group.sum_of(one, two, three)
        for group, one, two, three in zip(symmetries, first.elements, rest[1], change, strict=True)
    )
    limits = tuple(
        group.joined_limits(*parts)
        for group, *parts in zip(symmetries, first.limits, first.motions, end.limits, strict=True)
    )
    moved = _moved(ground, symmetries, arrays, turned)
    return eqx.tree_at(lambda s: (s.arrays, s.motions, s.elements, s.limits), end, (moved, motions, elements, limits))


def _at(arrays: list[Array], symmetries: Groups) -> Search:
    dtype = accumulation_dtype(arrays)
    count = len(symmetries)
    zeros = [group.zero(dtype) for group in symmetries]
    return Search(
        arrays=arrays,
        motions=tuple(group.identity(dtype) for group in symmetries),
        elements=tuple(zeros),
        limits=tuple((zero, zero) for zero in zeros),
        diverges=jnp.zeros(count, bool),
        idle=jnp.zeros(count, bool),
        finite=all_finite(arrays),
        # Not known before the first sweep, and infinite, so that they do not end the search before it.
        flow=jnp.asarray(jnp.inf, dtype),
        step=jnp.asarray(jnp.inf, dtype),
        sweeps=jnp.zeros((), jnp.int32),
    )


def _unmoved(state: Search, start: Search) -> Search:
    """The same place as a start of its own."""
    fresh = (start.motions, start.elements, start.limits)
    return eqx.tree_at(lambda s: (s.motions, s.elements, s.limits), state, fresh)


def _moved(ground: Ground, symmetries: Groups, arrays: list[Array], motions: tuple[Any, ...]) -> list[Array]:
    for symmetry, motion in zip(symmetries, motions, strict=True):
        arrays = ground.moved(symmetry, arrays, motion)
    return arrays


def _turns(symmetries: Groups, count: int) -> list[list[int]]:
    """The symmetries in groups that share no entry of a parameter."""
    groups: list[list[int]] = []
    for place, one in enumerate(symmetries):
        for members in groups:
            if not any(share_entries(one, symmetries[other], count) for other in members):
                members.append(place)
                break
        else:
            groups.append([place])
    return groups


def _sweep(
    ground: Ground,
    symmetries: Groups,
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
        # Bad input is what is not finite at the start; what a later sweep runs into is no fault of the caller.
        finite = finite & (usable | (state.sweeps > 0))
        # Where something is not finite nothing is moved, but the balance is computed all the same, and its derivatives
        # with it: they must find numbers for which it is defined.
        usable_law = jax.tree_util.tree_map(lambda number: jnp.where(usable, number, jnp.ones_like(number)), law)  # noqa: B023
        for place, moments in zip(turn, measured, strict=True):
            moments = jax.tree_util.tree_map(lambda leaf: jnp.where(usable, leaf, 1), moments)  # noqa: B023
            group = symmetries[place]
            found = group.balance(arrays, moments, usable_law, ground.samples)
            if not group.of_matrices:  # the sums of a loop keep their dtype; matrices are double anyway
                found = jax.tree_util.tree_map(lambda x: x.astype(dtype) if x.dtype != bool else x, found)
            elements[place] = group.sum_of(elements[place], found.element)
            # The flow here decides when to stop, and nothing else.
            here = in_double(_relative_flow, jax.lax.stop_gradient(moments), usable_law).astype(dtype)
            # Where nothing acts, or no finite limit exists, the relative flow need not vanish, however long the search.
            flow = jnp.maximum(flow, jnp.where(found.idle | found.diverges, 0, here))
            limits[place] = group.further_limits(limits[place], motions[place], jax.lax.stop_gradient(found))
            motions[place] = group.compose(motions[place], found.motion)
            diverges, idle = diverges.at[place].set(found.diverges), idle.at[place].set(found.idle)
            arrays = [
                jnp.where(usable, new, old)
                for new, old in zip(ground.moved(group, arrays, found.motion), arrays, strict=True)
            ]
    pairs = zip(*jax.lax.stop_gradient((arrays, state.arrays)), strict=True)
    steps = [(norm(new - old) / jnp.where(norm(old) > 0, norm(old), 1)).astype(dtype) for new, old in pairs]
    step = jnp.max(jnp.stack(steps))
    motions, elements, limits = tuple(motions), tuple(elements), tuple(limits)
    return Search(arrays, motions, elements, limits, diverges, idle, finite, flow, step, state.sweeps + 1)


def _relative_flow(moments: AbstractMoments, law: ChargeLaw) -> Array:
    return relative_flow(*law.sides(moments))


def _swept(sweep: Callable[[Search], Search], start: Search) -> tuple[Search, Search]:
    """Where sweeps of which derivatives are known lead, and from there the end, a constant for derivatives.

    Where nothing is differentiated the first is the start: one loop, in which a sweep is compiled once instead of
    FIRST_SWEEPS + 1 times.
    """
    pure, numbers = jax.closure_convert(sweep, start)

    @jax.custom_jvp
    def swept(start: Search, numbers: list[Array]) -> tuple[Search, Search]:
        return start, _iterate(lambda state: pure(state, *numbers), start)

    @swept.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(differentiable, primals, tangents)

    def differentiable(start: Search, numbers: list[Array]) -> tuple[Search, Search]:
        first = start
        for _ in range(FIRST_SWEEPS):  # not a scan, whose derivative of a gradient forgets what is held constant inside
            first = pure(first, *numbers)
        # A `while` loop has no derivative in reverse, and these motions need none: `_correction` has what they leave
        # out.
        constant, fixed = jax.lax.stop_gradient((_unmoved(first, start), numbers))
        return first, _iterate(lambda state: pure(state, *fixed), constant)

    return swept(start, numbers)


def _iterate(sweep: Callable[[Search], Search], start: Search) -> Search:
    """Sweeps until the flow is small, and at least the first ones."""
    eps = jnp.finfo(start.flow.dtype).eps
    # A motion below some roundings of the parameters themselves changes nothing that they can hold.
    resting = 4 * max(jnp.finfo(array.dtype).eps for array in start.arrays)

    def goes_on(state: Search) -> Array:
        moving = (state.flow > eps**0.7) & (state.step > resting) & (state.sweeps < MAX_SWEEPS)
        return moving | (state.sweeps < FIRST_SWEEPS)

    return jax.lax.while_loop(goes_on, sweep, start)


def _correction(ground: Ground, arrays: list[Array], symmetries: Groups, law: ChargeLaw) -> list[Array]:
    """Elements that are 0, with the derivatives of those that keep every flow at 0."""
    sizes = [group.dimension for group in symmetries]
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]

    def elements(vector: Array) -> list[Array]:
        parts = jnp.split(vector, ends[:-1])
        return [group.element_of(part) for group, part in zip(symmetries, parts, strict=True)]

    def flows(vector: Array) -> Array:
        motions = [group.near_identity(part) for group, part in zip(symmetries, elements(vector), strict=True)]
        measured = ground.moments(_moved(ground, symmetries, arrays, tuple(motions)), symmetries, False)
        every = [
            # In orthonormal coordinates the Jacobian of all flows is symmetric, as `implicit_zero` takes it to be.
            group.coordinates(law.flow(moments).reshape(group.shape)).astype(vector.dtype)
            for group, moments in zip(symmetries, measured, strict=True)
        ]
        return jnp.concatenate(every)

    return elements(implicit_zero(flows, sum(sizes), accumulation_dtype(arrays)))
