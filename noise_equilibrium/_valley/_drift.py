"""`valley_drift` and `valley_motion`: how SGD moves along the minima of a loss."""

from typing import Any

from jaxtyping import PRNGKeyArray, PyTree

from .._budget import require_room
from .._flow import require_plain
from .._keys import as_key
from .._parameters import flatten, split, widest_dtype
from .._problem import Problem
from ._dense import dense_motion
from ._law import as_valley_law
from ._motion import ValleyMotion, flat_share, require_minimum, warn_along
from ._sampled import sampled_motion

# The most parameters for which the Hessian is built unless another method is asked for, as in `time_scales`.
DENSE = 2048
METHODS = ("dense", "sampled")


def valley_drift(
    problem: Problem,
    params: PyTree,
    dynamics: Any,
    *,
    method: str | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree:
    """v(θ) = −σ² P_T ∇Tr[∇²L Cov] − 2γ P_Tθ: the velocity of SGD along the minima of the loss.

    P_T projects on the valley, the null space of H = ∇²L, and Cov, held fixed under ∇, is the spread across it:
    H Cov + Cov H = Σ. To first order in σ², and with the loss at rest, SGD then moves along the minima by v, path by
    path if the noise is all across the valley. For every one-parameter group e^{ρA} that leaves the loss alone, A
    symmetric or not, ⟨Aθ, v⟩ = 2σ² Tr[A Cov H] − 2γ θᵀAθ. For symmetric A that is half the Noether flow, Eq. (7):
    σ² Tr[AΣ] − 2γC; for an antisymmetric A it is 0 wherever H and Σ commute.

    Args:
        problem: a finite problem.
        params: a minimum of the data loss L; any pytree of P numbers.
        dynamics: SGD or an SDE, for their σ² = η/(2S), times (N − S)/(N − 1) for batches without replacement; a noise
            scale σ² ≥ 0; GD or gradient flow, of which decay alone is left.
        method: "dense" for the eigenvectors of the P × P Hessian; "sampled" for Hessian–vector products alone, with an
            error that `valley_motion` tells; None for the first up to P = 2048.
        key: a JAX PRNG key for the sampled method; one and the same if it is not given.

    Returns:
        v, a pytree like params, per unit of time η × steps. Where the noise has a part along the valley it is the drift
        of Itô's equation, and SGD diffuses along the valley too: see `valley_motion`. A curvature below 1e-6 of the
        largest (1e-4 in single precision) is none. The dense v has first derivatives in params, data, γ and the law,
        forward and backward, at repeated eigenvalues too; assumed then: the rank of H does not change. The sampled one
        has none backward.

    Raises:
        ValueError: on a population; for a bad law, shuffled epochs, an unknown method or more parameters than a matrix
            has room for; outside of `jit`, for a point that is no minimum: ‖∇L‖ above 1e-3 of the largest curvature
            times ‖θ‖, or a saddle. Inside nothing is raised, and what the equation gives there is returned, with
            directions of negative curvature left out.

    Warns:
        UserWarning: outside of `jit`, if more than 1e-6 of the noise (1e-4 in single precision) is along the valley.

    Cost: dense, 4P gradients and P³. Sampled, see `valley_motion`.

    Source: theory, "The drift along the valley"; Katzenberger (1991); Li, Wang, Arora (2022), arXiv 2110.06914.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, y: (p["u"] * p["w"] - y) ** 2, jnp.array([0.0, 2.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(0.5)}  # u w = E y, Σ = 4 Var(y) (w, u)(w, u)ᵀ
        >>> v = ne.valley_drift(problem, params, 0.25)  # σ² 4 Var(y) (w² − u²)/(u² + w²) · (u, −w)
        >>> {name: round(float(value), 6) for name, value in v.items()}
        {'u': -1.764706, 'w': 0.441176}
    """
    motion = _motion(problem, params, dynamics, method, key, "valley_drift")
    warn_along(motion.share, flat_share(widest_dtype(split(params)[0])), "the velocity")
    return motion.velocity


def valley_motion(
    problem: Problem,
    params: PyTree,
    dynamics: Any,
    *,
    method: str | None = None,
    key: PRNGKeyArray | None = None,
) -> ValleyMotion:
    """The drift along the valley, as `valley_drift`, with all that is known of it.

    Args:
        problem: a finite problem.
        params: a minimum of the data loss L; any pytree of P numbers.
        dynamics: as in `valley_drift`.
        method: likewise.
        key: likewise.

    Returns:
        A `ValleyMotion`: velocity, diffusion along the valley, the error of sampling, and how far params are from a
        minimum.

    Raises:
        ValueError: as `valley_drift`.

    Sampled: draws x of the linearised process dx = −Hx dt + √Σ dW in its stationary state, by Lanczos' method on one
    draw of the noise each, with no time step, and the mean of −σ²∇(xᵀ∇²L x), projected by conjugate gradients. It ends
    when the standard error is 5 % of the velocity, or after 1024 draws. A draw costs about a hundred Hessian–vector
    products. The error grows beyond the standard one where curvatures spread over more than about a thousand.

    Source: theory, "The drift along the valley".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p[0] - z) ** 2, jnp.array([-1.0, 1.0]))  # p[1] does not matter
        >>> motion = ne.valley_motion(problem, jnp.array([0.0, 3.0]), 0.1)
        >>> motion.velocity.tolist(), float(motion.diffusion)
        ([0.0, 0.0], 0.0)
    """
    return _motion(problem, params, dynamics, method, key, "valley_motion")


def _motion(problem: Problem, params: PyTree, dynamics: Any, method: Any, key: Any, what: str) -> ValleyMotion:
    if method not in (None, *METHODS):
        raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}, or None.")
    problem.require_finite(what)
    law = require_plain(as_valley_law(dynamics, what), problem, what)
    arrays, _ = split(params)
    size, dtype = sum(array.size for array in arrays), widest_dtype(arrays)
    if method == "dense" or (method is None and size <= DENSE):
        message = f"{what} with method='dense' builds the Hessian of P = {size} parameters, which"
        require_room(message, size**2, dtype, "Use method='sampled'.")
        motion = dense_motion(problem, params, law)
    else:
        motion = sampled_motion(problem, params, law, None if key is None else as_key(key, what))
    require_minimum(motion.slope, motion.least, flat_share(dtype), what)
    _, unflatten = flatten(params)
    return ValleyMotion(unflatten(motion.velocity), *motion[1:])
