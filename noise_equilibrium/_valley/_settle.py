"""`settle`: where SGD comes to rest on an orbit of minima, the turning of axes apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._budget import require_room
from .._double import in_double, single
from .._equilibrium import Equilibrium, Status, find_equilibrium, or_raise
from .._flow import AbstractLaw, ChargeLaw, as_law, require_plain
from .._group import AbstractGroup, Groups
from .._linalg import eigh, expm, inv, svd
from .._noise import gradient_covariance
from .._numbers import all_finite, cast, jit
from .._parameters import flatten, split, widest_dtype
from .._problem import Problem
from .._symmetry import AbstractSymmetry, bind_each
from ._curvature import curvature_of, hessian
from ._law import is_shuffled
from ._motion import FARTHEST, FLAT_OF_SLOPE, flat_share, relative_slope, require_minimum
from ._rest import elements_of, rest
from ._stationary import stationary
from ._turning import Forces, forces, forces_on, ground

NULL = 1e-7  # of the largest singular value: a direction along which nothing changes, as where a leg is empty


class Settled(eqx.Module):
    """Where SGD settles on an orbit of minima, to first order in the noise scale.

    Attributes:
        params: where only a rotation of the axes is left; a pytree like the params it was found from, with the same
            loss.
        element: log P, of the charge's shape: `params` is `act(start, element)` where the status is CONVERGED.
        turning: Ω, of the charge's shape: + legs move by U̇ = UΩ and − legs by Ẇ = −ΩW, per unit of time η × steps;
            antisymmetric; 0 for numbers.
        residual: ½‖{B, N}‖ relative to what raises and lowers the charge, measured anew at `params`: where nothing
            turns, the relative flow. The largest one of several symmetries.
        status: an int32 code of `Status`, as of `find_equilibrium`.
        to_zero: as of `find_equilibrium`.
        to_infinity: likewise.

    For a sequence of symmetries `element`, `turning`, `to_zero` and `to_infinity` are tuples.
    """

    params: PyTree
    element: Any
    turning: Any
    residual: Float[Array, ""]
    status: Int[Array, ""]
    to_zero: Any
    to_infinity: Any


def settle(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | Sequence[AbstractSymmetry],
    dynamics: Any,
    *,
    throw: bool = False,
) -> Settled:
    """The point of an orbit of minima where SGD comes to rest: where its drift along the orbit is a rotation, B = 0.

    The drift along the orbit of a matrix symmetry is U̇ = UZ, Ẇ = −ZW with Z = B + Ω, symmetric and antisymmetric, and
    with Q = Q₊ − Q₋, N = Q₊ + Q₋ and Tr[RK] = 2σ² Tr[R Cov H] for all antisymmetric R

        {B, N} + [Q, Ω] = −4γQ + 2σ²(M₊ − M₋),        {Ω, N} − [B, Q] = −2K.

    What a rotation does not change, such as the Gram of U or of W, rests where B = 0. If K = 0, as for scalar and
    diagonal symmetries, or wherever H and Σ commute (isotropic label noise), that is the noise equilibrium. Otherwise
    it is another point, as η → 0 too, and there the axis turns steadily by Ω.

    Without a matrix symmetry, and for shuffled epochs, whose noise turns nothing as η → 0, `settle` is
    `find_equilibrium`.

    Args:
        problem: a finite problem.
        params: a minimum of the data loss; any pytree of P numbers. (Any point where `settle` is `find_equilibrium`.)
        symmetry: a symmetry of the loss; or a sequence of symmetries that commute with each other, for all of which the
            equations are solved at once.
        dynamics: SGD or an SDE; or σ² = η/(2S) > 0. A discrete law enters as in `find_equilibrium`.
        throw: whether a point that was not found is an error, as in `find_equilibrium`.

    Returns:
        A `Settled`. Its params have first derivatives in params, γ, the law and the data, by the implicit function
        theorem and up to rotations of their axes, where the ranks of H and of the charges do not change. What else it
        holds has none where a matrix symmetry turns.

    Raises:
        ValueError: as `find_equilibrium`; for more parameters than a matrix has room for; outside of `jit`, for a point
            that is no minimum (see `valley_drift`). Inside its status is NOT_CONVERGED.
        RuntimeError: with `throw`, if the point was not found.

    Warns:
        UserWarning: as `noise_moments`.

    Method: from `find_equilibrium` on, damped Gauss–Newton steps (Levenberg–Marquardt) for B = 0 on the group. H and Σ
    are evaluated once for the whole orbit, along which they transform as gradients do; and once more for the residual.
    Cost: 2P gradients, and for every step, of which a few suffice, P³ times the number of entries of an element.

    Not checked: that the loss has the symmetry; a residual that does not vanish says that it has not. That the noise
    has no part along the valley (`valley_motion` tells). What the drift does off the orbit, along a valley that is
    larger than it, is left out.

    Source: theory, "Where SGD settles".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(4.0), "w": jnp.array(0.25)}
        >>> rest = ne.settle(problem, start, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), ne.SGD(0.02, 1))
        >>> round(float(rest.params["u"]), 6), float(rest.turning)  # a scalar symmetry: the noise equilibrium
        (1.0, 0.0)
    """
    bound = bind_each(symmetry, params, "settle")
    start = find_equilibrium(problem, params, symmetry, dynamics, throw=throw)
    if is_shuffled(dynamics) or not any(group.of_matrices for group in bound.each):
        still = jax.tree_util.tree_map(jnp.zeros_like, start.element)
        limits = start.to_zero, start.to_infinity
        return Settled(start.params, start.element, still, start.residual, start.status, *limits)
    require_plain(as_law(dynamics), problem, "settle, of matrices,")
    arrays, _ = split(params)
    size = sum(array.size for array in arrays)
    require_room(
        f"settle builds the Hessian of P = {size} parameters, which", size**2, widest_dtype(arrays), "Use fewer."
    )
    found, slope, least = _settle(problem, params, bound.each, as_law(dynamics), start, bound.several)
    require_minimum(slope, least, flat_share(widest_dtype(arrays)), "settle")
    return or_raise(found, bound.each) if throw else found


class _Place(NamedTuple):
    """A minimum: H, what the law sees of the noise, the floor of curvatures, and how far it is from a minimum."""

    hessian: Array
    sigma: Array
    floor: Array
    slope: Array


def _place(problem: Problem, params: PyTree, law: ChargeLaw) -> _Place:
    here = curvature_of(problem, params)
    theta, dtype = here.theta, here.theta.dtype
    slope = here.slope(theta)
    sigma = cast(law.noise, theta) * gradient_covariance(problem, params).astype(dtype)
    sigma = sigma + cast(law.mean, theta) * jnp.outer(slope, slope)
    steep, size = jax.lax.stop_gradient((jnp.linalg.norm(slope), jnp.linalg.norm(theta)))
    level = FLAT_OF_SLOPE * steep / jnp.where(size > 0, size, 1)
    return _Place(hessian(here), sigma, jnp.stack([jnp.asarray(flat_share(dtype), dtype), level]), slope)


@jit
def _settle(
    problem: Problem, params: PyTree, symmetries: Groups, law: AbstractLaw, start: Equilibrium, several: bool
) -> tuple[Settled, Array, Array]:
    with jax.default_matmul_precision("highest"):
        return _settled(problem, params, symmetries, law.charge_law(problem), start, several)


def _settled(
    problem: Problem, params: PyTree, symmetries: Groups, law: ChargeLaw, start: Equilibrium, several: bool
) -> tuple[Settled, Array, Array]:
    elements = [
        group.internal(element)
        for group, element in zip(symmetries, start.element if several else (start.element,), strict=True)
    ]
    pure = jax.lax.stop_gradient((problem, start.params, law, elements))
    more, slope, least = _search(pure[0], pure[1], symmetries, pure[2])
    goes = (start.status == Status.CONVERGED) | (start.status == Status.LIMIT)
    known = goes & all_finite(jax.tree_util.tree_leaves(more))
    still = [single(group.identity(slope.dtype)) for group in symmetries]
    more = jax.tree_util.tree_map(lambda one, other: jnp.where(known, one, other), list(more), still)
    motions, elements = zip(*map(_joined, symmetries, pure[3], more), strict=True)
    arrays, rebuild = split(start.params)
    for group, motion in zip(symmetries, motions, strict=True):
        arrays = group.multiply(arrays, motion)
    arrays = _implicit(problem, arrays, rebuild, symmetries, law)
    there = rebuild(arrays)
    place = _place(problem, there, law)
    here = jax.lax.stop_gradient(
        forces_on(ground(_common(arrays), place.hessian, place.sigma, place.floor), symmetries, law)
    )
    residual = jnp.max(_relative(here))
    close = (residual <= float(jnp.finfo(residual.dtype).eps) ** 0.5) & (slope <= FARTHEST)
    status = jnp.where(goes & ~close, jnp.int32(Status.NOT_CONVERGED), start.status)
    public = [single(group.public(element)) for group, element in zip(symmetries, elements, strict=True)]
    turnings = [group.public(turning) for group, turning in zip(symmetries, here.turnings, strict=True)]
    found = Settled(
        params=there,
        element=tuple(public) if several else public[0],
        turning=tuple(turnings) if several else turnings[0],
        residual=jnp.where(goes, residual, start.residual),
        status=status,
        to_zero=start.to_zero,
        to_infinity=start.to_infinity,
    )
    return found, slope, least


def _search(problem: Problem, params: PyTree, symmetries: Groups, law: ChargeLaw) -> tuple[Any, Array, Array]:
    """The motions from a noise equilibrium to B = 0; the relative slope there; the least curvature, relative."""
    place = _place(problem, params, law)
    curvatures, _ = eigh(place.hessian)
    largest = jnp.max(jnp.abs(curvatures))
    base = ground(_common(split(params)[0]), place.hessian, place.sigma, place.floor)
    slope = relative_slope(place.slope, flatten(params)[0], largest)
    return rest(base, symmetries, law), slope, curvatures[0] / jnp.where(largest > 0, largest, 1)


def _implicit(problem: Problem, arrays: list[Array], rebuild: Any, symmetries: Groups, law: ChargeLaw) -> list[Array]:
    """The same point, with the derivatives of B = 0; nothing is computed until one is taken."""

    def flows(numbers: Array) -> Array:
        there = arrays
        for group, element in zip(symmetries, elements_of(symmetries, numbers), strict=True):
            there = group.multiply(there, group.near_identity(element))
        place = _place(problem, rebuild(there), law)
        found = stationary(place.hessian, place.sigma, place.floor)
        eye = jnp.eye(len(place.sigma), dtype=place.sigma.dtype)
        every = forces(_common(there), symmetries, law, (place.sigma, eye), (found.covariance, place.hessian))
        return jnp.concatenate(every.flows)

    def tangent(linear: Any, right: Array) -> Array:
        columns = jax.vmap(linear)(jnp.eye(len(right), dtype=right.dtype)).T
        left, sizes, back = svd(jax.lax.stop_gradient(columns))
        known = sizes > NULL * sizes[0]
        return back.T @ (jnp.where(known, 1 / jnp.where(known, sizes, 1), 0) * (left.T @ right))

    still = jnp.zeros(sum(group.dimension for group in symmetries), widest_dtype(arrays))
    zero = jax.lax.custom_root(flows, still, lambda _, guess: guess, tangent)
    for group, change in zip(symmetries, elements_of(symmetries, zero), strict=True):
        arrays = group.multiply(arrays, group.near_identity(change))
    return arrays


def _joined(group: AbstractGroup, first: Array, more: Any) -> tuple[Any, Array]:
    """A motion after e^{first} without the rotation in their product, and the element of both together."""
    if not group.of_matrices:
        powers, factors = group.powers, more
        if isinstance(powers, tuple):
            powers, factors = powers[0], more[powers[0]]
            return more, first + jnp.log(factors) / powers
        place = jnp.argmax(jnp.abs(powers))
        return more, first + jnp.log(factors[place]) / cast(powers, first)[place]

    def joined(first: Array, more: Any) -> tuple[Any, Array]:
        whole = expm(first) @ more[1]
        squares, turns = eigh(whole @ jnp.swapaxes(whole, -1, -2))
        back = jnp.swapaxes(turns, -1, -2)
        power = turns * jnp.sqrt(squares)[..., None, :] @ back
        rotation = jnp.swapaxes(inv(power) @ whole, -1, -2)
        return {1: more[1] @ rotation, -1: more[-1] @ rotation}, turns * (jnp.log(squares) / 2)[..., None, :] @ back

    return in_double(joined, first, more)  # pyright: ignore[reportReturnType]


def _common(arrays: list[Array]) -> list[Array]:
    dtype = widest_dtype(arrays)
    return [array.astype(dtype) for array in arrays]


def _relative(here: Forces) -> Array:
    """The size of every flow against what raises and lowers the charge."""
    norm = jnp.linalg.norm
    pairs = zip(here.flows, here.sizes, strict=True)
    return jnp.stack([jnp.where(size > 0, norm(flow) / jnp.where(size > 0, size, 1), 0) for flow, size in pairs])
