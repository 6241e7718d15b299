"""The SDE of SGD as terms of diffrax, for its solvers and its Brownian paths."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, PyTree

from .._noise import noise_trace
from .._numbers import cast
from .._parameters import is_parameter, split, widest_dtype
from .._problem import Problem, weighted_gradient
from ._sde import SDE


def sde_terms(
    problem: Problem, sde: SDE, params: PyTree, path: diffrax.AbstractPath, *, stratonovich: bool = False
) -> diffrax.MultiTerm:
    """The same SDE, Eq. (1), for `diffrax.diffeqsolve`: a drift, and a diffusion driven by N Brownian motions.

        dθ = −∇L_γ(θ) dt + √(2σ²) N^{-1/2} Σ_i (dW_i − mean dW) ∇ℓ(θ, z_i)        (Itô),

    whose noise has covariance 2σ²Σ dt. `diffrax.Euler` with steps of `sde.dt` is what `simulate` does. The diffusion is
    a linear operator that is never formed: its product with an increment of the path is one backward pass.

    The noise does not commute, so solvers of strong order 1 and more (Milstein) do not apply. A solver that converges
    to the Stratonovich solution (`diffrax.EulerHeun`, `diffrax.Heun`, …) needs `stratonovich=True`: the drift is then
    −∇L_γ − (σ²/2) ∇Tr Σ(θ), which makes its solution that of the Itô equation.

    Args:
        problem: a finite problem of N samples.
        sde: gives σ² = η/(2S); its dt is that of the solver, `dt0`.
        params: where to start, and `y0` of the solver; where not every leaf is a floating-point array, `y0` is
            `eqx.filter(params, eqx.is_inexact_array)`.
        path: the control, N Brownian motions: `diffrax.VirtualBrownianTree(..., shape=(N,))` or
            `diffrax.UnsafeBrownianPath(shape=(N,), ...)`, in the dtype of the parameters.
        stratonovich: whether the solver converges to the Stratonovich solution.

    Returns:
        `MultiTerm(ODETerm, ControlTerm)`.

    Raises:
        ValueError: on a Stream; for dynamics that are no SDE, or whose learning rate is a schedule.

    Source: theory, "Exact noise without forming Σ". The correction ½ Σ_k (∂b_k) b_k with b_k = √(2σ²/N) (g_k − ḡ) is
    σ² (E[H_z g_z] − H̄ ḡ) = (σ²/2) ∇Tr Σ, H_z the Hessian of the loss of sample z.
    """
    if not isinstance(sde, SDE):
        raise ValueError(f"sde is {sde!r}; expected an SDE object.")
    sde.check(problem)
    noise_scale, count = sde.noise_scale, problem.num_samples
    arrays, _ = split(params)
    dtype = widest_dtype(arrays)
    rest = eqx.filter(params, is_parameter, inverse=True)

    def gradient(y: PyTree, weights: Float[Array, " N"]) -> PyTree:
        gradients = weighted_gradient(problem, eqx.combine(y, rest), problem.data, weights)
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(y), gradients)

    def drift(t: Any, y: PyTree, args: Any) -> PyTree:
        slope = gradient(y, jnp.full((count,), 1 / count, dtype))
        if stratonovich:
            bend = jax.grad(lambda y: noise_trace(problem, eqx.combine(y, rest)))(y)
            slope = jax.tree_util.tree_map(lambda g, b: g + cast(noise_scale, b) / 2 * b, slope, bend)
        return jax.tree_util.tree_map(lambda g, array: -g - 2 * cast(problem.weight_decay, array) * array, slope, y)

    def diffusion(t: Any, y: PyTree, args: Any) -> lineax.FunctionLinearOperator:
        def product(increments: Float[Array, " N"]) -> PyTree:
            # Without their mean the increments weigh deviations from ḡ, as g_i − ḡ would; ḡ itself is never formed.
            centred = increments - jnp.mean(increments)
            return gradient(y, jnp.sqrt(2 * cast(noise_scale, centred) / count) * centred)

        return lineax.FunctionLinearOperator(product, jax.ShapeDtypeStruct((count,), dtype))

    return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
