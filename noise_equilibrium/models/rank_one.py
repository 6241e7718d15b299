"""The rank-one factorisation of Section 5.1: ℓ = (Σ_k u_k w_k x − y)², the solvable case, with its double rotation.

With one unit it is ℓ = (u w x − y)², the rescaling of Figure 1; `rescaling` is the scalar part of `symmetry`, and all
there is for one unit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._symmetry import double_rotation
from .._symmetry import rescaling as _rescaling


class Params(NamedTuple):
    """The weights of d hidden units: `up` is u, the row U ∈ R^{1×d}; `down` is w, the column W ∈ R^{d×1}."""

    up: Float[Array, " d"]
    down: Float[Array, " d"]


def init(key: PRNGKeyArray, d: int, std: float = 1.0) -> Params:
    """Independent normal weights.

    Args:
        key: a JAX PRNG key, not the one of the run's noise.
        d: the number of hidden units.
        std: the standard deviation of all weights.
    """
    up, down = jax.random.split(key)
    return Params(std * jax.random.normal(up, (d,)), std * jax.random.normal(down, (d,)))


def predict(params: Params, x: Float[Array, ""]) -> Float[Array, ""]:
    """Σ_k u_k w_k x."""
    return jnp.vdot(params.up, params.down) * x


def loss(params: Params, sample: tuple[Float[Array, ""], Float[Array, ""]]) -> Float[Array, ""]:
    """(Σ_k u_k w_k x − y)²; no factor ½."""
    x, y = sample
    return (predict(params, x) - y) ** 2


def factor(params: Params, sample: tuple[Float[Array, ""], Float[Array, ""]]) -> Float[Array, ""]:
    """∂ℓ/∂(Σ_k u_k w_k) = a = 2 r x, r = Σ_k u_k w_k x − y: the gradients are g_u = a w and g_w = a u."""
    x, y = sample
    return 2 * (predict(params, x) - y) * x


symmetry = double_rotation((lambda params: params.up, 0), (lambda params: params.down, 0))
"""u → P u, w → P⁻¹ w; its charge is the matrix C_kl = u_k u_l − w_k w_l, Eq. (11)."""

rescaling = _rescaling(lambda params: params.up, lambda params: params.down)
"""u → (1+ρ)u, w → (1−ρ)w; its charge is ‖u‖² − ‖w‖²."""
