"""The moments of groups without legs: any generator A, in its eigenbasis or through v ↦ Av, and groups of a user's own.

Per-sample gradients are built in full here, a chunk at a time: a group may mix all parameters.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._group import AbstractGroup
from .._numbers import cast
from .._parameters import accumulation_dtype, split
from .._per_sample import samples_in, sum_over_samples
from .._problem import Problem
from ._abstract import AbstractMoments, Moments, as_kept


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


def dense_moments(
    problem: Problem, params: PyTree, groups: Sequence[AbstractGroup]
) -> tuple[list[AbstractMoments], list[Array]]:
    """The moments of groups that have no legs, and ḡ, from one pass over the per-sample gradients."""
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)
    theta = [array.astype(dtype) for array in arrays]

    def gradient(sample: PyTree) -> list[Array]:
        slopes = jax.grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays)
        return [slope.astype(dtype) for slope in slopes]

    def sums(samples: PyTree) -> tuple[list[Any], list[Array]]:
        gradients = jax.vmap(gradient)(samples)
        seconds = [jax.vmap(group.gram)(gradients) for group in groups]
        return jax.tree_util.tree_map(lambda each: jnp.sum(each, axis=0), (seconds, gradients))

    count = problem.num_samples
    size = sum(array.size for array in arrays)
    most = samples_in(4 * size * dtype.itemsize, count)  # the gradients, their Grams, and as much again
    seconds, total = sum_over_samples(sums, problem.data, count, most)
    mean = [array / count for array in total]

    def moments(group: AbstractGroup, second: Any) -> AbstractMoments:
        of_mean = group.gram(mean)
        # A difference of sums that were taken in one pass; `audible` knows how much of it is rounding. Of a single
        # sample it would be nothing but that.
        noise = jax.tree_util.tree_map(lambda s, m: jnp.zeros_like(s) if count == 1 else s / count - m, second, of_mean)
        weight, noise, of_mean = (as_kept(group, grams) for grams in (group.gram(theta), noise, of_mean))
        if isinstance(group.powers, tuple):
            return Moments(weight, noise, of_mean, group.powers)
        return SpectralMoments(weight, noise, of_mean, cast(group.powers, theta[0]))

    return [moments(group, second) for group, second in zip(groups, seconds, strict=True)], mean
