"""How fast charges relax to the noise equilibrium: Section 4.2; t_equi = 1/κ."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._noise import bound_moments
from .._numbers import cast, jit
from .._problem import Problem
from .._symmetry import AbstractSymmetry, Bound, BoundSymmetry, ExponentialSymmetry, bind
from ._law import AbstractLaw, as_law


def relaxation_rates(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, noise_scale: Any) -> Array:
    """κ = 4γ + 2σ² Tr[A²Σ]/(θᵀA²θ), the rates at which charges relax along the orbit; t_equi = 1/κ (Section 4.2).

    Scalar and diagonal charges have one rate each, −dG/dC at this point of the orbit. A matrix charge has the rates
    κ = 4γ + 2σ²ρ of the least-norm motion with the given dQ/dt, ρ the eigenvalues of B ↦ BM + MB against B ↦ BN + NB on
    symmetric matrices, M = M₊ + M₋, N = Q₊ + Q₋; they are the relaxation rates at the equilibrium.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree; for a matrix charge, at the noise equilibrium.
        symmetry: whose charge relaxes.
        noise_scale: σ² = η/(2S) > 0; a number or a law.

    Returns:
        Per unit of time η × steps: a scalar; (d,); for the symmetric algebra the d(d+1)/2 rates in ascending order, the
        first of them 4γ + 2σ² λ_min(M, N). With H blocks, H in front. Where the legs are empty there is nothing to
        relax: such directions (for a matrix B, those with BN + NB = 0) have rate +inf, and
        stand last. First derivatives are right where rates are distinct.

    Raises:
        ValueError: on a Stream; if σ² ≤ 0; if a leg does not fit params.

    Source: theory, "Time scales".
    """
    problem.require_finite("relaxation_rates")
    if isinstance(symmetry, ExponentialSymmetry):
        symmetry.require_matrix("relaxation_rates")
    law = as_law(noise_scale)
    law.charge_law(problem)  # raises for bad numbers, which cannot be seen once they are traced
    return _relaxation_rates(problem, params, bind(symmetry, params), law)


@jit
def _relaxation_rates(problem: Problem, params: PyTree, symmetry: Bound, law: AbstractLaw) -> Array:
    moments = bound_moments(problem, params, (symmetry,))[0]
    coefficients = law.charge_law(problem)

    def both(grams: Any) -> Array:
        return moments.total(grams, +1, exponent=2) + moments.total(grams, -1, exponent=2)

    weight = both(moments.weight)
    noise = cast(coefficients.noise, weight) * both(moments.noise) + cast(coefficients.mean, weight) * both(
        moments.mean
    )
    if isinstance(symmetry, BoundSymmetry) and symmetry.algebra.rank == 2:
        pencil = _pencil if symmetry.blocks == 1 else jax.vmap(_pencil)
        ratio = pencil(noise, weight)
    else:
        empty = weight == 0
        ratio = jnp.where(empty, jnp.inf, noise / jnp.where(empty, 1, weight))
    rates = 4 * cast(coefficients.decay, ratio) + 2 * cast(coefficients.scale, ratio) * ratio
    return jnp.where(jnp.isinf(ratio), jnp.inf, rates)  # also at a noise scale of 0


def _pencil(noise: Float[Array, "d d"], weight: Float[Array, "d d"]) -> Float[Array, " d(d+1)/2"]:
    """Ascending eigenvalues of {B, M} = ρ {B, N}, with the null space of B ↦ {B, N} dropped (its rates +inf)."""
    d = len(weight)
    values, basis = jnp.linalg.eigh(jax.lax.stop_gradient(weight))
    full = values > 8 * d * jnp.finfo(values.dtype).eps * values[-1]
    rows, columns = jnp.triu_indices(d)
    # In the eigenbasis of N, B_ij + B_ji is scaled by n_i + n_j; whiten by it, on an orthonormal basis of the B.
    units = jnp.zeros((len(rows), d, d), values.dtype).at[jnp.arange(len(rows)), rows, columns].set(1)
    units = (units + units.mT) * jnp.where(rows == columns, 0.5, jnp.sqrt(0.5)).astype(values.dtype)[:, None, None]
    present = full[rows] | full[columns]
    scale = jnp.where(present, jax.lax.rsqrt(jnp.where(present, values[rows] + values[columns], 1)), 0)
    units = basis @ (units * scale[:, None, None]) @ basis.T
    anticommutators = units @ jax.lax.stop_gradient(noise)
    operator = 2 * jnp.einsum("aij,bij->ab", units, anticommutators, precision=jax.lax.Precision.HIGHEST)
    # Both sides are positive semidefinite: at −1 the dropped directions mix with no others.
    both_present = present[:, None] & present[None, :]
    ratios, vectors = jnp.linalg.eigh(jnp.where(both_present, operator, -jnp.diag((~present).astype(operator.dtype))))
    # Rayleigh quotients at fixed eigenvectors have the right derivatives and need none of the eigenvectors'.
    modes = jnp.einsum("ab,aij->bij", jax.lax.stop_gradient(vectors), units)
    squares = modes @ modes
    norm = jnp.einsum("bij,ij->b", squares, weight)
    dropped = ratios < -0.5
    rates = jnp.einsum("bij,ij->b", squares, noise) / jnp.where(dropped, 1, norm)
    return jnp.sort(jnp.where(dropped, jnp.inf, rates))
