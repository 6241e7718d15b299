"""Many runs of ℓ = (u w x − y)², whose charge u² − w² decays: then v = uw is one number with a law in closed form.

    Gamma       x = 1, y = 1 + ε, Var ε = s²: for SGD as η → 0 at fixed σ²s² a Gamma law of shape 1/(4σ²s²) − 1/2 and
                scale 4σ²s²
    quadratic   inputs that vary, at finite σ²: q(v) is no constant, and the law is that of the SDE
    collapse    near v = 0 log v grows at the rate 2E[xy] − 4σ²Var(xy), twice over: below 0 SGD collapses to u = w = 0
    depth 3     (u₁u₂u₃ − y)²: the push away from 0 wins at every σ²

Each statement is a limit of small steps: runs at two steps, extrapolated.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._extrapolate import limit
from experiments._metrics import Metric, within
from experiments._runs import independent_runs
from experiments.stationary_law.figure import draw
from experiments.stationary_law.laws import Law

SHARES = np.array([0.1, 0.5, 0.9])
GAMMA, DEEP = 0.125, 0.6  # σ²s²; two factors collapse above 0.5
DEEP_TIME = 40.0  # near 0 three factors move slowly
GROWTH = (0.1, 0.3, 0.5, 0.7, 1.0)  # σ²s² of the runs near v = 0
FAR = 1e-12  # where they start: too far from 1 to come there
EARLY, TIME = 0.24, 12.0  # the charge falls as e^{−t}; whole numbers of steps
SCALE = 0.1  # σ² of the law with a quadratic q
INPUTS, LABEL_NOISE = np.array([0.4, 0.8, 1.2, 1.6]), 0.5


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        rate: the larger learning rate; the other is half of it.
        seeds: independent runs of SGD.
        sde: independent runs of the SDE, whose steps are dearer.
        deep: independent runs of three factors, which are longer.
    """

    rate: float = 0.005
    seeds: int = 65_536
    sde: int = 16_384
    deep: int = 8192


FULL = Preset()
QUICK = Preset(rate=0.01, seeds=8192, sde=4096, deep=2048)


class Sample(eqx.Module):
    """x = 1 and y = 1 + ε, ε normal."""

    spread: Array

    def __call__(self, key: Array) -> tuple[Array, Array]:
        """One sample."""
        return jnp.ones(()), 1 + self.spread * jax.random.normal(key, (), jnp.float64)


def loss(factors: Array, sample: tuple[Array, Array]) -> Array:
    """(Π_i u_i x − y)²."""
    x, y = sample
    return (jnp.prod(factors) * x - y) ** 2


def sgd(rate: float, noise: float, start: list[float], seeds: int, time: float, records: int, key: Array) -> np.ndarray:
    """The factors along runs of SGD with S = 1 at σ²s² = noise: (seeds, records + 1, factors)."""
    problem = ne.Problem(loss, ne.Stream(Sample(jnp.sqrt(2 * noise / rate))))
    starts = jnp.repeat(jnp.asarray(start)[None], seeds, axis=0)
    steps = records * round(time / rate / records)
    keys = jax.random.split(key, seeds)
    run = independent_runs(problem, ne.SGD(rate, 1), starts, keys, steps, {"u": lambda u: u}, records=records)
    return np.asarray(run.observed["u"])


def both(
    rate: float, seeds: int, noise: float, start: list[float], time: float, records: int, key: Array
) -> list[np.ndarray]:
    """The same at η and at η/2."""
    return [sgd(rate / 2**half, noise, start, seeds, time, records, jax.random.fold_in(key, half)) for half in (0, 1)]


def shares_below(name: str, law: Law, ends: list[np.ndarray]) -> list[Metric]:
    """The share of runs below quantiles of a law; the interval is that of a proportion."""
    found = []
    for share, place in zip(SHARES, law.quantile(SHARES), strict=True):
        seen = limit(*((v < place).astype(float) for v in ends))
        found.append(
            within(
                f"{name}: share of the runs below the {share:.0%} quantile, {place:.4g}",
                share,
                float(seen.value),
                float(seen.error),
                bias=seen.remainder(share),
            )
        )
    return found


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), 4)
        parts = (gamma, quadratic, collapse, depth)
        found = [part(preset, key) for part, key in zip(parts, tqdm(keys), strict=True)]
    metrics = [metric for some, _ in found for metric in some]
    arrays = {name: values for _, some in found for name, values in some.items()}
    return metrics, arrays, draw(arrays)


def gamma(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """From far off balance to the Gamma law."""
    runs = both(preset.rate, preset.seeds, GAMMA, [2.0, 0.5], TIME, round(TIME / EARLY), key)
    charge = [np.log(np.abs(u[:, :, 0] ** 2 - u[:, :, 1] ** 2)) for u in runs]
    coarse, fine = ((one[:, 0] - one[:, -1]) / TIME for one in charge)
    rate = limit(coarse, fine)
    ends, early = ([u[:, place].prod(axis=-1) for u in runs] for place in (-1, 1))
    law = Law(2, lambda v: 2 * (v - 1), lambda v: 0 * v + 4 * GAMMA, 1.0, 6.0)  # σ²q = 4σ²s²
    mean, square = limit(*ends), limit(*(v**2 for v in ends))
    first, second = 1 - 2 * GAMMA, (1 - 2 * GAMMA) ** 2 + (1 / (4 * GAMMA) - 0.5) * (4 * GAMMA) ** 2
    start = np.sort(early[1])
    apart = np.max(np.abs(np.arange(len(start)) / len(start) - np.interp(start, law.v, law.below, left=0)))
    metrics = [
        within(
            "Gamma: decay rate of log |u² − w²|",
            8 * GAMMA,
            float(rate.value),
            float(rate.error),
            bias=rate.remainder(8 * GAMMA),
        ),
        within("Gamma: E v", first, float(mean.value), float(mean.error), bias=mean.remainder(first)),
        within("Gamma: E v²", second, float(square.value), float(square.error), bias=square.remainder(second)),
        *shares_below("Gamma", law, ends),
        # Kolmogorov and Smirnov: 1.95/√n has a probability of 0.001 if the law is the same.
        Metric(
            "Gamma, before balance: largest gap of the two distributions",
            None,
            float(apart),
            3 * 1.95 / len(start) ** 0.5,
        ),
    ]
    return metrics, {
        "gamma_v": ends[1],
        "gamma_early": early[1],
        "gamma_law": np.stack([law.v, law.density])[:, ::200],
        "gamma_charge": charge[1].mean(axis=0),
        "gamma_time": np.linspace(0, TIME, charge[1].shape[1]),
    }


def quadratic(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Inputs that vary: the SDE at finite σ²."""
    x, noise = (part.ravel() for part in np.meshgrid(INPUTS, [LABEL_NOISE, -LABEL_NOISE]))
    y = x + noise

    def slopes(v: np.ndarray) -> np.ndarray:
        return 2 * x * (np.multiply.outer(v, x) - y)

    # Quadratic in v: three values give q.
    q = np.polynomial.Polynomial.fit([0, 1, 2], slopes(np.array([0.0, 1, 2])).var(axis=-1), 2).convert()
    law = Law(2, lambda v: slopes(np.array([0.0, 1.0])).mean(axis=-1)[0] * (1 - v), q, SCALE, 8.0)
    problem = ne.Problem(loss, (jnp.asarray(x), jnp.asarray(y)))
    ends = []
    for half in (0, 1):
        dt = preset.rate / 2**half
        keys = jax.random.split(jax.random.fold_in(key, half), preset.sde)
        starts = jnp.ones((preset.sde, 2))
        steps = round(TIME / dt)
        seen = independent_runs(problem, ne.SDE(2 * SCALE, 1, dt), starts, keys, steps, {"v": jnp.prod}, records=1)
        ends.append(np.asarray(seen.observed["v"])[:, -1])
    # No moments: for large v the density falls as v^{−7/2}, and a few runs of finite steps leave every bound.
    return shares_below("quadratic q", law, ends), {
        "quadratic_v": ends[1],
        "quadratic_law": np.stack([law.v, law.density])[:, ::200],
    }


def collapse(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """The growth of log v near 0 over σ²s², whose zero is the transition."""
    rows, time = [], 2.0
    for place, noise in enumerate(GROWTH):
        some = jax.random.fold_in(key, place)
        runs = both(preset.rate, preset.seeds, noise, [FAR**0.5, FAR**0.5], time, 1, some)
        rate = limit(*(np.log(u[:, -1].prod(axis=-1) / FAR) / time for u in runs))
        rows.append([noise, float(rate.value), float(rate.error), rate.remainder(4.0)])
    noise, measured, error, bias = np.array(rows).T
    metrics = [
        within(f"growth of log v near 0 at σ²s² = {at:g}", 4 - 8 * at, value, one, bias=more)
        for at, value, one, more in rows
    ]
    # A straight line through the rates, by weighted least squares; its zero, with the error of a ratio.
    line, cov = np.polyfit(noise, measured, 1, w=1 / error, cov="unscaled")
    zero = -line[1] / line[0]
    slope = np.array([line[1] / line[0] ** 2, -1 / line[0]])
    metrics.append(
        within("σ²s² at which SGD collapses", 0.5, zero, float(np.sqrt(slope @ cov @ slope)), bias=bias.max() / 8)
    )
    return metrics, {"growth": np.array(rows)}


def depth(preset: Preset, key: Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Three factors, at a noise at which two collapse."""
    # m' = m(1 − ηr'm): at larger rates a few steps from the tail of m change its sign, and it is slow to come back.
    runs = both(preset.rate / 8, preset.deep, DEEP, [1.0, 1.0, 1.0], DEEP_TIME, 1, key)
    ends = [u[:, -1].prod(axis=-1) for u in runs]
    law = Law(3, lambda v: 2 * (v - 1), lambda v: 0 * v + 4 * DEEP, 1.0, 8.0)
    return shares_below("depth 3", law, ends), {
        "deep_v": ends[1],
        "deep_law": np.stack([law.v, law.density])[:, ::200],
    }
