"""The slow readable definitions: per-sample gradients in full, dense Σ, moments straight from their formulas."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._minibatch import Minibatches, Replacement
from .._numbers import cast, jit
from .._parameters import flatten, split, widest_dtype
from .._per_sample import samples_in, sum_over_samples
from .._problem import Problem
from .._symmetry import Symmetry
from ._abstract import Moments
from ._finite import require_finite_gradients


def per_sample_gradients(problem: Problem, params: PyTree) -> list[Array]:
    """∇ℓ(θ, z_i) for every sample: one array of shape (N, *parameter) per parameter."""
    return _gradients(problem, params, problem.data)


def _gradients(problem: Problem, params: PyTree, samples: PyTree) -> list[Array]:
    arrays, rebuild = split(params)
    gradient = jax.grad(lambda arrays, sample: problem.sample_loss(rebuild(arrays), sample))
    return list(jax.vmap(gradient, in_axes=(None, 0))(arrays, samples))


def gradient_covariance(
    problem: Problem, params: PyTree, *, batch_size: int = 1, replacement: Replacement = True
) -> Float[Array, "P P"]:
    """Σ(θ) = (1/N) Σ_i g_i g_iᵀ − ḡ ḡᵀ, the dense gradient-noise covariance of the data loss.

    The readable reference for everything that works without it: P × P numbers, at most 2 GiB of them (P = 16,384 in
    double precision), and the gradients of the samples, a chunk at a time.

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
            does not fit the data; for more parameters than the matrix has room for.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: jnp.dot(p, z), jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> ne.gradient_covariance(problem, jnp.zeros(2)).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    problem.require_finite("gradient_covariance")
    factor = Minibatches(batch_size, replacement).noise_ratio(problem.num_samples)
    arrays, _ = split(params)
    size = sum(array.size for array in arrays)
    require_room(
        f"gradient_covariance of P = {size} parameters is P × P numbers, which",
        size**2,
        widest_dtype(arrays),
        "Use noise_trace for Tr Σ and Tr[ΣA], noise_moments for what acts on a symmetry, or sample_noise for draws.",
    )
    covariance = _gradient_covariance(problem, params)
    require_finite_gradients(problem, params, covariance)
    return covariance if factor == 1 else cast(factor, covariance) * covariance


@jit
def _gradient_covariance(problem: Problem, params: PyTree) -> Float[Array, "P P"]:
    with jax.default_matmul_precision("highest"):
        theta, count = flatten(params)[0], problem.num_samples
        most = samples_in(3 * theta.nbytes, count)

        def gradients(samples: PyTree) -> Float[Array, "n P"]:
            return jax.vmap(lambda arrays: flatten(arrays)[0])(_gradients(problem, params, samples))

        def outer(samples: PyTree) -> Float[Array, "P P"]:
            centred = gradients(samples) - mean
            return centred.T @ centred

        # Twice over the data, because a difference of uncentred sums would lose what small noise has left.
        mean = sum_over_samples(lambda samples: jnp.sum(gradients(samples), axis=0), problem.data, count, most) / count
        return sum_over_samples(outer, problem.data, count, most) / count


def reference_moments(problem: Problem, params: PyTree, symmetry: Symmetry) -> Moments:
    """`noise_moments` by its definition: one gradient per sample, one Gram per gradient."""
    bound = symmetry.bind(params)
    with jax.default_matmul_precision("highest"):
        gradients = per_sample_gradients(problem, params)
        mean = [jnp.mean(gradient, axis=0) for gradient in gradients]
        centred = [gradient - average for gradient, average in zip(gradients, mean, strict=True)]
        weights, means = bound.gram(split(params)[0]), bound.gram(mean)
        noises = {power: jnp.mean(gram, axis=0) for power, gram in jax.vmap(bound.gram)(centred).items()}
    powers = tuple(weights)
    return Moments(
        weight=tuple(bound.public(weights[power]) for power in powers),
        noise=tuple(bound.public(noises[power]) for power in powers),
        mean=tuple(bound.public(means[power]) for power in powers),
        powers=powers,
    )
