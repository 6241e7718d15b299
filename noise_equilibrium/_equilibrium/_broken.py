"""Where SGD rests on the orbit of a symmetry that is not exact: the least entropic loss there."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from .._flow import AbstractLaw, as_law, require_plain
from .._group import AbstractGroup
from .._noise import measured_moments
from .._numbers import cast, jit
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._symmetry import AbstractSymmetry, bind, scaling
from .._validate import integer
from ._predict import data_loss
from ._status import Status


class Rest(eqx.Module):
    """The point of an orbit with the least entropic loss.

    Attributes:
        params: that point; a pytree like the params it was found from.
        element: λ or log P, of the charge's shape: `params` is `act(start, element)`.
        slope: ‖dF/dλ‖ there, relative to that at the start; 0/0 is 0.
        status: an int32 code of `Status`: CONVERGED, NOT_CONVERGED, or NON_FINITE_INPUT.
    """

    params: PyTree
    element: Array
    slope: Float[Array, ""]
    status: Int[Array, ""]


def rest_on_orbit(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, law: Any, *, steps: int = 256) -> Rest:
    """The minimum over λ of the entropic loss F(e^{λA}θ), where the loss need not have the symmetry.

        F = L + γ'‖θ‖² + (s/2)(c Tr Σ + m ‖∇L‖²);    of SGD L + γ(1 − ηγ)‖θ‖² + (η/4)(Tr Σ_S + ‖∇L‖²),

    over all parameters, with the coefficients of the law. Its derivative along an orbit is the law of the charge
    exactly, decay included; `entropic_loss`, which describes the mean of SGD, has the decay inside of ‖∇L_γ‖² and
    differs from it by 2ηγ²‖θ‖² on an orbit. Under an exact symmetry it is the noise equilibrium, as
    −2dF/dλ is the Noether flow. The more the loss breaks the symmetry, the nearer it is to the minimum of L on the
    orbit: `pinning` tells where between the two. By BFGS from λ = 0.

    Args:
        problem: a finite problem.
        params: any point of the orbit, as a rule a minimum of the risk; any pytree.
        symmetry: the candidate, of any algebra.
        law: σ² = η/(2S) > 0 or dynamics; not `Preconditioned`.
        steps: the most steps of BFGS.

    Returns:
        A `Rest`.

    Raises:
        ValueError: on a Stream; for a bad law; if a leg does not fit params; for a matrix-free generator.

    Assumed: the other directions of the parameters stay. As they give way to the noise too, SGD goes further than this
    where the curvature mixes them with the orbit.

    Cost: an evaluation of Tr Σ and its gradient in each step; no more than that at any number of directions.

    Source: theory, "Pinning"; Smith et al., *On the Origin of Implicit Regularization in Stochastic Gradient Descent*
    (2021).

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(2.0), "w": jnp.array(0.5)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> rest = ne.rest_on_orbit(problem, start, symmetry, 0.01)
        >>> round(float(rest.params["u"]), 3), round(float(rest.params["w"]), 3)  # an exact symmetry: u² = w²
        (1.0, 1.0)
    """
    law = as_law(law)
    problem.require_finite("rest_on_orbit")
    require_plain(law, problem, "rest_on_orbit")
    group = bind(symmetry, params)
    group.require_spectrum("rest_on_orbit")
    return _rest(problem, params, group, law, integer(steps, "steps", 1))


@jit
def _rest(problem: Problem, params: PyTree, group: AbstractGroup, law: AbstractLaw, steps: int) -> Rest:
    arrays, rebuild = split(params)
    dtype = widest_dtype(arrays)
    accuracy = float(jnp.finfo(dtype).eps) ** 0.6

    def at(numbers: Array) -> PyTree:
        return rebuild(group.multiply(arrays, group.exponential(group.element_of(numbers))))

    start = jnp.zeros(group.dimension, dtype)
    whole = entropic(problem, params, law)
    # In units of what noise and decay add to the loss: the tolerances of the search are meant for numbers of order 1.
    unit = jnp.abs(whole - data_loss(problem, params))
    unit = jnp.where(unit > 0, unit, 1)

    def objective(numbers: Array, _: Any = None) -> Float[Array, ""]:
        return (entropic(problem, at(numbers), law) - whole) / unit

    found = optx.minimise(objective, optx.BFGS(rtol=accuracy, atol=accuracy), start, max_steps=steps, throw=False)
    numbers = jnp.where(jnp.all(jnp.isfinite(found.value)), found.value, start)
    before, after = (jnp.linalg.norm(jax.grad(objective)(place)) for place in (start, numbers))
    done = (found.result == optx.RESULTS.successful) & jnp.all(jnp.isfinite(found.value))
    status = jnp.where(jnp.isfinite(whole), jnp.where(done, Status.CONVERGED, Status.NOT_CONVERGED), -1)
    return Rest(
        params=at(numbers),
        element=group.public(group.element_of(numbers)),
        slope=jnp.where(before > 0, after / jnp.where(before > 0, before, 1), 0),
        status=jnp.where(status < 0, Status.NON_FINITE_INPUT, status).astype(jnp.int32),
    )


def entropic(problem: Problem, params: PyTree, law: AbstractLaw) -> Float[Array, ""]:
    """F = L + γ'‖θ‖² + (s/2)(c Tr Σ + m ‖∇L‖²), whose derivative along an orbit is −½ of the flow of the charge."""
    (moments,), _ = measured_moments(problem, params, (scaling().bind(params),))  # ‖θ‖², Tr Σ and ‖∇L‖²
    coefficients = law.charge_law(problem)
    loss = data_loss(problem, params)
    decay, scale, noise, mean = (
        cast(number, loss) for number in (coefficients.decay, coefficients.scale, coefficients.noise, coefficients.mean)
    )
    weight, trace, slope = (
        value.astype(loss.dtype) for value in (moments.weight_plus, moments.noise_plus, moments.mean_plus)
    )
    return loss + decay * weight + scale / 2 * (noise * trace + mean * slope)
