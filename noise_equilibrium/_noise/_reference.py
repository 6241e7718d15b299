"""The slow readable definitions: per-sample gradients in full, dense Σ, moments straight from their formulas."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._minibatch import Minibatches, Replacement
from .._numbers import cast, jit
from .._parameters import flatten, split
from .._problem import Problem
from .._symmetry import Symmetry
from ._finite import require_finite_gradients
from ._moments import Moments


def per_sample_gradients(problem: Problem, params: PyTree) -> list[Array]:
    """∇ℓ(θ, z_i) for every sample: one array of shape (N, *parameter) per parameter."""
    arrays, rebuild = split(params)
    gradient = jax.grad(lambda arrays, sample: problem.sample_loss(rebuild(arrays), sample))
    return list(jax.vmap(gradient, in_axes=(None, 0))(arrays, problem.data))


def gradient_covariance(
    problem: Problem, params: PyTree, *, batch_size: int = 1, replacement: Replacement = True
) -> Float[Array, "P P"]:
    """Σ(θ) = (1/N) Σ_i g_i g_iᵀ − ḡ ḡᵀ, the dense gradient-noise covariance of the data loss.

    The readable reference for everything that works without it: P × P numbers, and N × P for the gradients.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree of P numbers.
        batch_size: S; the covariance is that of a minibatch gradient, Σ/S.
        replacement: how the samples of a batch are chosen. True: independent draws. False: no sample twice in a batch,
            Σ/S × (N − S)/(N − 1). "epoch": the same, for a batch of a shuffled epoch taken by itself.

    Returns:
        The covariance; rows and columns in the order of `flatten`.

    Raises:
        ValueError: on a population; if the loss is not a real scalar, or not finite for some sample; for a batch that
            does not fit the data.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: jnp.dot(p, z), jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> ne.gradient_covariance(problem, jnp.zeros(2)).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    problem.require_finite("gradient_covariance")
    factor = Minibatches(batch_size, replacement).noise_ratio(problem.num_samples)
    covariance = _gradient_covariance(problem, params)
    require_finite_gradients(problem, params, covariance)
    return covariance if factor == 1 else cast(factor, covariance) * covariance


@jit
def _gradient_covariance(problem: Problem, params: PyTree) -> Float[Array, "P P"]:
    with jax.default_matmul_precision("highest"):
        gradients = jax.vmap(lambda arrays: flatten(arrays)[0])(per_sample_gradients(problem, params))
        centred = gradients - jnp.mean(gradients, axis=0)
        return centred.T @ centred / problem.num_samples


def reference_moments(problem: Problem, params: PyTree, symmetry: Symmetry) -> Moments:
    """`noise_moments` by its definition: one gradient per sample, one Gram per gradient."""
    bound = symmetry.bind(params)
    with jax.default_matmul_precision("highest"):
        gradients = per_sample_gradients(problem, params)
        mean = [jnp.mean(gradient, axis=0) for gradient in gradients]
        centred = [gradient - average for gradient, average in zip(gradients, mean, strict=True)]
        weights, means = bound.grams(split(params)[0]), bound.grams(mean)
        noises = {power: jnp.mean(gram, axis=0) for power, gram in jax.vmap(bound.grams)(centred).items()}
    powers = tuple(weights)
    return Moments(
        weight=tuple(bound.public(weights[power]) for power in powers),
        noise=tuple(bound.public(noises[power]) for power in powers),
        mean=tuple(bound.public(means[power]) for power in powers),
        powers=powers,
    )
