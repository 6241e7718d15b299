"""How fast charges relax to the noise equilibrium: Section 4.2; t_equi = 1/κ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._double import in_double
from .._linalg import eigh
from .._noise import AbstractMoments, Measurement, measured, or_measurement
from .._numbers import cast, jit
from .._problem import Problem
from .._symmetry import AbstractSymmetry, Bound, BoundSymmetry, is_matrix
from ._law import AbstractLaw, ChargeLaw, as_law

# The longest axis whose d(d+1)/2 rates are all computed. They take d⁶ time and several arrays of d⁴/2 numbers: at
# d = 32 (528 rates) 20 ms and 4 MB on two cores, at 64 seconds and 70 MB, at 256 gigabytes.
WHOLE_SPECTRUM = 32


class RelaxationModes(eqx.Module):
    """The slowest and the fastest relaxation of a charge, and where on the axis they are.

    A direction f is a vector of length 1 along the axis of the symmetry; the mode is the element B = ffᵀ of a matrix
    charge, B = f of a diagonal one, where f has a single entry 1, and a number of a scalar one, where f is 1.

    Attributes:
        slowest: the smallest rate, per unit of time η × steps; +inf where all legs are empty.
        fastest: the largest rate of those directions where the legs are not empty; +inf where all are.
        slowest_direction: the direction f of the smallest rate; 0 where all legs are empty.
        fastest_direction: that of the largest.
        active: how many directions are not empty: the rank of N = Q₊ + Q₋.

    Rates have the shape (), or (H,) with H blocks; directions (d,) or (H, d), or that of the rates for a scalar charge.
    """

    slowest: Array
    fastest: Array
    slowest_direction: Array
    fastest_direction: Array
    active: Int[Array, "..."]


@or_measurement
def relaxation_rates(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, noise_scale: Any) -> Array:
    """κ = 4γ + 2σ² Tr[A²Σ]/(θᵀA²θ), the rates at which charges relax along the orbit; t_equi = 1/κ (Section 4.2).

    Scalar and diagonal charges have one rate each, −dG/dC at this point of the orbit. A matrix charge has the rates
    κ = 4γ + 2σ²ρ of the least-norm motion with the given dQ/dt, ρ the eigenvalues of B ↦ BM + MB against B ↦ BN + NB on
    symmetric matrices, M = M₊ + M₋, N = Q₊ + Q₋; they are the relaxation rates at the equilibrium.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: the parameters, any pytree; for a matrix charge, at the noise equilibrium.
        symmetry: whose charge relaxes.
        noise_scale: σ² = η/(2S) > 0; a number or a law.

    Returns:
        Per unit of time η × steps: a scalar; (d,); for the symmetric algebra on an axis of d ≤ 32 the d(d+1)/2 rates in
        ascending order, the first of them 4γ + 2σ² λ_min(M, N); on a longer axis the first and the last of them alone,
        shape (2,), because all of them cost d⁶. With H blocks, H in front. Where the legs are empty there is nothing to
        relax: such directions (for a matrix B, those with BN + NB = 0) have rate +inf, and stand last, also as the last
        of two; `relaxation_modes` gives the fastest of the others. First derivatives are right where rates are
        distinct.

    Raises:
        ValueError: on a Stream; if σ² ≤ 0; if a leg does not fit params.

    Source: theory, "Time scales".
    """
    law = as_law(noise_scale)
    measurement = measured(problem, params, symmetry, "relaxation_rates")
    law.charge_law(measurement.source)  # raises for bad numbers, which cannot be seen once they are traced
    return _relaxation_rates(measurement, law)


@or_measurement
def relaxation_modes(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, noise_scale: Any) -> RelaxationModes:
    """The slowest and the fastest of the relaxation rates κ, with their directions, on an axis of any length d.

    For a matrix charge κ = 4γ + 2σ²ρ with ρ the smallest and the largest generalised eigenvalue of the d × d pencil
    (M, N), M = M₊ + M₋ and N = Q₊ + Q₋ with its null space dropped: the extreme eigenvectors of B ↦ BM + MB against
    B ↦ BN + NB are B = ffᵀ, those of Mf = ρNf. For scalar and diagonal charges they are the extremes of their rates.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: the parameters, any pytree; for a matrix charge, at the noise equilibrium.
        symmetry: whose charge relaxes.
        noise_scale: σ² = η/(2S) > 0; a number or a law.

    Returns:
        `RelaxationModes`. The rates have the right first derivatives where the extreme one is simple; the directions
        are constants for derivatives.

    Raises:
        ValueError: what `relaxation_rates` refuses.

    Cost: one evaluation of the moments, and d³ for a matrix charge.

    Assumed: where the legs are empty there is no noise either (Nf = 0 implies Mf = 0), as every loss with the symmetry
    has it.

    Source: theory, "Time scales".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> linear = ne.models.two_layer_linear
        >>> problem = ne.Problem(lambda p, z: z @ jnp.diag(p.up @ p.down), jnp.array([[2.0, 1.0], [-2.0, -1.0]]))
        >>> modes = ne.relaxation_modes(problem, linear.Params(jnp.eye(2), jnp.eye(2)), linear.symmetry, 0.05)
        >>> round(float(modes.slowest), 6), jnp.abs(modes.slowest_direction).round(6).tolist()  # 2σ² Var z_2
        (0.1, [0.0, 1.0])
    """
    law = as_law(noise_scale)
    measurement = measured(problem, params, symmetry, "relaxation_modes")
    law.charge_law(measurement.source)  # as above
    return _relaxation_modes(measurement, law)


@jit
def _relaxation_rates(measurement: Measurement, law: AbstractLaw) -> Array:
    moments, coefficients = law.acting(measurement)
    if not is_matrix(measurement.symmetry):
        return _rates(coefficients, _quotient(*_both_sides(moments, coefficients)))

    def rates(moments: AbstractMoments, coefficients: ChargeLaw) -> Array:
        noise, weight = _both_sides(moments, coefficients)
        if noise.shape[-1] <= WHOLE_SPECTRUM:
            return _rates(coefficients, _over_blocks(_all_ratios, noise, weight))
        found = _over_blocks(_extremes, noise, weight)
        first, last = found.ratios[..., 0], found.ratios[..., 1]
        some_empty = (found.active < noise.shape[-1]) & ~jnp.isnan(last)
        return _rates(coefficients, jnp.stack([first, jnp.where(some_empty, jnp.inf, last)], axis=-1))

    return in_double(rates, moments, coefficients)


@jit
def _relaxation_modes(measurement: Measurement, law: AbstractLaw) -> RelaxationModes:
    symmetry = measurement.symmetry

    def modes(moments: AbstractMoments, coefficients: ChargeLaw) -> RelaxationModes:
        noise, weight = _both_sides(moments, coefficients)
        if is_matrix(symmetry):
            found = _over_blocks(_extremes, noise, weight)
        else:
            found = _extreme_entries(noise, weight, jnp.ndim(noise) - _axes_of_blocks(symmetry))
        rates = _rates(coefficients, found.ratios)
        first, last = found.directions
        return RelaxationModes(rates[..., 0], rates[..., 1], first, last, found.active)

    moments, coefficients = law.acting(measurement)
    return in_double(modes, moments, coefficients) if is_matrix(symmetry) else modes(moments, coefficients)


def _both_sides(moments: AbstractMoments, coefficients: ChargeLaw) -> tuple[Array, Array]:
    """M = M₊ + M₋, with the law's share of the mean gradient, and N = Q₊ + Q₋; legs count with their power squared."""

    def both(grams: Any) -> Array:
        return moments.total(grams, +1, exponent=2) + moments.total(grams, -1, exponent=2)

    weight = both(moments.weight)
    noise = cast(coefficients.noise, weight) * both(moments.noise)
    return noise + cast(coefficients.mean, weight) * both(moments.mean), weight


def _axes_of_blocks(symmetry: Bound) -> int:
    return int(isinstance(symmetry, BoundSymmetry) and symmetry.blocks > 1)


def _over_blocks(function: Callable[[Array, Array], Any], noise: Array, weight: Array) -> Any:
    """A function of one block for each of them."""
    with jax.default_matmul_precision("highest"):
        return (function if noise.ndim == 2 else jax.vmap(function))(noise, weight)


def _rates(law: ChargeLaw, ratios: Array) -> Array:
    rates = 4 * cast(law.decay, ratios) + 2 * cast(law.scale, ratios) * ratios
    return jnp.where(jnp.isinf(ratios), jnp.inf, rates)  # also at a noise scale of 0


def _quotient(noise: Array, weight: Array) -> Array:
    empty = weight == 0
    return jnp.where(empty, jnp.inf, noise / jnp.where(empty, 1, weight))


def _present(values: Float[Array, " d"]) -> Array:
    """Which eigenvalues of a Gram are not zero to rounding."""
    return values > 8 * len(values) * jnp.finfo(values.dtype).eps * values[-1]


class _Extremes(NamedTuple):
    """The smallest and the largest ratio M/N of the directions that are not empty, (2,), and the directions, (2, …)."""

    ratios: Array
    directions: tuple[Array, Array]
    active: Array


def _extremes(noise: Float[Array, "d d"], weight: Float[Array, "d d"]) -> _Extremes:
    """The extreme eigenvalues of Mf = ρNf and their f of length 1, with the null space of N dropped."""
    values, basis = eigh(jax.lax.stop_gradient(weight))
    present = _present(values)
    active = jnp.sum(present)
    whiten = basis * jnp.where(present, jax.lax.rsqrt(jnp.where(present, values, 1)), 0)
    whitened = whiten.T @ jax.lax.stop_gradient(noise) @ whiten
    # M is positive semidefinite up to rounding: at −1 on the scale of its trace the dropped directions stand first.
    scale = jnp.trace(whitened)
    whitened = whitened / jnp.where(scale > 0, scale, 1)
    dropped = -jnp.diag((~present).astype(values.dtype))
    _, vectors = eigh(jnp.where(present[:, None] & present[None, :], whitened, dropped))
    places = jnp.stack([jnp.minimum(len(values) - active, len(values) - 1), len(values) - 1])
    directions = (whiten @ vectors[:, places]).T
    lengths = jnp.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / jnp.where(lengths > 0, lengths, 1)
    # Rayleigh quotients at fixed eigenvectors have the right first derivatives and need none of the eigenvectors'.
    directions = jax.lax.stop_gradient(directions)
    above, below = (jnp.einsum("af,fg,ag->a", directions, gram, directions) for gram in (noise, weight))
    ratios = jnp.where(active == 0, jnp.inf, above / jnp.where(active == 0, 1, below))
    ratios = jnp.where(jnp.isfinite(values[-1]), ratios, jnp.nan)  # what is not a number is not empty
    return _Extremes(ratios, (directions[0], directions[1]), active)


def _extreme_entries(noise: Array, weight: Array, axes: int) -> _Extremes:
    """The same for one number per entry: along the last axis if there is one."""
    noise, weight = (gram[..., None] if axes == 0 else gram for gram in (noise, weight))
    present = weight != 0
    ratios = noise / jnp.where(present, weight, 1)
    places = (
        jnp.argmin(jnp.where(present, ratios, jnp.inf), axis=-1),
        jnp.argmax(jnp.where(present, ratios, -jnp.inf), axis=-1),
    )
    active = jnp.sum(present, axis=-1)
    chosen = [jnp.take_along_axis(ratios, place[..., None], axis=-1)[..., 0] for place in places]
    extremes = jnp.where((active > 0)[..., None], jnp.stack(chosen, axis=-1), jnp.inf)
    some = (active > 0)[..., None]
    first, last = (jnp.where(some, jax.nn.one_hot(place, noise.shape[-1], dtype=noise.dtype), 0) for place in places)
    directions = (first[..., 0], last[..., 0]) if axes == 0 else (first, last)
    return _Extremes(extremes, directions, active)


def _all_ratios(noise: Float[Array, "d d"], weight: Float[Array, "d d"]) -> Float[Array, " d*(d+1)//2"]:
    """Ascending eigenvalues of {B, M} = ρ {B, N}, with the null space of B ↦ {B, N} dropped (its ratios +inf)."""
    d = len(weight)
    values, basis = eigh(jax.lax.stop_gradient(weight))
    full = _present(values)
    rows, columns = jnp.triu_indices(d)
    # In the eigenbasis of N, B_ij + B_ji is scaled by n_i + n_j; whiten by it, on an orthonormal basis of the B.
    units = jnp.zeros((len(rows), d, d), values.dtype).at[jnp.arange(len(rows)), rows, columns].set(1)
    units = (units + units.mT) * jnp.where(rows == columns, 0.5, jnp.sqrt(0.5)).astype(values.dtype)[:, None, None]
    present = full[rows] | full[columns]
    scale = jnp.where(present, jax.lax.rsqrt(jnp.where(present, values[rows] + values[columns], 1)), 0)
    units = basis @ (units * scale[:, None, None]) @ basis.T
    anticommutators = units @ jax.lax.stop_gradient(noise)
    operator = 2 * jnp.einsum("aij,bij->ab", units, anticommutators)
    # Both sides are positive semidefinite: at −1 the dropped directions mix with no others.
    both_present = present[:, None] & present[None, :]
    ratios, vectors = eigh(jnp.where(both_present, operator, -jnp.diag((~present).astype(operator.dtype))))
    # Rayleigh quotients at fixed eigenvectors have the right derivatives and need none of the eigenvectors'.
    modes = jnp.einsum("ab,aij->bij", jax.lax.stop_gradient(vectors), units)
    squares = modes @ modes
    norm = jnp.einsum("bij,ij->b", squares, weight)
    dropped = ratios < -0.5
    rates = jnp.einsum("bij,ij->b", squares, noise) / jnp.where(dropped, 1, norm)
    rates = jnp.sort(jnp.where(dropped, jnp.inf, rates))
    return jnp.where(jnp.isfinite(values[-1]), rates, jnp.nan)  # what is not a number is not empty
