"""Where SGD ends, without simulating it: down to a minimum of the loss, then along its orbit to the equilibrium."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from .._flow import as_law
from .._noise import measured_moments
from .._numbers import jit, require
from .._parameters import flatten
from .._problem import Problem
from .._symmetry import AbstractSymmetry, scaling
from ._find import find_equilibrium
from ._raise import or_raise_slope
from ._status import Status

# The most parameters for which the descent keeps an inverse Hessian (128 MiB in double precision), and Tr∇²L is summed
# over every direction.
DENSE = 4096
MEMORY = 20  # steps that the descent remembers beyond that
# Random signs are drawn until the standard error of Tr∇²L is this share of it, or `DENSE` have been.
SHARPNESS_ERROR = 0.01
LEAST_SIGNS = 32  # by which a standard error is known to 13 %


class Prediction(eqx.Module):
    """Where SGD is predicted to settle.

    Attributes:
        params: the noise equilibrium on the orbit of the minimum.
        charges: Q there; a tuple for a sequence of symmetries.
        sharpness: Tr∇²L there, of the data loss without decay.
        sharpness_error: its standard error; 0 where it was summed over every direction.
        distance: ‖θ − θ_given‖ from the given parameters.
        minimum: the parameters of the minimum before the noise moved them.
        slope: ‖∇L‖ at the minimum, relative to the root mean square ‖∇ℓ‖ of single samples: how well it was found.
        status: an int32 code of `Status`: that of the equilibrium, or NOT_CONVERGED if the minimum was not found.
    """

    params: PyTree
    charges: Any
    sharpness: Float[Array, ""]
    sharpness_error: Float[Array, ""]
    distance: Float[Array, ""]
    minimum: PyTree
    slope: Float[Array, ""]
    status: Int[Array, ""]


def predict(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | Sequence[AbstractSymmetry],
    law: Any,
    *,
    steps: int = 2000,
    tolerance: float = 1e-3,
    throw: bool = False,
) -> Prediction:
    """The end point of SGD from these parameters: the noise equilibrium of the minimum that lies downhill.

    The data loss is minimised by BFGS (`optimistix.BFGS`, and `LBFGS` beyond P = 4096), a descent method that follows
    the valley of the start, and the minimum is carried along its orbit by `find_equilibrium`. Weight decay acts on the
    orbit alone: under L_γ a loss that depends on directions only would have its minimum at θ = 0. Its effect on the
    loss directions, of order γ, is left out, as is the O(η) spread of SGD around the minimum.

    Args:
        problem: a finite problem.
        params: where SGD starts; any pytree of P numbers.
        symmetry: a symmetry of the loss, or a sequence of them.
        law: σ² = η/(2S) > 0 or dynamics: best the `SGD` itself, whose exact discrete law is then used.
        steps: the most steps down.
        tolerance: the relative slope up to which the place counts as a minimum. The descent goes on to about ε^0.6
            where the loss is smooth; the kinks of ReLU networks on few samples may stop it before.
        throw: whether a minimum or an equilibrium that was not found is an error, as in `find_equilibrium`.

    Returns:
        A `Prediction`.

    Raises:
        ValueError: what `find_equilibrium` refuses; steps < 1; a tolerance ≤ 0.
        RuntimeError: with `throw`, if the minimum or the equilibrium was not found.

    Assumed: SGD at this learning rate stays in the valley of its start. In a network with several minima, or with many
    minima beyond the orbit, SGD may drift to another one.

    Cost: up to P = 4096 the descent holds P² numbers, and the sharpness is a sum over all directions, P Hessian–vector
    products. Beyond, the descent holds 40 vectors of P numbers, and the sharpness is a mean over random signs
    (Hutchinson, with a fixed key): as many, from 32 to 4096, as bring its standard error to 1 %.
    """
    if not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(f"steps is {steps}; expected an integer of at least 1.")
    require(lambda value: value > 0, tolerance, f"tolerance is {tolerance}; expected a number > 0.")
    problem.require_finite("predict")
    law = as_law(law)
    minimum, slope = _descend(problem, params, int(steps))
    if throw:
        minimum = or_raise_slope(minimum, slope, tolerance)
    there = find_equilibrium(problem, minimum, symmetry, law, throw=throw)
    several = not isinstance(symmetry, AbstractSymmetry)
    charges = tuple(one.charge(there.params) for one in symmetry) if several else symmetry.charge(there.params)
    sharpness, sharpness_error = hessian_trace(problem, there.params)
    return Prediction(
        params=there.params,
        charges=charges,
        sharpness=sharpness,
        sharpness_error=sharpness_error,
        distance=jnp.linalg.norm(flatten(there.params)[0] - flatten(params)[0]),
        minimum=minimum,
        slope=slope,
        status=jnp.where(slope <= tolerance, there.status, Status.NOT_CONVERGED).astype(jnp.int32),
    )


@jit
def _descend(problem: Problem, params: PyTree, steps: int) -> tuple[PyTree, Array]:
    theta, unflatten = flatten(params)
    accuracy = float(jnp.finfo(theta.dtype).eps) ** 0.6
    if len(theta) <= DENSE:
        method = optx.BFGS(rtol=accuracy, atol=accuracy)
    else:
        method = optx.LBFGS(rtol=accuracy, atol=accuracy, history_length=MEMORY)
    found = optx.minimise(
        lambda theta, _: data_loss(problem, unflatten(theta)),
        method,
        theta,
        max_steps=steps,
        # How far the descent got is judged by the slope below, which is the same for both methods, not by the solver.
        throw=False,
    ).value
    # A line search may run into overflow; the start is then a better answer than NaN.
    minimum = unflatten(jnp.where(jnp.all(jnp.isfinite(found)), found, theta))
    (moments,), _ = measured_moments(problem, minimum, (scaling().bind(minimum),))  # ‖∇L‖² and Tr Σ
    mean, whole = moments.mean_plus, moments.mean_plus + moments.noise_plus
    return minimum, jnp.sqrt(jnp.where(whole > 0, mean / jnp.where(whole > 0, whole, 1), 0))


def data_loss(problem: Problem, params: PyTree) -> Float[Array, ""]:
    """L without weight decay."""
    return jnp.mean(jax.vmap(problem.sample_loss, in_axes=(None, 0))(params, problem.data))


@jit
def hessian_trace(problem: Problem, params: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Tr∇²L of the data loss and its standard error: exact up to `DENSE` parameters, by random signs beyond."""
    theta, unflatten = flatten(params)
    gradient = jax.grad(lambda theta: data_loss(problem, unflatten(theta)))

    def curvature(direction: Array) -> Float[Array, ""]:
        return jnp.vdot(direction, jax.jvp(gradient, (theta,), (direction,))[1])

    size = len(theta)
    if size <= DENSE:
        # One direction after the other: a batch of them would hold the activations of as many passes over the data.
        every = jax.lax.map(lambda place: curvature(jnp.zeros_like(theta).at[place].set(1)), jnp.arange(size))
        return jnp.sum(every), jnp.zeros((), theta.dtype)

    def error(count: Array, spread: Array) -> Float[Array, ""]:
        return jnp.sqrt(spread / (count * (count - 1)).astype(spread.dtype))

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        count, mean, spread = state
        # Spelled so that a NaN counts as unsure.
        unsure = ~(error(count, spread) <= SHARPNESS_ERROR * jnp.abs(mean))
        return (count < LEAST_SIGNS) | (unsure & (count < DENSE))

    def draw(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """One sample more in the mean and the sum of squared deviations (Welford)."""
        count, mean, spread = state
        # Of all independent entries with E vvᵀ = I signs give the least variance of vᵀHv (Hutchinson): it has no part
        # from the diagonal of H. The key is fixed, so that a prediction can be repeated.
        signs = jax.random.rademacher(jax.random.fold_in(jax.random.key(0), count), (size,), theta.dtype)
        deviation = curvature(signs) - mean
        moved = mean + deviation / (count + 1).astype(mean.dtype)
        return count + 1, moved, spread + deviation * (mean + deviation - moved)

    nothing = jnp.zeros((), theta.dtype)
    count, mean, spread = jax.lax.while_loop(goes_on, draw, (jnp.asarray(0), nothing, nothing))
    return mean, error(count, spread)
