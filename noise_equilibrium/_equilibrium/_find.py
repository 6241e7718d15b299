"""The noise equilibrium of a symmetry, in closed form from one evaluation of the moments."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._flow import AbstractLaw, as_law
from .._noise import bound_moments
from .._numbers import jit
from .._parameters import split
from .._problem import Problem
from .._symmetry import BoundSymmetry, Symmetry, bind_legs
from ._elementwise import Balance, balance_elements
from ._geometric_mean import balance_matrices, limit_directions
from ._status import Status


class Equilibrium(eqx.Module):
    """Where the noise drives the parameters on their orbit.

    Attributes:
        params: the equilibrium; a pytree like the params it was found from, with the same loss.
        element: λ* = log P, of the charge's shape; where the status is CONVERGED, `params` is `act(start, element)`. −∞
            and +∞ in the scalar and diagonal algebras where P goes to 0 or ∞; in the symmetric algebra log P on the
            directions where it is finite and 0 on the others, which the two projectors name.
        residual: the relative flow ‖dQ/dt‖ / (‖what raises Q‖ + ‖what lowers Q‖), measured anew at `params`; 0/0 is 0,
            and NaN stays NaN.
        status: an int32 code of `Status`.
        to_zero: the directions where P → 0 and the + legs die: 1 or 0 for each, or the projector on them.
        to_infinity: the directions where P → ∞ and the − legs die, likewise.
    """

    params: PyTree
    element: Array
    residual: Float[Array, ""]
    status: Int[Array, ""]
    to_zero: Array
    to_infinity: Array


def find_equilibrium(problem: Problem, params: PyTree, symmetry: Symmetry, law: Any) -> Equilibrium:
    """The noise equilibrium on the orbit of params: the point where every charge has zero flow, Theorem 4.3.

    P solves P²RP² = T with R = 2γQ₊ + σ²M₋ and T = 2γQ₋ + σ²M₊ (theory, "Closed form" and "The singular case"); no
    simulation, one evaluation of the moments, and one more for the residual. The equilibrium is the point of the orbit
    with the least total gradient noise plus weight norm, Φ = 2γ‖θ‖² + σ² Tr Σ.

    Args:
        problem: a finite problem.
        params: any point of the orbit; any pytree.
        symmetry: a leg symmetry of the loss whose powers have one absolute value.
        law: σ² = η/(2S) > 0, an `SDE`, or an `SGD` or `GD` object, for which it is the exact discrete equilibrium of
            Theorem D.1.

    Returns:
        An `Equilibrium`. Differentiable to any order in params, γ, the law, the data and the loss's own numbers, by the
        implicit function theorem, equal eigenvalues and directions at ±∞ included. Assumed then: ranks do not change.
        The projectors have no derivative, and directions without a finite limit are held fixed.

    Raises:
        ValueError: on a Stream; for a bad law or leg; for powers of different absolute value.

    Not checked: that the loss has the symmetry; a residual that does not vanish (NOT_CONVERGED) says that it has not.

    Precision: what lies below 8dε of the largest eigenvalue of the uncentred R or T (d the length of the axis, ε the
    rounding unit) cannot be told from zero. In single precision, far from balance or with inputs far from zero mean,
    that can make a weak direction look like one without a limit (DIVERGES); the product of the legs stays right, and
    the residual tells. Use double precision there.

    Example:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(4.0), "w": jnp.array(0.25)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> equilibrium = ne.find_equilibrium(problem, start, symmetry, 0.01)
        >>> {name: round(float(value), 6) for name, value in equilibrium.params.items()}  # u² = w²
        {'u': 1.0, 'w': 1.0}
    """
    law = as_law(law)
    problem.require_finite("find_equilibrium")
    law.charge_law(problem)  # raises for bad numbers, which cannot be seen once they are traced
    bound = bind_legs(symmetry, params, "find_equilibrium")
    if len({abs(leg.power) for leg in bound.legs}) > 1:
        raise ValueError(
            f"the legs have powers {sorted({leg.power for leg in bound.legs})}; "
            "expected powers of one absolute value, for which there is a closed form."
        )
    return _find_equilibrium(problem, params, bound, law)


@jit
def _find_equilibrium(problem: Problem, params: PyTree, symmetry: BoundSymmetry, law: AbstractLaw) -> Equilibrium:
    arrays, rebuild = split(params)
    (moments,) = bound_moments(problem, params, (symmetry,))
    coefficients = law.charge_law(problem)
    inputs = (*coefficients.sides(moments), coefficients.resolution(moments))
    finite = jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in [*jax.tree_util.tree_leaves(inputs), *arrays]]).all()
    finite &= (jnp.asarray(coefficients.decay) >= 0) & (jnp.asarray(coefficients.scale) >= 0)
    arrays_used, inputs = jax.tree_util.tree_map(lambda leaf: jnp.where(finite, leaf, 1), (arrays, inputs))
    # Legs are looked at in the precision of their moments, and moved in their own.
    balance = _balance(symmetry, [array.astype(inputs[0].dtype) for array in arrays_used], *inputs)

    with jax.default_matmul_precision("highest"):
        factors = {
            leg.power: (balance.plus if leg.power > 0 else balance.minus).reshape(symmetry.shape)
            for leg in symmetry.legs
        }
        moved = symmetry.transform(arrays, factors)
    stay = ~finite | balance.idle
    moved = [jnp.where(stay, array, new) for array, new in zip(arrays, moved, strict=True)]
    there = rebuild(moved)
    (moments_there,) = bound_moments(problem, there, (symmetry,))
    # Where nothing acts the flow is rounding error over rounding error: 0/0 := 0.
    residual = jnp.where(balance.idle, 0, _relative_flow(*coefficients.sides(moments_there)))
    # The answer is held in the parameters' own precision, which may be less than that of the moments.
    tolerance = max(jnp.finfo(arrays[leg.index].dtype).eps for leg in symmetry.legs) ** 0.5
    at_limit = jnp.any(balance.to_zero != 0) | jnp.any(balance.to_infinity != 0)
    status = jnp.select(
        [~finite, balance.idle, balance.diverges, ~(residual <= tolerance), at_limit],
        [Status.NON_FINITE_INPUT, Status.NO_NOISE, Status.DIVERGES, Status.NOT_CONVERGED, Status.LIMIT],
        Status.CONVERGED,
    )
    return Equilibrium(
        params=there,
        element=jnp.where(finite, balance.element, 0),
        residual=residual,
        status=status.astype(jnp.int32),
        to_zero=balance.to_zero,
        to_infinity=balance.to_infinity,
    )


def _balance(
    symmetry: BoundSymmetry, arrays: list[Array], lowers: Array, raises: Array, resolution: tuple[Array, Array]
) -> Balance:
    """Balance R and T in the algebra of a symmetry; shapes are the public ones of the charge."""
    if symmetry.algebra.rank < 2:
        occupied = [symmetry.public(weight) > 0 for weight in _weights(symmetry, arrays)]
        power = abs(symmetry.legs[0].power)
        return balance_elements(lowers, raises, resolution, (occupied[0], occupied[1]), power)

    over_blocks = (lambda function: function) if symmetry.blocks == 1 else jax.vmap
    with jax.default_matmul_precision("highest"):
        limits = over_blocks(limit_directions)(lowers, raises, resolution)
        minus_on_zero = _weights(symmetry, _projected(symmetry, arrays, limits[0]))[1]
        plus_on_infinity = _weights(symmetry, _projected(symmetry, arrays, limits[1]))[0]
        sizes = [jnp.trace(jnp.sum(weight, axis=0)) for weight in _weights(symmetry, arrays)]
        blown_up = (
            symmetry.public(minus_on_zero / jnp.where(sizes[1] > 0, sizes[1], 1)),
            symmetry.public(plus_on_infinity / jnp.where(sizes[0] > 0, sizes[0], 1)),
        )
        balance = over_blocks(balance_matrices)(lowers, raises, resolution, limits, blown_up)
    return balance._replace(diverges=jnp.any(balance.diverges), idle=jnp.all(balance.idle))


def _weights(symmetry: BoundSymmetry, arrays: list[Array]) -> tuple[Array, Array]:
    """The Grams of all + legs and of all − legs, of the internal shape."""
    plus = minus = jnp.zeros(symmetry.shape, arrays[0].dtype)
    for power, gram in symmetry.grams(jax.lax.stop_gradient(arrays)).items():
        plus, minus = (plus + gram, minus) if power > 0 else (plus, minus + gram)
    return plus, minus


def _projected(symmetry: BoundSymmetry, arrays: list[Array], projector: Array) -> list[Array]:
    """The legs on a subspace: projected before they are squared, so that an empty one is empty to rounding."""
    return symmetry.transform(arrays, {leg.power: projector.reshape(symmetry.shape) for leg in symmetry.legs})


def _relative_flow(lowers: Array, raises: Array) -> Float[Array, ""]:
    """‖T − R‖ / (‖T‖ + ‖R‖), 0/0 := 0, with derivative 0 where the flow vanishes."""
    numerator, denominator = _norm(raises - lowers), _norm(raises) + _norm(lowers)
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))


def _norm(array: Array) -> Float[Array, ""]:
    square = jnp.sum(array**2)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
