"""Gradient flow, the limit without noise, by a high-order method."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._flow import ChargeLaw
from .._numbers import cast
from .._parameters import split, widest_dtype
from .._problem import Problem, weighted_gradient
from ._dynamics import as_rate
from ._runge_kutta import AbstractFlow, Field


class GradientFlow(AbstractFlow):
    """dθ/dt = −∇L_γ(θ), by a Runge–Kutta method of order 8; without decay it conserves every charge.

    Args:
        dt: the time step > 0, taken in two halves; the error of a run falls some hundredfold when dt halves, down to
            rounding. A step costs 26 gradients, and is accurate up to about the largest dt at which gradient descent
            is stable: charges are then conserved to better than 1e-6.

    Raises:
        ValueError: for dt ≤ 0; on a Stream, once the problem is known.

    Source: Eq. (4) of the paper; the method is `diffrax.Dopri8`, Prince and Dormand (1981).
    """

    dt: Any

    def __init__(self, dt: Any):
        self.dt = as_rate(dt, "dt")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """dQ/dt = −4γQ: weight decay alone."""
        return ChargeLaw(decay=problem.weight_decay, scale=0.0, noise=0.0, mean=0.0)

    def field(self, problem: Problem, params: PyTree) -> Field:
        """−∇L_γ."""
        _, rebuild = split(params)

        def field(arrays: list[Array]) -> list[Array]:
            count = problem.num_samples
            weights = jnp.full((count,), 1 / count, widest_dtype(arrays))
            gradients = weighted_gradient(problem, rebuild(arrays), problem.data, weights)
            decay = [2 * cast(problem.weight_decay, array) * array for array in arrays]
            return [-gradient - shrink for gradient, shrink in zip(gradients, decay, strict=True)]

        return field
