"""The moments of the gradient noise along any generator A: in its eigenbasis, or through v ↦ Av alone.

Per-sample gradients are built in full here, a chunk at a time: A may mix all parameters.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._numbers import cast
from .._parameters import accumulation_dtype, flatten, split
from .._per_sample import samples_in, sum_over_samples
from .._problem import Problem
from .._symmetry import BoundExponential
from ._abstract import AbstractMoments


class SpectralMoments(AbstractMoments):
    """Weights and noise along the eigenvectors n_i of a generator A (theory, "Any spectrum").

    Attributes:
        weight: (n_iᵀθ)².
        noise: n_iᵀΣn_i.
        mean: (n_iᵀḡ)².
        powers: the eigenvalues μ_i of A.

    Each of shape (P,); the totals count them with |μ_i| and are scalars.
    """

    weight: Float[Array, " P"]
    noise: Float[Array, " P"]
    mean: Float[Array, " P"]
    powers: Float[Array, " P"]

    def total(self, grams: Float[Array, " P"], sign: int, exponent: int = 1) -> Float[Array, ""]:
        """Σ |μ_i|^exponent × gram_i over the eigenvalues of one sign."""
        weights = jnp.maximum(sign * self.powers, 0) ** exponent
        return jnp.sum(weights * grams)


def spectral_moments(
    problem: Problem, params: PyTree, symmetries: Sequence[BoundExponential]
) -> tuple[list[SpectralMoments], list[Array]]:
    """The moments along several generators, and ḡ, from one pass over the per-sample gradients.

    A matrix-free A has one entry of power 1, which holds θᵀAθ, Tr[ΣA] and ḡᵀAḡ, of either sign.
    """
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)
    theta = flatten(arrays)[0].astype(dtype)

    def gradient(sample: PyTree) -> Float[Array, " P"]:
        return flatten(jax.grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays))[0].astype(dtype)

    def sums(samples: PyTree) -> tuple[list[Array], Array]:
        gradients = jax.vmap(gradient)(samples)
        seconds = [jnp.sum(jax.vmap(lambda g, s=s: squares(s, g))(gradients), axis=0) for s in symmetries]
        return seconds, jnp.sum(gradients, axis=0)

    count = problem.num_samples
    most = samples_in(4 * theta.size * dtype.itemsize, count)  # the gradients, their coordinates, and as much again
    seconds, total = sum_over_samples(sums, problem.data, count, most)
    mean = total / count
    moments = [
        SpectralMoments(
            weight=squares(symmetry, theta),
            noise=jnp.zeros_like(second) if count == 1 else second / count - squares(symmetry, mean),
            mean=squares(symmetry, mean),
            powers=jnp.ones(1, dtype) if symmetry.powers is None else cast(symmetry.powers, theta),
        )
        for symmetry, second in zip(symmetries, seconds, strict=True)
    ]
    return moments, split(flatten([array.astype(dtype) for array in arrays])[1](mean))[0]


def squares(symmetry: BoundExponential, vector: Float[Array, " P"]) -> Array:
    """(n_iᵀv)² for every eigenvector; vᵀAv alone for a matrix-free A."""
    if symmetry.function is not None:
        return jnp.vdot(vector, symmetry.apply(vector), precision=jax.lax.Precision.HIGHEST)[None]
    return symmetry.coordinates(vector) ** 2
