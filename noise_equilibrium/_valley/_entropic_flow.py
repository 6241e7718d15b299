"""The gradient flow of the entropic loss: what shuffled SGD does on average, to second order in the learning rate."""

from typing import Any

import jax
from jaxtyping import PyTree

from .._dynamics import AbstractDynamics, AbstractFlow, Field, as_rate
from .._flow import ChargeLaw, require_plain
from .._parameters import split
from .._problem import Problem
from ._entropic import entropic_value


class EntropicFlow(AbstractFlow):
    """dθ/dt = −∇F(θ), F the `entropic_loss` of other dynamics, by a Runge–Kutta method of order 8.

    Args:
        dt: the time step > 0, taken in two halves, as in `GradientFlow`. A step costs 26 gradients of F, each some
            three gradients of the loss.
        of: the dynamics, such as `SGD(η, S, replacement="epoch")`: their η and S enter F. No random numbers are drawn.

    Raises:
        ValueError: for dt ≤ 0; for other than dynamics; once the problem is known, on a Stream, and what
            `entropic_loss` refuses.

    Source: theory, "Entropic loss".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: z * w**2 / 2, jnp.array([0.5, 1.5]))
        >>> flow = ne.EntropicFlow(0.1, ne.SGD(0.1, 1, replacement="epoch"))  # F = ½(1 + (η/2)(1 + 1/4)) w²
        >>> run = ne.simulate(problem, flow, jnp.array(1.0), 2)
        >>> round(float(run.params), 6), round(float(jnp.exp(-0.2 * 1.0625)), 6)  # SGD: 0.95 · 0.85 = 0.8075
        (0.80856, 0.80856)
    """

    dt: Any
    of: AbstractDynamics

    def __init__(self, dt: Any, of: AbstractDynamics):
        self.dt = as_rate(dt, "dt")
        if not isinstance(of, AbstractDynamics):
            raise ValueError(
                f"of is {of!r}; expected dynamics whose entropic loss is followed, such as ne.SGD(0.1, 4)."
            )
        self.of = of

    def check(self, problem: Problem) -> None:
        """Raise a ValueError on a Stream, and for dynamics without an entropic loss."""
        super().check(problem)
        require_plain(self.of, problem, "EntropicFlow")

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """−2 dF/dλ: in continuous time the law of one step divided by η, to rounding at γ = 0."""
        law = self.of.charge_law(problem)
        decay = problem.weight_decay * (1 + 2 * law.scale * law.mean * problem.weight_decay)
        return ChargeLaw(decay=decay, scale=law.scale, noise=law.noise, mean=law.mean)

    def field(self, problem: Problem, params: PyTree) -> Field:
        """−∇F."""
        _, rebuild = split(params)
        slope = jax.grad(lambda arrays: entropic_value(problem, rebuild(arrays), self.of)[0])
        return lambda arrays: [-part for part in slope(arrays)]
