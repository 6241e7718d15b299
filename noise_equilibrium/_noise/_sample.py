"""Exact samples of the gradient noise, by one backward pass of a randomly weighted loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._keys import as_key
from .._minibatch import Minibatches, Replacement
from .._numbers import cast, jit
from .._parameters import split, widest_dtype
from .._problem import Problem, weighted_gradient
from .._random import in_one_pass
from ._finite import require_finite_gradients


def noise_weights(key: PRNGKeyArray, n: int, dtype: jnp.dtype) -> Float[Array, " n"]:
    """Weights N^{-1/2}(ξ − mean ξ), ξ ~ N(0, I): Σ w_i g_i has covariance Σ.

    Source: theory, "Exact noise without forming Σ".
    """
    draws = in_one_pass(lambda key: jax.random.normal(key, (n,), dtype))(key)
    return (draws - jnp.mean(draws)) / jnp.sqrt(jnp.asarray(n, dtype))


def sample_noise(
    problem: Problem, params: PyTree, key: PRNGKeyArray, *, batch_size: int = 1, replacement: Replacement = True
) -> PyTree:
    """One Gaussian draw n with covariance exactly Σ(θ), without forming Σ: the gradient of a randomly weighted loss.

        n = N^{-1/2} Σ_i (ξ_i − mean ξ) ∇ℓ(θ, z_i),    ξ ~ N(0, I_N).

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        key: a JAX PRNG key (threefry).
        batch_size: S; the covariance is that of a minibatch gradient, Σ/S.
        replacement: how the samples of a batch are chosen. True: independent draws. False: no sample twice in a batch,
            Σ/S × (N − S)/(N − 1). "epoch": the same, for a batch of a shuffled epoch taken by itself.

    Returns:
        A pytree like params; leaves that are not parameters are left in place. N = 1 gives 0.

    Raises:
        ValueError: on a population; if the loss is not a real scalar, or not finite for some sample; for a batch that
            does not fit the data, or a missing or unsuitable key.

    Source: theory, "Exact noise without forming Σ".
    """
    problem.require_finite("sample_noise")
    factor = Minibatches(batch_size, replacement).noise_ratio(problem.num_samples)
    # An array, so that another batch size is no other program.
    noise = _sample_noise(problem, params, as_key(key, "sample_noise"), jnp.asarray(factor**0.5))
    require_finite_gradients(problem, params, split(noise)[0])
    return noise


@jit
def _sample_noise(problem: Problem, params: PyTree, key: PRNGKeyArray, factor: Array) -> PyTree:
    arrays, rebuild = split(params)
    weights = noise_weights(key, problem.num_samples, widest_dtype(arrays))
    weights = cast(factor, weights) * weights
    return rebuild(weighted_gradient(problem, params, problem.data, weights))
