"""A mode that a deep linear network has lost: does its noise keep it dead, or does it grow again?

Take a minimum of rank d − 1. In every hidden layer one unit direction q_i is used by no layer. Near it, let the last
layer read from its direction with strength w, W_D q_{D−1} = w u, the first write into it with p, W_1ᵀq_1 = p v, and
those between pass it on, q_iᵀW_i q_{i−1} = b_i, with B = ∏ b_i; u and v are the singular vectors that the product
lacks, of value s. With Σ_x = σ_x² I, Σ_ε = σ_ε² I, per unit of time ηt and to first order in w and p:

- The charges of q_{D−1} and q_1, Eq. (17), change in every step by η²ĝᵀAĝ, whatever the loss: w shrinks at the rate
  λ_w = 2η E(uᵀr)² E‖h_{D−2}‖², where E(uᵀr)² = σ_ε² + σ_x²s², and p at λ_p = 2ησ_x² E‖(W_D ⋯ W_3)ᵀr‖².
- The noise of the inner links is of second order: they stay.
- The loss lets w grow at 2σ_x²sB p, and p at 2σ_x²sB w.

So log ‖(w, p)‖ grows at the Lyapunov exponent Λ = −(λ_w + λ_p)/2 + √((λ_w − λ_p)²/4 + (2σ_x²sB)²), and the mode is dead
for good where B < B* = √(λ_wλ_p)/(2σ_x²s), which is of order η. Under GD both rates are 0, and it always grows again.
Only B ∝ strength^(D−2) is small at a standard start; so deep networks lose modes, and shallow ones keep them. With two
layers there is no inner link, B = 1.

Where a covariance is not a multiple of I the noise turns the dead direction towards the live ones, and the decay
becomes slower in time; the rates here, with Σ_x and Σ_ε in their places, are those at which it begins.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._runs import independent_runs
from experiments.deep_linear.cases import SIZE
from noise_equilibrium.models.deep_linear import Params, loss

NOISE = 0.5  # σ_ε², where σ_x² = 1
STRENGTH = 1e-5  # of w and p at the start: after growth by e⁴ they are still small beside the live modes, of order 1
RATIOS = (0.0, 0.5, 2.0)  # B/B*
SPAN = 0.5  # η²t, in which |log w| changes by 3 to 6


@dataclass(frozen=True)
class DeadMode:
    """A minimum that lacks the last mode of V, with everything that decides over that mode.

    Attributes:
        weights: the balanced minimum of rank d − 1.
        hidden: (D − 1, d), the direction q_i that no layer uses.
        ends: u and v.
        decay: λ_w/η and λ_p/η.
        growth: 2σ_x²s.
    """

    weights: list[np.ndarray]
    hidden: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    decay: tuple[float, float]
    growth: float

    @property
    def threshold(self) -> float:
        """B*/η."""
        return (self.decay[0] * self.decay[1]) ** 0.5 / self.growth

    def exponent(self, ratio: float) -> float:
        """Λ/η at B = ratio · B*."""
        (first, second), force = self.decay, ratio * self.threshold * self.growth
        return -(first + second) / 2 + float(np.hypot((first - second) / 2, force))

    def links(self, ratio: float, rate: float) -> float:
        """b of each inner layer, all of them equal."""
        return (ratio * self.threshold * rate) ** (1 / (len(self.weights) - 2))

    def start(self, ratio: float, rate: float) -> list[np.ndarray]:
        """The minimum with a weak mode in it, of the shape that grows at the exponent; of even shape without links."""
        weights = [weight.copy() for weight in self.weights]
        (first, second), force = self.decay, ratio * self.threshold * self.growth
        shape = np.linalg.eigh([[-first, force], [force, -second]])[1][:, -1] if ratio else np.ones(2)
        strengths = STRENGTH * np.abs(shape)
        weights[-1] += strengths[0] * np.outer(self.ends[0], self.hidden[-1])
        weights[0] += strengths[1] * np.outer(self.hidden[0], self.ends[1])
        for weight, below, above in zip(weights[1:-1], self.hidden[:-1], self.hidden[1:], strict=True):
            weight += self.links(ratio, rate) * np.outer(above, below)
        return weights


def dead_mode(V: np.ndarray, cov_x: np.ndarray, cov_noise: np.ndarray, depth: int) -> DeadMode:
    """The minimum of a network of that depth and of width d without the last mode of V √Σ_x, and the rates there.

    Args:
        V: (d, d), with no two equal singular values of V √Σ_x; not checked.
        cov_x: Σ_x, (d, d), diagonal and invertible; not checked.
        cov_noise: Σ_ε, (d, d).
        depth: D ≥ 3: two layers have no inner links.
    """
    root = np.linalg.cholesky(cov_x)  # of a diagonal matrix its root
    left, values, right = np.linalg.svd(V @ root)
    kept = (left[:, :-1] * values[:-1]) @ right[:-1] @ np.linalg.inv(root)
    # What is not learned of V x is noise to the layers; by it the residual is uncorrelated with every activation.
    cov_residual = cov_noise + values[-1] ** 2 * np.outer(left[:, -1], left[:, -1])
    with jax.enable_x64(True):
        found = ne.exact.deep_linear_equilibrium(kept, cov_x, cov_residual, (SIZE,) * (depth - 1))
        weights = [np.asarray(weight) for weight in found]
    hidden = [np.linalg.svd(np.concatenate([a.T, b]))[2][-1] for a, b in pairwise(weights)]
    identity = np.eye(SIZE)
    below = np.linalg.multi_dot([identity, *weights[-3::-1], identity])  # h_{D−2} = this x
    above = np.linalg.multi_dot([identity, *weights[:1:-1], identity])
    u, v = left[:, -1], root @ right[-1]
    s = values[-1] * np.linalg.norm(v)  # uᵀE[r xᵀ]v̂
    v = v / np.linalg.norm(v)
    decay_w = 2 * (u @ cov_residual @ u) * np.trace(below @ cov_x @ below.T)
    decay_p = 2 * (v @ cov_x @ v) * np.trace(above.T @ cov_residual @ above)
    return DeadMode(weights, np.stack(hidden), (u, v), (float(decay_w), float(decay_p)), float(2 * s))


def inner_links(params: Params) -> Array:
    """B of the weakest mode: the last singular value of W_{D−1} ⋯ W_2."""
    return jnp.linalg.svd(jnp.linalg.multi_dot([*params[-2:0:-1], jnp.eye(SIZE)]), compute_uv=False)[-1]


def strengths(params: Params) -> Array:
    """|w| and |p|: the last singular values of the outer layers, whose other ones are of order 1."""
    return jnp.stack([jnp.linalg.svd(params[place], compute_uv=False)[-1] for place in (-1, 0)])


def exponents(mode: DeadMode, V: np.ndarray, rate: float, runs: int, key: Array) -> np.ndarray:
    """What w and p grow at under SGD over η, per ηt: (ratios, runs, 2), from the second half of the runs."""
    steps = 2 * round(SPAN / rate**2 / 2)
    with jax.enable_x64(True):  # strengths fall below the rounding of single precision
        problem = ne.Problem(loss, ne.Stream(ne.data.LinearTeacher(V, np.eye(SIZE), NOISE * np.eye(SIZE))))
        starts = [mode.start(ratio, rate) for ratio in RATIOS]
        repeated = [jnp.asarray(np.repeat(np.stack(layers), runs, axis=0)) for layers in zip(*starts, strict=True)]
        keys = jax.random.split(key, len(RATIOS) * runs)
        watch = {"strengths": strengths}
        seen = independent_runs(problem, ne.SGD(rate, 1), repeated, keys, steps, watch, records=2).observed["strengths"]
        logs = np.log(np.asarray(seen)).reshape(len(RATIOS), runs, 3, 2)
    return (logs[:, :, 2] - logs[:, :, 1]) / (SPAN / 2)
