"""The noise equilibrium of one symmetry, in closed form or by one root, and of several at once."""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._flow import AbstractLaw, ChargeLaw, adapted, as_law, settling
from .._group import AbstractGroup, Groups
from .._noise import AbstractMoments, Measurement, measured, measured_moments, or_measurement
from .._numbers import all_finite, jit
from .._parameters import accumulation_dtype, split
from .._per_sample import Silence
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, acted_axis, bind, tells_apart_what_is_mixed
from ._joint import joint
from ._numerics import relative_flow
from ._raise import or_raise
from ._status import Status


class Equilibrium(eqx.Module):
    """Where the noise drives the parameters on their orbit.

    Attributes:
        params: the equilibrium; a pytree like the params it was found from, with the same loss.
        element: λ* = log P, of the charge's shape; where the status is CONVERGED, `params` is `act(start, element)`. −∞
            and +∞ in the scalar and diagonal algebras where P goes to 0 or ∞; in the symmetric algebra log P on the
            directions where it is finite and 0 on the others, which the two projectors name.
        residual: the relative flow ‖dQ/dt‖ / (‖what raises Q‖ + ‖what lowers Q‖), measured anew at `params`; 0/0 is 0,
            and NaN stays NaN. The largest one of several symmetries, and 1 if they change the loss. NaN where there
            were no data to measure.
        status: an int32 code of `Status`.
        to_zero: the directions where P → 0 and the + legs die: 1 or 0 for each, or the projector on them.
        to_infinity: the directions where P → ∞ and the − legs die, likewise.
        sweeps: how often each symmetry was balanced: 1 for a single one.

    For a sequence of symmetries `element`, `to_zero` and `to_infinity` are tuples.
    """

    params: PyTree
    element: Any
    residual: Float[Array, ""]
    status: Int[Array, ""]
    to_zero: Any
    to_infinity: Any
    sweeps: Int[Array, ""]


@or_measurement
def find_equilibrium(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | Sequence[AbstractSymmetry],
    law: Any,
    *,
    throw: bool = False,
) -> Equilibrium:
    """The noise equilibrium on the orbit of params: the point where every charge has zero flow, Theorem 4.3.

    For powers of one size P solves P²RP² = T with R = 2γQ₊ + σ²M₋ and T = 2γQ₋ + σ²M₊ (theory, "Closed form" and "The
    singular case"); for others λ is the root of a function of one variable, bracketed beforehand (theory, "Any
    spectrum"). No simulation: one evaluation of the moments, and one more for the residual. The equilibrium is the
    point of the orbit with the least total gradient noise plus weight norm, Φ = 2γ‖θ‖² + σ² Tr Σ.

    Several symmetries that share no entry of a parameter are balanced from the same moments, and so are scalar and
    diagonal ones that share some (theory, "Several scalar and diagonal symmetries from one measurement"). Only where
    matrices meet others in an entry are they balanced in turn until no charge flows (theory, "Several symmetries").

    Args:
        problem: a finite problem; or, for one symmetry, a `Measurement` in place of it and the next two. Without data,
            as from `partial_moments`, `estimate_moments` or `redrawn_moments`, nothing is measured anew: `.residual` is
            NaN, and the status is what the moments say.
        params: any point of the orbit; any pytree.
        symmetry: a symmetry of the loss; or a sequence of symmetries that commute with each other, whose joint
            equilibrium is found.
        law: σ² = η/(2S) > 0, an `SDE`, or an `SGD` or `GD` object, for which it is the exact discrete equilibrium of
            Theorem D.1; `Momentum`; `Preconditioned`, for one symmetry.
        throw: whether an equilibrium that was not found, with the status DIVERGES, NOT_CONVERGED or NON_FINITE_INPUT,
            is an error: outside of `jit` one that names the symmetry and the direction, inside by `equinox.error_if`.

    Returns:
        An `Equilibrium`. Differentiable to any order in params, γ, the law, the data and the loss's own numbers, by the
        implicit function theorem, equal eigenvalues and directions at ±∞ included. Assumed then: ranks do not change.
        The projectors have no derivative, and directions without a finite limit are held fixed. Of a joint
        equilibrium with directions at ±∞, `element` has no derivative that means anything, and `params` has one up to
        rotations of its axes; what rotations do not change (Grams, charges up to rotation, the loss) is right.

    Raises:
        ValueError: on a Stream; for a bad law or leg; for a matrix-free exponential symmetry, an empty sequence, or
            symmetries of a sequence that do not commute because both act on one axis of a parameter.
        RuntimeError: with `throw`, if there is no equilibrium or it was not found.

    Warns:
        UserWarning: as `noise_moments`.

    Not checked: that the loss has the symmetry; a residual that does not vanish (NOT_CONVERGED) says that it has not.
    That an exponential symmetry commutes with the others of a sequence.

    Precision: matrices are balanced in double precision whatever the parameters are, from moments taken at a point of
    the orbit where no direction hides another. In single precision the status is that of double precision, and the
    Grams are right to about 1e-6 of their size with factors of any condition, as long as the inputs are not as
    ill-conditioned themselves; derivatives to about 1e-3. A direction has no noise if its gradients are no larger than
    their rounding errors. All noise together counts as none below Nε/4 of the square of the mean gradient.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(4.0), "w": jnp.array(0.25)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> equilibrium = ne.find_equilibrium(problem, start, symmetry, 0.01)
        >>> {name: round(float(value), 6) for name, value in equilibrium.params.items()}  # u² = w²
        {'u': 1.0, 'w': 1.0}
    """
    law = as_law(law)
    if not isinstance(problem, Problem):
        measurement = measured(problem, params, symmetry, "find_equilibrium")
        law.charge_law(measurement.source)
        found, _ = _find_from(measurement, law)  # what the loss ignores was told when it was measured
        return or_raise(found, (measurement.symmetry,)) if throw else found
    problem.require_finite("find_equilibrium")
    law.charge_law(problem)  # raises for bad numbers, which cannot be seen once they are traced
    found, several, silence = on_orbit(problem, params, symmetry, law)
    silence.warn()
    return or_raise(found, several) if throw else found


def on_orbit(
    problem: Problem, params: PyTree, symmetry: AbstractSymmetry | Sequence[AbstractSymmetry], law: AbstractLaw
) -> tuple[Equilibrium, Groups, Silence]:
    """The equilibrium of one symmetry or several, the symmetries bound to params, and what the loss does not see."""
    if isinstance(symmetry, AbstractSymmetry):
        several = (_bound(symmetry, params),)
        found, silence = _find_one(problem, params, several[0], law)
    else:
        if law.charge_law(problem).has_numbers:
            raise ValueError(
                "the law has a number for each side of one symmetry, and several were given; expected one symmetry, "
                "for a parameter may be on either side."
            )
        several = commuting(symmetry, params)
        found, silence = _find_several(problem, params, several, law)
    return found, several, silence


def commuting(symmetries: Sequence[AbstractSymmetry], params: PyTree) -> Groups:
    """Several symmetries bound to params; a ValueError if two of them do not commute."""
    if not isinstance(symmetries, Sequence) or not symmetries:
        hint = " Nothing was found: .reason() of the result says why." if hasattr(symmetries, "reason") else ""
        raise ValueError(f"symmetry is {symmetries!r}; expected one Symmetry, or a sequence of at least one.{hint}")
    several = tuple(_bound(one, params) for one in symmetries)
    _require_commuting(several)
    return several


def _bound(symmetry: Any, params: PyTree) -> AbstractGroup:
    group = bind(symmetry, params)
    group.require_spectrum("find_equilibrium")
    return group


def _require_commuting(symmetries: Groups) -> None:
    """Matrices on an axis commute with nothing else that tells apart entries which they mix."""
    of_legs = [symmetry for symmetry in symmetries if isinstance(symmetry, BoundSymmetry)]
    for one, other in itertools.permutations(of_legs, 2):
        if not one.of_matrices:
            continue
        for mixing, leg in itertools.product(one.legs, other.legs):
            if mixing.meets(leg) and tells_apart_what_is_mixed(leg.axes, other.algebra.rank > 0, mixing.axes):
                raise ValueError(
                    f"two symmetries act on axis {acted_axis(mixing.axes)} of {leg.name}, as {mixing} and as {leg}, "
                    "one of them by matrices, and do not commute; expected one of them alone (a double rotation "
                    "contains the rescalings of its axis), or parts of the axis that have no entry in common."
                )


@jit
def _find_one(
    problem: Problem, params: PyTree, symmetry: AbstractGroup, law: AbstractLaw
) -> tuple[Equilibrium, Silence]:
    arrays, rebuild = split(params)
    coefficients = law.charge_law(problem)
    usable = _where(_known(arrays, coefficients), arrays, 1)
    gauge = symmetry.vantage(usable)
    seen = usable if gauge is None else symmetry.multiply(usable, gauge)
    (moments,), _ = measured_moments(problem, rebuild(seen), (symmetry,), True)
    return _balanced(params, symmetry, moments, coefficients, problem.num_samples, gauge, problem)


@jit
def _find_from(measurement: Measurement, law: AbstractLaw) -> tuple[Equilibrium, Silence]:
    moments, coefficients = law.acting(measurement)
    params, symmetry, count = measurement.params, measurement.symmetry, measurement.count
    return _balanced(params, symmetry, moments, coefficients, count, None, measurement.problem)


def _balanced(
    params: PyTree,
    symmetry: AbstractGroup,
    moments: AbstractMoments,
    law: ChargeLaw,
    samples: Any,
    gauge: Any,
    problem: Problem | None,
) -> tuple[Equilibrium, Silence]:
    """The equilibrium of one symmetry from its moments, and the flow that is left there if it can be measured."""
    arrays, rebuild = split(params)
    known = _known(arrays, law)
    finite = known & all_finite(jax.tree_util.tree_leaves(moments))
    usable, at_hand, lawful = _where(known, arrays, 1), _where(finite, moments, 1), _usable(law, known)
    lawful = settling(lawful, symmetry, usable, at_hand)
    found = symmetry.balance(usable, at_hand, lawful, samples, gauge)
    stay = ~finite | found.idle
    there = rebuild(_where(stay, arrays, symmetry.multiply(arrays, found.motion)))
    if problem is None:
        residual, silence = jnp.asarray(jnp.nan, accumulation_dtype(arrays)), Silence()
    else:
        (moments,), silence = measured_moments(problem, there, (symmetry,))
        # Where nothing acts the flow is rounding error over rounding error: 0/0 := 0.
        there_law = adapted(law, symmetry, arrays, moments)
        residual = jnp.where(found.idle, 0, relative_flow(*there_law.sides(moments)))
    element, to_zero, to_infinity = map(symmetry.public, (found.element, found.to_zero, found.to_infinity))
    at_limit = jnp.any(to_zero != 0) | jnp.any(to_infinity != 0)
    flow = residual if problem is not None else jnp.zeros_like(residual)
    equilibrium = Equilibrium(
        params=there,
        element=jnp.where(finite, element, 0),
        residual=residual,
        status=status_of(finite, found.idle, found.diverges, flow, at_limit, tolerance((symmetry,), arrays)),
        to_zero=to_zero,
        to_infinity=to_infinity,
        sweeps=jnp.ones((), jnp.int32),
    )
    return equilibrium, silence


def _known(arrays: list[Array], law: ChargeLaw) -> Array:
    """Whether the parameters and the numbers of a law can be worked with."""
    return all_finite([*jax.tree_util.tree_leaves(law), *arrays]) & _is_law(law)


def _where(condition: Array, chosen: PyTree, otherwise: Any) -> Any:
    """`jnp.where` of every leaf; `otherwise` is a like pytree, or a number."""
    if not isinstance(otherwise, int):
        return jax.tree_util.tree_map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)
    return jax.tree_util.tree_map(lambda a: jnp.where(condition, a, otherwise), chosen)


@jit
def _find_several(
    problem: Problem, params: PyTree, symmetries: Groups, law: AbstractLaw
) -> tuple[Equilibrium, Silence]:
    arrays, rebuild = split(params)
    coefficients = law.charge_law(problem)
    known = _known(arrays, coefficients)
    found = joint(problem, _where(known, arrays, 1), rebuild, symmetries, _usable(coefficients, known))
    finite = known & found.finite
    idle = jnp.stack([end.idle for end in found.ends])
    moved = arrays
    for symmetry, end in zip(symmetries, found.ends, strict=True):
        moved = symmetry.multiply(moved, end.motion)
    there = rebuild(_where(~finite | jnp.all(idle), arrays, moved))
    moments_there, silence = measured_moments(problem, there, symmetries)
    flows = [
        jnp.where(end.idle, 0, relative_flow(*coefficients.sides(moments)).astype(accumulation_dtype(arrays)))
        for end, moments in zip(found.ends, moments_there, strict=True)
    ]
    # A search that measures anew at every step finds a point without flow also where the loss is not invariant.
    residual = jnp.where(_same_loss(problem, params, there) | ~finite, jnp.max(jnp.stack(flows)), 1)
    ends = [
        tuple(map(symmetry.public, (end.element, end.to_zero, end.to_infinity)))
        for symmetry, end in zip(symmetries, found.ends, strict=True)
    ]
    elements, to_zero, to_infinity = zip(*_where(finite, ends, 0), strict=True)
    at_limit = jnp.stack([jnp.any(limit != 0) for limit in [*to_zero, *to_infinity]]).any()
    diverges = jnp.stack([end.diverges for end in found.ends]).any()
    equilibrium = Equilibrium(
        params=there,
        element=elements,
        residual=residual,
        status=status_of(finite, jnp.all(idle), diverges, residual, at_limit, tolerance(symmetries, arrays)),
        to_zero=to_zero,
        to_infinity=to_infinity,
        sweeps=found.sweeps,
    )
    return equilibrium, silence


def _same_loss(problem: Problem, params: PyTree, there: PyTree) -> Array:
    """Whether the data loss is what it was, to much more than its rounding."""
    start, end = (jnp.mean(jax.vmap(problem.sample_loss, (None, 0))(place, problem.data)) for place in (params, there))
    start, end = jax.lax.stop_gradient((start, end))
    return jnp.abs(end - start) <= float(jnp.finfo(start.dtype).eps) ** 0.25 * (jnp.abs(start) + jnp.abs(end))


def _is_law(law: ChargeLaw) -> Array:
    """Whether the numbers of a law, which may be traced, are those of one: γ ≥ 0, ηγ < 1."""
    return (jnp.asarray(law.decay) >= 0) & (jnp.asarray(law.scale) >= 0)


def _usable(law: ChargeLaw, finite: Array) -> ChargeLaw:
    return jax.tree_util.tree_map(lambda number: jnp.where(finite, number, 1.0), law)


def tolerance(symmetries: Groups, arrays: list[Array]) -> float:
    """√ε of the parameters' own precision, which may be less than that of the moments."""
    moved = {place for symmetry in symmetries for place in symmetry.leaves(len(arrays))}
    return max(float(jnp.finfo(arrays[place].dtype).eps) for place in moved) ** 0.5


def status_of(
    finite: Array, idle: Array, diverges: Array, residual: Array, at_limit: Array, tolerance: float
) -> Int[Array, ""]:
    status = jnp.select(
        [~finite, idle, diverges, ~(residual <= tolerance), at_limit],
        [Status.NON_FINITE_INPUT, Status.NO_NOISE, Status.DIVERGES, Status.NOT_CONVERGED, Status.LIMIT],
        Status.CONVERGED,
    )
    return status.astype(jnp.int32)
