"""What the valley asks of dynamics: a noise scale, a decay, and that batches are independent of each other."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._dynamics import AbstractMinibatched
from .._flow import AbstractLaw, NoiseScale, as_law
from .._minibatch import EPOCH
from .._numbers import as_number, require, require_scalar


def as_valley_law(dynamics: Any, what: str) -> AbstractLaw:
    """The law of dynamics, or of a noise scale σ² ≥ 0.

    Raises:
        ValueError: for anything else, and for shuffled epochs, whose noise is not white.
    """
    if is_shuffled(dynamics):
        raise ValueError(
            f"{what} is about independent batches, and those of a shuffled epoch are not: their noise cancels over an "
            "epoch. With η → 0 the mean moves by −∇ of ne.entropic_loss(problem, params, dynamics), and rests on an "
            "orbit at ne.find_equilibrium. Give replacement=True or False."
        )
    number = as_number(dynamics)
    if isinstance(number, float) or (hasattr(number, "shape") and not isinstance(number, AbstractLaw)):
        require_scalar(number, "the noise scale")
        message = f"the noise scale is {number}; expected σ² = η/(2S) ≥ 0."
        require(lambda scale: (scale >= 0) & np.isfinite(scale), number, message)
        return NoiseScale(number)
    return as_law(dynamics)


def is_shuffled(dynamics: Any) -> bool:
    """Whether batches are those of shuffled epochs."""
    return isinstance(dynamics, AbstractMinibatched) and dynamics.replacement == EPOCH


def valley_scales(law: AbstractLaw, problem: Any, dtype: Any) -> tuple[Any, Any]:
    """σ² of a batch, and γ: to first order in η a discrete law is that of continuous time."""
    coefficients = law.charge_law(problem)
    scale = jnp.asarray(coefficients.scale, dtype) * jnp.asarray(coefficients.noise, dtype)
    return scale, jnp.asarray(problem.weight_decay, dtype)
