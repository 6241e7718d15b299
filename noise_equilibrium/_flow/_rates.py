"""Rates of the Noether charges: the continuous flow of Eq. (7) and the exact expected step of Appendix D."""

from typing import Any

from jaxtyping import Array, PyTree

from .._noise import Measurement, measured, or_measurement
from .._numbers import cast, jit
from .._problem import Problem
from .._symmetry import AbstractSymmetry
from ._law import AbstractLaw, as_law


@or_measurement
def noether_flow(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, noise_scale: Any) -> Array:
    """dQ/dt = −4γ Q + 2σ² (M₊ − M₋): the Noether flow, Eq. (7); for one charge dC/dt = −4γC + 2σ² Tr[ΣA].

    Path by path under the SDE, not only on average: the noise has no component along the charge. Time is η × steps.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: the parameters, any pytree.
        symmetry: whose charge moves.
        noise_scale: σ² = η/(2S) > 0; a number, or any law (an `SGD` object gives E[ΔQ]/η, Appendix D).

    Returns:
        The rate, of the charge's shape.

    Raises:
        ValueError: on a Stream; if σ² ≤ 0; if the loss is not a real scalar; if a leg does not fit params.

    Not checked: that the loss has the symmetry, see Definition 4.1.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: p["u"] * p["w"] * z, jnp.array([1.0, -1.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(3.0)}
        >>> float(ne.noether_flow(problem, params, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), 0.5))  # 2σ²(9 − 4)
        5.0
    """
    law = as_law(noise_scale)
    measurement = measured(problem, params, symmetry, "noether_flow", matrix=False)
    law.charge_law(measurement.source)  # raises for bad numbers, which cannot be seen once they are traced
    return _flow(measurement, law)


@or_measurement
def expected_charge_step(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, dynamics: AbstractLaw) -> Array:
    """E[Q(θ') − Q(θ)] of one step of SGD or GD, exactly: Appendix D, Eqs. (93)–(100).

        G_d = −4ηγ(1 − ηγ) Q + η² (M₊_S − M₋_S + M̄₊ − M̄₋),

    with M_S = M/S, times (N−S)/(N−1) without replacement, and M̄ the Grams of the mean gradient. For `Momentum` it is
    the change of the charge of parameters and momentum, for `Preconditioned` that of Q₊/d₊ − Q₋/d₋; their pages say
    what of it is exact.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: the parameters, any pytree.
        symmetry: whose charge moves.
        dynamics: an `SGD`, `GD`, `SVAG`, `Momentum` or `Preconditioned` object with a learning rate that is a number.

    Returns:
        The expected change per step, of the charge's shape.

    Raises:
        ValueError: on a Stream; for dynamics without a discrete law; for a batch that does not fit the data.

    Not checked: that the loss has the symmetry.
    """
    if not isinstance(dynamics, AbstractLaw) or not dynamics.is_discrete:
        raise ValueError(f"dynamics is {dynamics!r}; expected an SGD or GD object, which have steps of their own.")
    measurement = measured(problem, params, symmetry, "expected_charge_step", matrix=False)
    flow = noether_flow(measurement, dynamics)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return cast(dynamics.time_step, flow) * flow  # pyright: ignore[reportAttributeAccessIssue]


@jit
def _flow(measurement: Measurement, law: AbstractLaw) -> Array:
    moments, coefficients = law.acting(measurement)
    return measurement.symmetry.in_own_precision(lambda moments, law: law.flow(moments), moments, coefficients)
