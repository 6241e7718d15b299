"""The gradient noise scale: how large a batch may be before the gradient stops being noisy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._numbers import jit
from .._parameters import accumulation_dtype, is_parameter, split
from .._per_sample import LegGram, Silence, gradient_grams
from .._problem import Problem
from .._symmetry import BoundSymmetry, scaling
from ._finite import require_finite_gradients


class GradientNoise(eqx.Module):
    """Noise and signal of the gradient; see `gradient_noise_scale`.

    Attributes:
        trace: Tr Σ of each parameter, a pytree like params of scalars, None where a leaf is no parameter.
        squared_gradient: |∇L|² of each parameter, likewise; unbiased, so that it may come out negative.
    """

    trace: PyTree
    squared_gradient: PyTree

    @property
    def scale(self) -> Float[Array, ""]:
        """B = Σ Tr Σ / Σ |∇L|² over all parameters: the critical batch size, in samples.

        NaN where the estimate of |∇L|² is not positive: the batch is too small to tell the gradient from its noise.
        """
        noise, signal = (sum(jax.tree_util.tree_leaves(part)) for part in (self.trace, self.squared_gradient))
        noise, signal = jnp.asarray(noise), jnp.asarray(signal)
        return jnp.where(signal > 0, noise / jnp.where(signal > 0, signal, 1), jnp.nan)


def gradient_noise_scale(problem: Problem, params: PyTree) -> GradientNoise:
    """Tr Σ and |∇L|² of every parameter, unbiased, from one batch at about the price of one gradient.

    With N samples that are independent draws of a population,

        Tr Σ = N/(N−1) (mean|gᵢ|² − |ḡ|²),    |∇L|² = (N|ḡ|² − mean|gᵢ|²)/(N−1)

    have the population's Tr Σ and |∇L|² as expectations: the gradient of a batch alone is longer than ∇L by the noise
    in it. At batch sizes well below their ratio a step is mostly noise, and twice the batch is worth twice the steps;
    well above it a larger batch buys nothing.

    Args:
        problem: a finite problem of N ≥ 2 samples, taken for draws of a population; its weight decay plays no part.
        params: the parameters, any pytree.

    Returns:
        A `GradientNoise`; in the widest dtype of the parameters, at least float32. None stands for
        leaves of params that are no parameters. It may be made inside `jit`.

    Raises:
        ValueError: on a population; for a single sample; if the loss is not a real scalar, or not finite for some
            sample.

    Warns:
        UserWarning: if the loss does not depend on the sample.

    Not checked: that the samples are independent. For the exact Tr Σ of the data themselves see `noise_trace`.

    Source: McCandlish, Kaplan, Amodei et al. 2018, arXiv 1812.06162, Appendix A.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: w * z, jnp.array([1.0, 3.0]))  # gradients 1 and 3
        >>> noise = ne.gradient_noise_scale(problem, jnp.array(0.0))
        >>> float(noise.trace), float(noise.squared_gradient)  # 2 (5 − 4), 2·4 − 5
        (2.0, 3.0)
    """
    problem.require_finite("gradient_noise_scale")
    if problem.num_samples < 2:
        raise ValueError(
            "gradient_noise_scale got a single sample; expected at least 2: the noise is what makes samples differ."
        )
    found, silence = _noise_scale(problem, params)
    require_finite_gradients(problem, params, found)
    silence.warn(of_parameters=False)
    return found


@jit
def _noise_scale(problem: Problem, params: PyTree) -> tuple[GradientNoise, Silence]:
    arrays, rebuild = split(params)
    group = scaling().bind(params)
    assert isinstance(group, BoundSymmetry)
    dtype, count = accumulation_dtype(arrays), problem.num_samples
    wanted = [LegGram(leg, 0) for leg in group.legs]
    with jax.default_matmul_precision("highest"):
        squares, sums, silence = gradient_grams(problem, params, wanted, dtype)
    squares = {one.leg.index: jnp.sum(square) for one, square in zip(wanted, squares, strict=True)}
    trace: list[Any] = []
    squared_gradient: list[Any] = []
    for leaf, total in enumerate(sums):
        # |Σg|² is divided, not Σg, of which that would make a copy.
        mean = jnp.sum(total**2) / float(count) ** 2
        trace.append((squares[leaf] - mean) * (count / (count - 1)))
        squared_gradient.append((count * mean - squares[leaf]) / (count - 1))
    trace, squared_gradient = (eqx.filter(rebuild(part), is_parameter) for part in (trace, squared_gradient))
    return GradientNoise(trace, squared_gradient), silence
