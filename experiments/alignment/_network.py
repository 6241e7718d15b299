"""What the studies share: the network, and distances between matrices."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from noise_equilibrium.models.two_layer_linear import Params, loss, symmetry

__all__ = [
    "Params",
    "alignment_sides",
    "double",
    "first",
    "invariant_grams",
    "loss",
    "product_change",
    "relative_distance",
    "relative_motion",
    "symmetry",
    "worst",
]


def relative_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖A − B‖ / (‖A‖ + ‖B‖) in the Frobenius norm, for stacks of matrices."""

    def norm(matrices: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrices, axis=(-2, -1))

    return norm(a - b) / (norm(a) + norm(b))


def alignment_sides(params: Params, cov_x: np.ndarray, cov_noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A = W Σ̄_x Wᵀ and B = Uᵀ Σ̄_ε U, bars = divided by the trace: equal at the noise equilibrium, Eq. (14)."""
    up, down = (np.asarray(leaf, np.float64) for leaf in params)
    share_x, share_noise = (c / np.trace(c, axis1=-2, axis2=-1)[..., None, None] for c in (cov_x, cov_noise))
    return down @ share_x @ down.swapaxes(-1, -2), up.swapaxes(-1, -2) @ share_noise @ up


def invariant_grams(params: Params) -> Array:
    """U Uᵀ and WᵀW, which rotations of the hidden layer do not change: equal Grams are the same point."""
    return jnp.stack([params.up @ params.up.T, params.down.T @ params.down])


def double(params: Params) -> Params:
    """The parameters in double precision; call it inside `jax.enable_x64(True)`."""
    return Params(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in params))


def product_change(before: Params, after: Params) -> float:
    """‖U'W' − UW‖ / ‖UW‖."""
    old, new = (np.asarray(p.up) @ np.asarray(p.down) for p in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def relative_motion(before: Params, after: Params) -> float:
    """‖θ' − θ‖ / ‖θ‖."""
    old, new = (np.concatenate([np.ravel(leaf) for leaf in params]) for params in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def first(params: Params) -> Params:
    """The first of stacked parameters."""
    return Params(*(leaf[0] for leaf in params))


def worst(ratios: np.ndarray) -> float:
    """The ratio that is furthest from 1."""
    return float(ratios[np.argmax(np.abs(np.log(ratios)))])
