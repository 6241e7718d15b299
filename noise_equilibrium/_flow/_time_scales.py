"""The two times of Section 4.2: how fast the loss settles, and how fast the noise equilibrates."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._numbers import jit
from .._parameters import flatten, split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, Bound, BoundSymmetry, bind
from ._relaxation import relaxation_rates


class TimeScales(eqx.Module):
    """Times in units of η × steps; divide by η for steps.

    Attributes:
        erm: t_erm = 1/h, h the least curvature of the risk across the orbit.
        equi: t_equi = 1/κ, κ the least relaxation rate of the charge.
    """

    erm: Float[Array, ""]
    equi: Float[Array, ""]


def time_scales(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, law: Any) -> TimeScales:
    """t_erm and t_equi at a minimum: the noise equilibrates slowly if t_equi ≫ t_erm, and fast if t_equi ≪ t_erm.

    t_erm does not depend on the noise; t_equi is S/η² in steps. h is the least eigenvalue of the Hessian of L_γ on the
    complement of the orbit (for a matrix symmetry that of all invertible matrices), apart from those that are zero:
    below 1e-6 of the largest in double, 1e-3 in single precision.

    Args:
        problem: a finite problem.
        params: a minimum of the risk, for t_equi also at the noise equilibrium; any pytree of P numbers.
        symmetry: whose charge relaxes.
        law: σ² = η/(2S) > 0 or dynamics.

    Raises:
        ValueError: what `relaxation_rates` refuses.

    Cost: the dense P × P Hessian and its eigenvalues.

    Not checked: that params is a minimum.

    Example: for a two-layer linear network with Σ_x = I the non-zero eigenvalues of the Hessian at a minimum are
        2(a_i + b_j), a and b the spectra of UUᵀ and WᵀW (theory, "Time scales").
    """
    rates = relaxation_rates(problem, params, symmetry, law)
    return TimeScales(erm=1 / _least_curvature(problem, params, bind(symmetry, params)), equi=1 / jnp.min(rates))


@jit
def _least_curvature(problem: Problem, params: PyTree, symmetry: Bound) -> Float[Array, ""]:
    theta, unflatten = flatten(params)
    hessian = jax.hessian(lambda theta: problem.risk(unflatten(theta)))(theta)
    with jax.default_matmul_precision("highest"):
        left, values, _ = jnp.linalg.svd(_orbit_directions(symmetry, params).T, full_matrices=False)
        along = jnp.where(values > 64 * len(theta) * jnp.finfo(theta.dtype).eps * values[0], left, 0)
        across = jnp.eye(len(theta), dtype=theta.dtype) - along @ along.T
        curvatures = jnp.linalg.eigvalsh(across @ hessian @ across)
    threshold = 1e-6 if theta.dtype == jnp.float64 else 1e-3
    return jnp.min(jnp.where(curvatures > threshold * curvatures[-1], curvatures, jnp.inf))


def _orbit_directions(symmetry: Bound, params: PyTree) -> Float[Array, "n P"]:
    """Aθ for a basis of the generators."""
    arrays, _ = split(params)
    if not isinstance(symmetry, BoundSymmetry):
        return symmetry.apply(flatten(params)[0])[None]
    inside = {leg.index for leg in symmetry.legs}
    size, blocks = symmetry.size, symmetry.blocks
    shape = {0: (1,), 1: (size,), 2: (size, size)}[symmetry.algebra.rank]
    units = jnp.eye(blocks * math.prod(shape)).reshape(-1, blocks, *shape)

    def direction(unit: Array) -> Float[Array, " P"]:
        unit = unit.reshape(symmetry.shape).astype(arrays[0].dtype)
        opposite = unit.mT if symmetry.algebra.rank == 2 else unit  # W → P⁻¹W with P not symmetric
        factors = {leg.power: leg.power * (unit if leg.power > 0 else opposite) for leg in symmetry.legs}
        moved = symmetry.transform(arrays, factors)
        return flatten([a if index in inside else jnp.zeros_like(a) for index, a in enumerate(moved)])[0]

    return jax.vmap(direction)(units)
