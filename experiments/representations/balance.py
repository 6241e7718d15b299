"""Section 5.4 on a rotation that is no exact symmetry: the loss pulls at the charge, and the noise pushes.

One step of SGD at batch size 1 moves Q = UᵀU − WWᵀ by −η P̂ + η² (ĝ_Uᵀĝ_U − ĝ_W ĝ_Wᵀ), P̂ = 2 sym(Uᵀĝ_U − ĝ_W Wᵀ). Under
an exact symmetry P̂ = 0. Without one the two terms cancel in a stationary state, which is Eq. (20) in discrete time,

    pull E[P] = push η E[M₊ − M₋],    P = 2 sym(Uᵀ∇_U L − ∇_W L Wᵀ),  M± second moments of ĝ that are not centred,

so that M₊ and M₋ differ by as much as the loss pulls.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer


class Forces(eqx.Module):
    """An observable: the parameters, the mean gradient, the pull P of the loss, and M₊ and M₋."""

    problem: ne.Problem

    def __call__(self, params: two_layer.Params) -> dict[str, Any]:
        """All of them at these parameters."""
        slope = jax.grad(self.problem.risk)(params)
        moments = ne.noise_moments(self.problem, params, two_layer.rotation)
        return {
            "place": params,
            "slope": slope,
            "pull": pull(params, slope),
            "plus": moments.noise_plus + moments.mean_plus,
            "minus": moments.noise_minus + moments.mean_minus,
        }


def pull(params: two_layer.Params, slope: two_layer.Params) -> Array:
    """P, (d, d): the change of the charge along the gradient, which is linear in both arguments."""
    return jax.jvp(two_layer.rotation.charge, (params,), (slope,))[1]


def from_averages(mean: dict[str, Any], rate: float) -> dict[str, Array]:
    """Pull and noise, from the averages of `Forces` over the end of a run.

    Most of P is the fluctuation of ∇L, which averages to zero in a stationary state, so that E[P] is the same with
    θ − θ₀ in place of θ, for any fixed θ₀. With the mean of θ for θ₀ it has by far the smallest error.

    Args:
        mean: the averages, of one run.
        rate: η.

    Returns:
        "pull" P, and "plus" and "minus", ηM₊ and ηM₋.
    """
    return {
        "pull": mean["pull"] - pull(mean["place"], mean["slope"]),
        "plus": rate * mean["plus"],
        "minus": rate * mean["minus"],
    }


def strength(forces: dict[str, np.ndarray]) -> np.ndarray:
    """How hard the loss pulls, ‖P‖/(η‖M₊‖ + η‖M₋‖), for each run; it is 0 under a symmetry."""
    pulled, plus, minus = (_norm(forces[name]) for name in ("pull", "plus", "minus"))
    return pulled / (plus + minus)


def mismatch(forces: dict[str, np.ndarray]) -> np.ndarray:
    """‖P − η(M₊ − M₋)‖/‖P‖ for each run: 0 in a stationary state, else what makes the charge drift."""
    return _norm(forces["pull"] - forces["plus"] + forces["minus"]) / _norm(forces["pull"])


def _norm(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.norm(matrices, axis=(1, 2))
