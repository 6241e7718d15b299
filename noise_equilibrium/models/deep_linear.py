"""The deep linear network of Section 5.3: ℓ = ‖W_D ⋯ W_1 x − y‖², Eq. (16), with a double rotation per hidden layer."""

import itertools
from collections.abc import Sequence
from operator import itemgetter

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._symmetry import Symmetry, double_rotation
from .._validate import integer

Params = list[Float[Array, "_ _"]]
"""The weights [W_1, …, W_D], in the order in which they act; W_i has the shape (d_i, d_{i−1})."""


def init(key: PRNGKeyArray, d_in: int, widths: Sequence[int], d_out: int, std: float | None = None) -> Params:
    """Independent normal weights.

    Args:
        key: a JAX PRNG key, not the one of the run's noise.
        d_in: d_x.
        widths: the hidden widths d_1, …, d_{D−1}; none makes one layer.
        d_out: d_y.
        std: the standard deviation of all weights; (fan-in)^{-1/2} of each layer if not given.
    """
    sizes = [d_in, *widths, d_out]
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (inner**-0.5 if std is None else std) * jax.random.normal(key, (outer, inner))
        for key, (inner, outer) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def predict(params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
    """W_D ⋯ W_1 x, transposed as in `two_layer_linear.predict`."""
    for weight in params:
        x = x @ weight.T
    return x


def loss(params: Params, sample: tuple[Float[Array, " d_x"], Float[Array, " d_y"]]) -> Float[Array, ""]:
    """‖W_D ⋯ W_1 x − y‖², Eq. (16); no factor ½, summed over outputs."""
    x, y = sample
    return jnp.sum((predict(params, x) - y) ** 2)


def symmetries(depth: int) -> list[Symmetry]:
    """W_{i+1} → W_{i+1} P, W_i → P⁻¹ W_i for i = 1 … D − 1; their charges are W_{i+1}ᵀW_{i+1} − W_iW_iᵀ, Eq. (17).

    Args:
        depth: D.

    Raises:
        ValueError: if D is no integer of at least 2: one layer has no such symmetry.
    """
    depth = integer(depth, "depth", 2, "one layer has no double rotation")
    return [double_rotation(itemgetter(place + 1), itemgetter(place)) for place in range(depth - 1)]
