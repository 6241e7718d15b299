"""The two times of Section 4.2: how fast the loss settles, and how fast the noise equilibrates."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._group import AbstractGroup
from .._linalg import eigh
from .._noise import measured, or_measurement
from .._numbers import jit
from .._parameters import flatten, split, widest_dtype
from .._problem import Problem
from .._symmetry import AbstractSymmetry
from ._across import across_orbit
from ._lanczos import smallest_nonzero
from ._relaxation import relaxation_modes

# The most parameters for which "auto" builds the Hessian. Its eigenvalues take P³: a second or two here, a minute at
# twice as many; a few hundred products, which the other method mostly gets along with, are cheaper from here on.
DENSE = 2048
ROWS = 32  # of the Hessian at once: each holds the activations of a backward pass over all samples

METHODS = ("auto", "dense", "matrix-free")


class TimeScales(eqx.Module):
    """Times in units of η × steps; divide by η for steps.

    Attributes:
        erm: t_erm = 1/h, h the least curvature of the risk across the orbit.
        equi: t_equi = 1/κ, κ the least relaxation rate of the charge.
        erm_error: how far `erm` may be from the inverse of a curvature; 0 where the whole Hessian was computed, +inf
            where the search stopped before it knew one to within its own size.
    """

    erm: Float[Array, ""]
    equi: Float[Array, ""]
    erm_error: Float[Array, ""]


@or_measurement
def time_scales(
    problem: Problem, params: PyTree, symmetry: AbstractSymmetry, law: Any, *, method: str = "auto"
) -> TimeScales:
    """t_erm and t_equi at a minimum: the noise equilibrates slowly if t_equi ≫ t_erm, and fast if t_equi ≪ t_erm.

    t_erm does not depend on the noise; t_equi is S/η² in steps. h is the least eigenvalue of the Hessian of L_γ on the
    complement of the orbit (for a matrix symmetry that of all invertible matrices), apart from those that are zero:
    below 1e-6 of the largest in double, 1e-3 in single precision.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: a minimum of the risk, for t_equi also at the noise equilibrium; any pytree of P numbers.
        symmetry: whose charge relaxes.
        law: σ² = η/(2S) > 0 or dynamics.
        method: "dense" for all eigenvalues of the P × P Hessian; "matrix-free" for the least one, by Lanczos' method on
            Hessian–vector products; "auto" takes the first for P ≤ 2048.

    Returns:
        `TimeScales`. First derivatives are right at a minimum where the least curvature and the least rate are simple.

    Raises:
        ValueError: what `relaxation_rates` refuses; for an unknown method; for a dense Hessian that would not fit.

    Cost: dense, P gradients and P³. Matrix-free, a few hundred Hessian–vector products where the least curvature is a
    thousandth of the largest, more as the root of that ratio, and 4096 at most, after which `erm_error` says how good
    the answer is; in memory, up to 96 vectors of P numbers, at least 16, and a GiB in between. Eigenvalues that come
    close to each other, and then to zero without a gap, are the hard case; there t_erm means little.

    Not checked: that params is a minimum. Assumed by the matrix-free method: a random vector is not orthogonal to the
    direction of the least curvature.

    Example: for a two-layer linear network with Σ_x = I the non-zero eigenvalues of the Hessian at a minimum are
        2(a_i + b_j), a and b the spectra of UUᵀ and WᵀW (theory, "Time scales").
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}.")
    given = params if isinstance(problem, Problem) else measured(problem, None, None, "time_scales").params
    arrays, _ = split(given)
    size, dtype = sum(array.size for array in arrays), widest_dtype(arrays)
    dense = method == "dense" or (method == "auto" and size <= DENSE)
    if dense:
        what = f"time_scales with method='dense' builds the Hessian of P = {size} parameters, which"
        require_room(what, size**2, dtype, "Use method='matrix-free'.")
    measurement = measured(problem, params, symmetry, "time_scales")
    whole = measurement.require_problem("time_scales")
    slowest = relaxation_modes(measurement, law).slowest  # pyright: ignore[reportCallIssue, reportArgumentType]
    curvature, residual = _least_curvature(whole, measurement.params, measurement.symmetry, dense)
    # Some eigenvalue lies within the residual of the value: below that size h is not told from 0.
    certain = residual < curvature
    error = residual / (curvature * jnp.where(certain, curvature - residual, 1))  # 1/(h − r) − 1/h
    return TimeScales(erm=1 / curvature, equi=1 / jnp.min(slowest), erm_error=jnp.where(certain, error, jnp.inf))


@jit
def _least_curvature(problem: Problem, params: PyTree, symmetry: AbstractGroup, dense: bool) -> tuple[Array, Array]:
    """h, and how far from it the nearest curvature may be."""
    theta, _ = flatten(params)
    threshold = 1e-6 if theta.dtype == jnp.float64 else 1e-3
    with jax.default_matmul_precision("highest"):
        curve = _curvature(problem, params, symmetry)
        if not dense:
            # A fixed key, so that the answer is a function of the arguments.
            seed = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
            found = smallest_nonzero(curve, seed, threshold)
            return found.value, found.residual
        places = jnp.arange(len(theta))
        rows = jax.lax.map(
            lambda place: curve(jnp.zeros_like(theta).at[place].set(1)), places, batch_size=min(ROWS, len(theta))
        )
        curvatures = eigh(rows)[0]
    least = jnp.min(jnp.where(curvatures > threshold * curvatures[-1], curvatures, jnp.inf))
    return least, jnp.zeros_like(least)


def _curvature(problem: Problem, params: PyTree, symmetry: AbstractGroup) -> Callable[[Array], Array]:
    """The map of v to P∇²L_γ P v, P the projector on the complement of the orbit."""
    theta, unflatten = flatten(params)
    gradient = jax.grad(lambda theta: problem.risk(unflatten(theta)))
    # Projected on both sides: symmetric, and with eigenvalue 0 along the orbit, which the threshold then drops.
    project = across_orbit(symmetry, params)
    return lambda vector: project(jax.jvp(gradient, (theta,), (project(vector),))[1])
