"""Softmax self-attention with one or several heads, ℓ = ‖f(X) − Y‖², and the double rotations of each head.

For T tokens X ∈ R^{T×d} and each head, with Q, K, V ∈ R^{k×d} and O ∈ R^{d_y×k},

    f(X) = Σ_heads softmax(X Qᵀ K Xᵀ/√k) X Vᵀ Oᵀ,

the softmax over the tokens that are attended to. Only QᵀK and OV of each head matter, so for symmetric positive P

    Q → P Q, K → P⁻¹ K,    charge QQᵀ − KKᵀ,        O → O P, V → P⁻¹ V,    charge OᵀO − VVᵀ,

both of shape (k, k) in each head.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._symmetry import Symmetry, double_rotation
from .._validate import integer


class Params(NamedTuple):
    """The weights; the H heads of k rows each are stacked: `out` is (d_y, H k), the others are (H k, d)."""

    query: Float[Array, "Hk d"]
    key: Float[Array, "Hk d"]
    value: Float[Array, "Hk d"]
    out: Float[Array, "d_y Hk"]


def init(
    key: PRNGKeyArray, d_in: int, d_head: int, d_out: int, heads: int = 1, std: tuple[float, float] | None = None
) -> Params:
    """Independent normal weights.

    Args:
        key: a JAX PRNG key, not the one of the run's noise.
        d_in: d.
        d_head: k.
        d_out: d_y.
        heads: H.
        std: the standard deviations of Q and O, and of K and V; d^{-1/2} for all if not given.
    """
    large, small = (d_in**-0.5, d_in**-0.5) if std is None else std
    rows, keys = heads * d_head, jax.random.split(key, 4)
    return Params(
        large * jax.random.normal(keys[0], (rows, d_in)),
        small * jax.random.normal(keys[1], (rows, d_in)),
        small * jax.random.normal(keys[2], (rows, d_in)),
        large * jax.random.normal(keys[3], (d_out, rows)),
    )


class Network(eqx.Module):
    """One layer of self-attention; call `network.loss(params, sample)`.

    Args:
        heads: H.

    Raises:
        ValueError: if H is no positive integer.
    """

    heads: int = eqx.field(static=True, default=1, converter=lambda heads: integer(heads, "heads", 1))

    def predict(self, params: Params, x: Float[Array, "T d"]) -> Float[Array, "T d_y"]:
        """f(X)."""
        query, key, value = (jnp.reshape(x @ weight.T, (len(x), self.heads, -1)) for weight in params[:3])
        scores = jnp.einsum("thk,shk->hts", query, key) / query.shape[-1] ** 0.5
        mixed = jnp.einsum("hts,shk->thk", jax.nn.softmax(scores, axis=-1), value)
        return mixed.reshape(len(x), -1) @ params.out.T

    def loss(self, params: Params, sample: tuple[Float[Array, "T d"], Float[Array, "T d_y"]]) -> Float[Array, ""]:
        """‖f(X) − Y‖²; no factor ½, summed over tokens and outputs."""
        x, y = sample
        return jnp.sum((self.predict(params, x) - y) ** 2)

    @property
    def query_key(self) -> Symmetry:
        """Q → P Q, K → P⁻¹ K in each head; its charge is QQᵀ − KKᵀ, of shape (k, k), or (H, k, k)."""
        return double_rotation((lambda params: params.query, 0), (lambda params: params.key, 0), blocks=self.heads)

    @property
    def value_output(self) -> Symmetry:
        """O → O P, V → P⁻¹ V in each head; its charge is OᵀO − VVᵀ, of shape (k, k), or (H, k, k)."""
        return double_rotation((lambda params: params.out, 1), (lambda params: params.value, 0), blocks=self.heads)
