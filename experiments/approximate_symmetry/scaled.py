"""Eqs. (22) and (23) where A is definite: a loss of the angle alone, and a pull ½ζ‖θ − a‖² to a point on its valley.

For ℓ₀ = (x·θ/‖θ‖ − y)², A = I and r = ‖a‖ the minimum is θ* = a, and HAθ* = ζAθ*: the case of Eq. (22). Printed,

    θ − θ* = σ²T/(ζr²) θ*,    ‖θ‖² − r² = 2σ²T/ζ,    T = Tr Σ(θ*) = 4σ_ε²/r².

But the angle φ spreads as well, by E φ² = σ²T/(ζr²(1 + k)) with k = 2/(ζr²), the curvature of ℓ₀ over that of the pull,
and takes its share of the drift of the charge: with it the displacement and the charge are, to leading order in σ²,

    k/(1 + k) of the printed (22),    (1 + 2k)/(2 + 2k) of the printed (23).

The charge ‖θ‖² of A = I goes up, and −‖θ‖² of A = −I goes down, as (23) has it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._metrics import Metric, extrapolated
from noise_equilibrium.models import scale_invariant

NOISE, RADIUS, ZETA = 1.0, 1.5, 1.0  # σ_ε, r and ζ
RATES = (0.02, 0.01)
TIME = 200.0  # in units of 1/ζ; the first tenth is left out
RATIO = 2 / (ZETA * RADIUS**2)  # k


def _loss(theta: Array, sample: tuple[Array, Array]) -> Array:
    pull = theta - jnp.asarray([RADIUS, 0.0], theta.dtype)
    return scale_invariant.loss(theta, sample) + ZETA * jnp.sum(pull**2) / 2


def _sample(key: Array) -> tuple[Array, Array]:
    """One sample: x ~ N(0, I₂) and y = x₁ + ε."""
    numbers = jax.random.normal(key, (3,), jnp.float64)
    return numbers[:2], numbers[0] + NOISE * numbers[2]


def run(chains: int, key: Array) -> dict[str, np.ndarray]:
    """Displacement along θ* and of the charge over the printed (22) and (23), of every chain, at both rates."""
    problem, start = ne.Problem(_loss, ne.Stream(_sample)), jnp.asarray([RADIUS, 0.0])

    @eqx.filter_jit
    def averages(keys: Array, rate: Any, steps: int) -> Array:
        def seen(theta: Array) -> Array:
            return jnp.stack([theta[0], jnp.sum(theta**2)])

        def one(key: Array) -> Array:
            watch = {"seen": ne.running(seen, 0.1)}
            return ne.simulate(problem, ne.SGD(rate, 1), start, steps, key=key, observe=watch).observed["seen"].mean

        return jax.vmap(one)(keys)

    found = {}
    for place, rate in enumerate(RATES):
        means = np.asarray(averages(jax.random.split(jax.random.fold_in(key, place), chains), rate, round(TIME / rate)))
        unit = rate / 2 * (4 * NOISE**2 / RADIUS**2) / ZETA  # σ²T/ζ
        found[f"scaled_along_{place}"] = (means[:, 0] - RADIUS) / (unit / RADIUS)
        found[f"scaled_charge_{place}"] = (means[:, 1] - RADIUS**2) / (2 * unit)
    return found


def metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    """Both limits σ² → 0; what is of second order is (ηh)², with the curvature h = 2/r² + ζ < 2."""
    along, charge = ([arrays[f"scaled_{name}_{place}"] for place in (0, 1)] for name in ("along", "charge"))
    says = {"along": RATIO / (1 + RATIO), "charge": (1 + 2 * RATIO) / (2 + 2 * RATIO)}
    bias = (4 * RATES[0]) ** 2
    return [
        extrapolated("A = I: displacement along θ* over the printed (22), σ² → 0", says["along"], *along, bias=bias),
        extrapolated("A = I: rise of ‖θ‖² over the printed (23), σ² → 0", says["charge"], *charge, bias=bias),
        extrapolated(
            "A = −I: change of −‖θ‖² over 2σ²TrΣ/ζ, σ² → 0", -says["charge"], -charge[0], -charge[1], bias=bias
        ),
    ]
