"""How fast charges relax to the noise equilibrium: Section 4.2; t_equi = 1/κ."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._noise import AbstractMoments, Measurement, measured, or_measurement
from .._numbers import cast, jit
from .._problem import Problem
from .._symmetry import AbstractSymmetry
from ._charge_law import ChargeLaw
from ._law import AbstractLaw, as_law

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
    group = measurement.symmetry

    def rates(moments: AbstractMoments, coefficients: ChargeLaw) -> Array:
        return _rates(coefficients, group.ratios(*_both_sides(moments, coefficients), WHOLE_SPECTRUM))

    return group.in_own_precision(rates, *law.acting(measurement))


@jit
def _relaxation_modes(measurement: Measurement, law: AbstractLaw) -> RelaxationModes:
    group = measurement.symmetry

    def modes(moments: AbstractMoments, coefficients: ChargeLaw) -> RelaxationModes:
        found = group.extreme_ratios(*_both_sides(moments, coefficients))
        rates = _rates(coefficients, found.ratios)
        first, last = found.directions
        return RelaxationModes(rates[..., 0], rates[..., 1], first, last, found.active)

    return group.in_own_precision(modes, *law.acting(measurement))


def _both_sides(moments: AbstractMoments, coefficients: ChargeLaw) -> tuple[Array, Array]:
    """M = M₊ + M₋, with the law's share of the mean gradient, and N = Q₊ + Q₋; legs count with their power squared."""
    weight, gradient = coefficients.weights(moments, 2), coefficients.gradients(moments, 2)
    return gradient[0] + gradient[1], weight[0] + weight[1]


def _rates(law: ChargeLaw, ratios: Array) -> Array:
    rates = 4 * cast(law.decay, ratios) + 2 * cast(law.scale, ratios) * ratios
    return jnp.where(jnp.isinf(ratios), jnp.inf, rates)  # also at a noise scale of 0
