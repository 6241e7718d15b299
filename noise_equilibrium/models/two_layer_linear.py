"""The two-layer linear network of Section 5.2: ℓ = ‖U W x − y‖², Eq. (12), with its double rotation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._symmetry import double_rotation


class Params(NamedTuple):
    """The weights: `up` is U of shape (d_y, d), `down` is W of shape (d, d_x)."""

    up: Float[Array, "d_y d"]
    down: Float[Array, "d d_x"]


def init(key: PRNGKeyArray, d_in: int, d_hidden: int, d_out: int, std: float | None = None) -> Params:
    """Independent normal weights.

    Args:
        key: a JAX PRNG key, not the one of the run's noise.
        d_in: d_x.
        d_hidden: d.
        d_out: d_y.
        std: the standard deviation of all weights; d_x^{-1/2} if not given.
    """
    spread = d_in**-0.5 if std is None else std
    up, down = jax.random.split(key)
    return Params(spread * jax.random.normal(up, (d_out, d_hidden)), spread * jax.random.normal(down, (d_hidden, d_in)))


def predict(params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
    """U W x.

    As xᵀWᵀUᵀ: under `vmap` over samples these are products of row-major matrices, which XLA's CPU does faster.
    """
    return x @ params.down.T @ params.up.T


def loss(params: Params, sample: tuple[Float[Array, " d_x"], Float[Array, " d_y"]]) -> Float[Array, ""]:
    """‖U W x − y‖², Eq. (12); no factor ½, summed over outputs."""
    x, y = sample
    return jnp.sum((predict(params, x) - y) ** 2)


symmetry = double_rotation(lambda params: params.up, lambda params: params.down)
"""U → U P, W → P⁻¹ W; its charge is UᵀU − WWᵀ, Eq. (11)."""
