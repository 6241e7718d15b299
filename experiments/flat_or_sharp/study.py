"""A linear autoencoder, ℓ = ‖UWx − y‖², y = x + ε, over the anisotropy φ_x of its inputs, for two label noises.

Σ_x = diag(φ_x, φ_x, φ_x, 1, 1, 1), and Σ_ε alike with φ_ε, scaled to Tr Σ_ε = d. At the minimum UW = I the noise
equilibrium of Theorem 5.2 has its own ‖U‖²/‖W‖² and Tr ∇²L (Proposition 5.3). The baseline is the balanced minimum
UᵀU = WWᵀ, the one of least norm, where weight decay alone leads: there Tr ∇²L = 4d Tr Σ_x. They agree where Σ_x ∝ Σ_ε.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments.flat_or_sharp.figure import draw
from noise_equilibrium.models.two_layer_linear import Params, init, loss

SIZE, WIDTH, BATCH, DECAY = 6, 10, 10, 4e-3
SPREADS = (0.1, 0.3, 1.0, 3.0, 5.0, 10.0)  # φ_x
NOISES = (1.0, 5.0)  # φ_ε
RATE = 0.02  # η at φ_x = 1, and of GD


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        steps: of every run.
        seeds: initialisations.
    """

    steps: int = 40_000
    seeds: int = 4


FULL = Preset()
QUICK = Preset(seeds=2)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    start_key, noise_key = jax.random.split(jax.random.key(seed))
    starts = jax.vmap(lambda key: init(key, SIZE, WIDTH, SIZE))(jax.random.split(start_key, preset.seeds))
    arrays: dict[str, Any] = {"spreads": np.array(SPREADS)}
    for noise, key in zip(NOISES, jax.random.split(noise_key, len(NOISES)), strict=True):
        with jax.enable_x64(True):
            predicted = jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(predict, (0, None)))(*_numbers(noise)))
        keys = jax.random.split(key, (len(SPREADS), 2, preset.seeds))
        measured = jax.tree_util.tree_map(np.asarray, measure(noise, starts, keys, preset.steps))
        for kind, values in (("theory", predicted), ("run", measured)):
            arrays |= {f"{kind}_{name}_{noise:g}": value for name, value in values.items()}
    return _metrics(arrays), arrays, draw(arrays, NOISES)


def _numbers(noise: float) -> tuple[Array, Array]:
    return jnp.asarray(SPREADS, jnp.float64), jnp.asarray(noise, jnp.float64)


def covariances(spread: Array, noise: Array) -> tuple[Array, Array]:
    """Σ_x of φ_x = spread, and Σ_ε of φ_ε = noise."""

    def halves(first: Array) -> Array:
        return jnp.diag(jnp.concatenate([jnp.full(SIZE // 2, first), jnp.ones(SIZE // 2, jnp.result_type(first))]))

    cov_noise = halves(noise)
    return halves(spread), SIZE / jnp.trace(cov_noise) * cov_noise


def rate_of(spread: Any) -> Any:
    """η of SGD: smaller for large inputs, whose curvature grows with φ_x; larger for small ones, whose rates fall."""
    return jnp.minimum(1.5 * RATE, RATE / jnp.sqrt(spread))


def seen(params: Params, cov_x: Array) -> Array:
    """‖U‖², ‖W‖² and Tr ∇²L."""
    trace = 2 * (SIZE * jnp.sum(params.down @ cov_x * params.down) + jnp.trace(cov_x) * jnp.sum(params.up**2))
    return jnp.stack([jnp.sum(params.up**2), jnp.sum(params.down**2), trace])


def predict(spread: Array, noise: Array) -> dict[str, Array]:
    """‖U‖², ‖W‖² and Tr ∇²L at the balanced minimum and at the equilibria without and with weight decay."""
    cov_x, cov_noise = covariances(spread, noise)
    V = jnp.eye(SIZE, dtype=cov_x.dtype)
    ends = {
        "balanced": ne.exact.balanced_minimum(V, WIDTH),
        "sgd": ne.exact.two_layer_equilibrium(V, cov_x, cov_noise, WIDTH),
        "decay": decayed_equilibrium(V, cov_x, cov_noise, rate_of(spread) / (2 * BATCH)),
    }
    return {name: seen(params, cov_x) for name, params in ends.items()}


def decayed_equilibrium(V: Array, cov_x: Array, cov_noise: Array, noise_scale: Array) -> Params:
    """Where SGD with weight decay rests: at the equilibrium of Eq. (13) on its orbit, and at rest across orbits.

    Weight decay also shrinks the product P = UW, which rests where

        0 = dP/dt = −2(K WᵀW + UUᵀK) − 4γP,    K = (P − V)Σ_x,

    with U and W the factors of P that balance the noise and the decay: a fixed point, reached by relaxation.
    """

    def factors(product: Array) -> Params:
        moments = ne.exact.residual_moments(product, V, cov_x, cov_noise)
        extra = DECAY / (2 * noise_scale) * jnp.eye(SIZE, dtype=V.dtype)
        return ne.exact.balanced_factors(product, moments.down + extra, moments.up + extra, WIDTH)

    def relaxed(_: Any, product: Array) -> Array:
        up, down = factors(product)
        cross = (product - V) @ cov_x
        slope = 2 * (cross @ down.T @ down + up @ up.T @ cross) + 4 * DECAY * product
        return product - 0.25 / jnp.maximum(cov_x[0, 0], 1) * slope

    return factors(jax.lax.fori_loop(0, 1000, relaxed, V))


def measure(noise: float, starts: Params, keys: Array, steps: int) -> dict[str, Array]:
    """‖U‖², ‖W‖² and Tr ∇²L of every φ_x and start, under SGD and GD, without and with decay."""
    spreads = jnp.asarray(SPREADS, jnp.float32)
    found = {}
    for place, decay in enumerate((0.0, DECAY)):
        ending = "decay" if decay else "sgd"
        found[ending] = over_spreads(spreads, noise, decay, starts, keys[:, place], steps, sgd=True)
        found[f"gd_{ending}"] = over_spreads(spreads, noise, decay, starts, keys[:, place], steps, sgd=False)
    return found


@eqx.filter_jit
def over_spreads(
    spreads: Array, noise: float, decay: float, starts: Params, keys: Array, steps: int, *, sgd: bool
) -> Array:
    """What runs end with for every φ_x and start, (spreads, seeds, 3): SGD averaged over its second half."""

    def one(spread: Array, start: Params, key: Array) -> Array:
        cov_x, cov_noise = covariances(spread, jnp.asarray(noise, jnp.float32))
        observe = {"seen": ne.running(lambda params: seen(params, cov_x), start=0.5, every=4)}

        def sample(key: Array) -> tuple[Array, Array]:
            x, error = jax.random.normal(key, (2, SIZE))
            x = jnp.sqrt(jnp.diag(cov_x)) * x
            return x, x + jnp.sqrt(jnp.diag(cov_noise)) * error

        if not sgd:
            problem = ne.Problem(loss, risk_samples(cov_x, cov_noise), decay)
            return seen(ne.simulate(problem, ne.GD(RATE), start, steps).params, cov_x)
        problem, dynamics = ne.Problem(loss, ne.Stream(sample), decay), ne.SGD(rate_of(spread), BATCH)
        return ne.simulate(problem, dynamics, start, steps, key=key, observe=observe).observed["seen"].mean

    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, 0))(spreads, starts, keys)


def risk_samples(cov_x: Array, cov_noise: Array) -> tuple[Array, Array]:
    """2d samples whose second moments, and so whose risk, are those of the population."""
    root_x, root_noise = jnp.sqrt(SIZE * cov_x), jnp.sqrt(SIZE * cov_noise)
    x = jnp.concatenate([root_x, root_x])
    return x, x + jnp.concatenate([root_noise, -root_noise])


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for noise in NOISES:
        theory = {name: arrays[f"theory_{name}_{noise:g}"] for name in ("sgd", "decay", "balanced")}
        runs = {name: arrays[f"run_{name}_{noise:g}"].mean(axis=1) for name in ("sgd", "decay", "gd_decay")}
        off = {}
        for name in ("sgd", "decay"):
            expected, found = theory[name], runs[name]
            off[name, "ratio"] = (found[:, 0] / found[:, 1]) / (expected[:, 0] / expected[:, 1]) - 1
            off[name, "trace"] = found[:, 2] / expected[:, 2] - 1
        for name, marks in (("sgd", (0.05, 0.04)), ("decay", (0.06, 0.06))):
            label = {"sgd": "SGD", "decay": "SGD with decay"}[name]
            for what, mark in zip(("ratio", "trace"), marks, strict=True):
                sign = {"ratio": "‖U‖²/‖W‖²", "trace": "Tr ∇²L"}[what]
                worst = float(np.max(np.abs(off[name, what])))
                metrics.append(Metric(f"φ_ε = {noise:g}, {label}: {sign} off theory, worst φ_x", 0, worst, high=mark))
        gd = arrays[f"run_gd_decay_{noise:g}"]
        unbalanced = float(np.max(np.abs(gd[..., 0] / gd[..., 1] - 1)))
        metrics.append(Metric(f"φ_ε = {noise:g}, GD with decay: |‖U‖²/‖W‖² − 1|, largest", 0, unbalanced, high=0.01))
    theory, found = (arrays[f"{kind}_sgd_5"] for kind in ("theory", "run"))
    balanced = arrays["theory_balanced_5"][:, 2]
    for place, spread in enumerate(SPREADS):
        if spread == 0.1:
            continue  # within 0.2 % of the balanced minimum: neither flatter nor sharper
        low, high = {5.0: (0.96, 1.04), 10.0: (-np.inf, 1)}.get(spread, (1, np.inf))
        name = f"φ_ε = 5, φ_x = {spread:g}: Tr ∇²L of SGD over that of the balanced minimum"
        measured = found[place, :, 2].mean() / balanced[place]
        metrics.append(Metric(name, theory[place, 2] / balanced[place], measured, low, high))
    return metrics
