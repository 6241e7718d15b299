"""The loss that SGD minimises one order further in the learning rate."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._flow import AbstractLaw, as_law, require_plain
from .._noise import moments_and_mean
from .._numbers import cast, jit
from .._parameters import split
from .._per_sample import Silence
from .._problem import Problem, penalised_loss
from .._symmetry import scaling


def entropic_loss(problem: Problem, params: PyTree, dynamics: Any) -> Float[Array, ""]:
    """F(θ) = L_γ + (η/4)(‖∇L_γ‖² + Tr Σ_S): its gradient flow follows the mean of SGD one order further in η.

    Σ_S is the covariance of a minibatch gradient: Σ/S, times (N − S)/(N − 1) without replacement. The bracket is then
    E‖ĝ + 2γθ‖², the mean square of what SGD subtracts. For shuffled epochs (`replacement="epoch"`, S a divisor of N)
    the mean of SGD after whole epochs is that of the flow to second order in η, where the flow of L_γ alone is right to
    first. For independent batches F does not describe the mean, but the rest on an orbit: for every symmetry −2 dF/dλ
    is the law of the charge, G_d/η, exactly at γ = 0 and to first order in γ with decay. So the noise equilibrium is
    the minimum of F on the orbit.

    Args:
        problem: a finite problem of N samples.
        params: the parameters, any pytree.
        dynamics: SGD, GD (Σ_S = 0) or SVAG; or an SDE or σ² > 0, continuous time, where the term ‖∇L_γ‖² is absent:
            F = L_γ + (σ²/2) Tr Σ.

    Returns:
        A scalar, at about the cost of one gradient; differentiable to any order in params, data, γ and η. A gradient
        costs about as much as one of ‖∇L‖².

    Raises:
        ValueError: on a population; for dynamics without a law of the charge, or with a schedule; for a batch that does
            not fit the data; if the loss is not a real scalar.

    Warns:
        UserWarning: if the loss does not depend on the sample.

    Source: theory, "Entropic loss"; Smith, Dherin, Barrett, De (2021), arXiv 2101.12176, for shuffled epochs.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
        >>> float(ne.entropic_loss(problem, jnp.array(1.0), ne.SGD(0.4, 1)))  # 1 + (η/4)(1 + 1)
        1.2
    """
    problem.require_finite("entropic_loss")
    law = require_plain(as_law(dynamics), problem, "entropic_loss")
    value, silence = _entropic_loss(problem, params, law)
    silence.warn(of_parameters=False)
    return value


@jit
def _entropic_loss(problem: Problem, params: PyTree, law: AbstractLaw) -> tuple[Float[Array, ""], Silence]:
    return entropic_value(problem, params, law)


def entropic_value(problem: Problem, params: PyTree, law: AbstractLaw) -> tuple[Float[Array, ""], Silence]:
    """F from one pass over the data, and what the loss does not depend on."""
    coefficients = law.charge_law(problem)
    (moments,), mean, silence = moments_and_mean(problem, params, (scaling().bind(params),), False, True)
    trace = moments.noise_plus
    decay = 2 * cast(problem.weight_decay, trace)
    slopes = [
        g.astype(trace.dtype) + decay * a.astype(trace.dtype) for g, a in zip(mean, split(params)[0], strict=True)
    ]
    square = jnp.sum(jnp.stack([jnp.sum(slope**2) for slope in slopes]))
    scale, noise, whole = (cast(c, trace) for c in (coefficients.scale, coefficients.noise, coefficients.mean))
    risk = penalised_loss(problem, params, problem.data)
    return risk + (scale / 2 * (noise * trace + whole * square)).astype(risk.dtype), silence
