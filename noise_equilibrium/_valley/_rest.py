"""From a point of an orbit of minima to where B = 0, by damped Gauss–Newton steps of the group (Levenberg–Marquardt).

Every step starts from where the last one ended, so that derivatives are taken at the identity of the group, where the
action is linear; a solver of `optimistix` would take them through exponentials, and its program takes three times as
long to compile.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._double import single
from .._flow import ChargeLaw
from .._group import Groups
from .._linalg import eigh
from ._turning import Ground, along, forces_on, small_step, step_by

MOST_STEPS = 200
# Of the damping, as a share of the largest curvature of the squared flows: at first, at least, and how it changes.
DAMPING, LEAST_DAMPING, MORE, LESS = 1e-3, 1e-16, 8.0, 0.1
FARTHEST = 1.0  # step of an element: a factor e of the parameters


class _State(NamedTuple):
    """Where the search stands.

    Attributes:
        ground: what is known at the point.
        motions: the factors until there.
        flows: ½{B, N} there, relative to what acts at the start.
        slopes: their derivatives in the coordinates of all elements.
        damping: see `DAMPING`.
        steps: how many were tried.
        done: whether to stop.
    """

    ground: Ground
    motions: tuple[Any, ...]
    flows: Float[Array, " n"]
    slopes: Float[Array, "n n"]
    damping: Float[Array, ""]
    steps: Int[Array, ""]
    done: Bool[Array, ""]


def rest(base: Ground, symmetries: Groups, law: ChargeLaw) -> tuple[Any, ...]:
    """The factors of every symmetry that lead from a point to where B = 0."""
    dtype = base.root.dtype
    sizes = forces_on(base, symmetries, law).sizes
    count = sum(group.dimension for group in symmetries)
    enough = float(jnp.finfo(dtype).eps) ** 0.9

    def flows(numbers: Array, ground: Ground) -> Array:
        steps = [
            small_step(group, element)
            for group, element in zip(symmetries, elements_of(symmetries, numbers), strict=True)
        ]
        found = forces_on(along(ground, symmetries, steps), symmetries, law).flows
        return jnp.concatenate([flow / jnp.where(size > 0, size, 1) for flow, size in zip(found, sizes, strict=True)])

    def linearised(ground: Ground) -> tuple[Array, Array]:
        still = jnp.zeros(count, dtype)
        slopes, values = jax.jacfwd(lambda x: (flows(x, ground),) * 2, has_aux=True)(still)
        return values, slopes

    def proposal(state: _State) -> Array:
        values, vectors = eigh(state.slopes.T @ state.slopes)
        damped = jnp.maximum(values, 0) + state.damping * jnp.sum(values)
        step = -vectors @ ((vectors.T @ (state.slopes.T @ state.flows)) / damped)
        step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0)
        return step * jnp.minimum(1, FARTHEST / jnp.maximum(jnp.linalg.norm(step), FARTHEST))

    def more(state: _State) -> _State:
        step = jnp.where(state.steps > 0, proposal(state), 0)
        steps = [
            step_by(group, element) for group, element in zip(symmetries, elements_of(symmetries, step), strict=True)
        ]
        ground = along(state.ground, symmetries, steps)
        values, slopes = linearised(ground)
        better = jnp.linalg.norm(values) < jnp.linalg.norm(state.flows)  # the first is better than +inf
        motions = tuple(
            group.compose(before, taken.motion)
            for group, before, taken in zip(symmetries, state.motions, steps, strict=True)
        )
        taken = _State(
            ground, motions, values, slopes, jnp.maximum(state.damping * LESS, LEAST_DAMPING), state.steps, state.done
        )
        left = state._replace(damping=state.damping * MORE)
        after = jax.tree_util.tree_map(lambda new, old: jnp.where(better, new, old), taken, left)
        rests = jnp.linalg.norm(step) <= enough
        small = jnp.linalg.norm(after.flows) <= enough
        return after._replace(steps=state.steps + 1, done=small | ((state.steps > 0) & rests))

    start = _State(
        ground=base,
        motions=tuple(group.identity(dtype) for group in symmetries),
        flows=jnp.full(count, jnp.inf, dtype),
        slopes=jnp.zeros((count, count), dtype),
        damping=jnp.asarray(DAMPING, dtype),
        steps=jnp.asarray(0),
        done=jnp.asarray(False),
    )
    end = jax.lax.while_loop(lambda state: ~state.done & (state.steps < MOST_STEPS), more, start)
    return single(end.motions)


def elements_of(symmetries: Groups, numbers: Array) -> list[Array]:
    """The elements of all symmetries from their coordinates."""
    elements, place = [], 0
    for group in symmetries:
        elements.append(group.element_of(numbers[place : place + group.dimension]))
        place += group.dimension
    return elements
