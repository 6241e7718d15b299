"""(u w x − y)² from the same start under SGD and under its SDE: how far apart the means are after a time T.

With σ² = η/(2S) both agree to first order in η: the difference of E f(θ_T) is proportional to η.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._extrapolate import weights
from experiments._metrics import Metric, within
from noise_equilibrium import plots
from noise_equilibrium.models.rank_one import Params, loss, symmetry

RATES = (0.04, 0.02, 0.01)
TIME, NOISE = 0.64, 0.5  # T and σ_ε
NAMES = {"product": "u w", "charge": "u² − w²"}


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        runs: of SGD and of the SDE, at each learning rate.
        samples: N of the data.
        substeps: time steps of the SDE in each step of SGD.
    """

    runs: int = 800_000
    samples: int = 8
    substeps: int = 8


FULL = Preset()
QUICK = Preset(runs=100_000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    data_key, key = jax.random.split(jax.random.key(seed))
    with jax.enable_x64(True):
        teacher = ne.data.LinearTeacher(np.eye(1), np.eye(1), NOISE**2 * np.eye(1))
        x, y = (leaf[:, 0] for leaf in teacher.moment_matched(data_key, preset.samples))
        problem = ne.Problem(loss, (jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64)))
        start = Params(jnp.array([0.8]), jnp.array([0.4]))

        def product(params: Params) -> Array:
            return jnp.vdot(params.up, params.down)

        def charge(params: Params) -> Array:
            return symmetry.charge(params)[0, 0]

        found = ne.weak_error(
            problem,
            lambda rate: ne.SGD(rate, 1),
            lambda rate: ne.SDE(rate, 1, dt=rate / preset.substeps),
            start,
            {"product": product, "charge": charge},
            RATES,
            TIME,
            seeds=preset.runs,
            key=key,
            batch=50_000,
        )
    arrays = {"rates": np.array(RATES), "kurtosis": np.mean(np.asarray(x) ** 4) / np.mean(np.asarray(x) ** 2) ** 2}
    for name in NAMES:
        arrays |= {f"{name}_error": found.error[name], f"{name}_spread": found.standard_error[name]}
    orders = {name: (float(found.order()[name][0]), float(found.order()[name][1])) for name in NAMES}
    return _metrics(arrays, orders), arrays, draw(arrays)


def _metrics(arrays: dict[str, np.ndarray], orders: dict[str, tuple[float, float]]) -> list[Metric]:
    metrics = [
        Metric(f"order in η of E[{words}] of SGD less that of the SDE", 1, orders[name][0], error=orders[name][1])
        for name, words in NAMES.items()
    ]
    # Orders are off by ηh with the curvature of single samples, h = 2(u² + w²)x² in the mean weighted by x², and
    # u² + w² < 2; their limit by its square.
    curvature = 4 * float(arrays["kurtosis"])
    value, error = order_limit(arrays["charge_error"], arrays["charge_spread"])
    title = f"order in η of E[{NAMES['charge']}] of SGD less that of the SDE, η → 0"
    metrics.append(within(title, 1, value, error, bias=(curvature * RATES[1]) ** 2))
    for name, words in NAMES.items():
        for rate, value, spread_of in zip(RATES, arrays[f"{name}_error"], arrays[f"{name}_spread"], strict=True):
            label = f"η = {rate:g}: E[{words}] of SGD less that of the SDE"
            metrics.append(Metric(label, None, float(value), error=float(spread_of)))
    return metrics


def order_limit(errors: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """The order from errors at η, η/2 and η/4, extrapolated to η → 0, and its standard error.

    2p(η/2) − p(η), with p(η) the binary logarithm of an error over that at half the rate.
    """
    # The logarithms of the three errors, of which each enters both orders or one.
    combined = weights(2) @ np.array([[1, -1, 0], [0, 1, -1]]) / np.log(2)
    return float(combined @ np.log(np.abs(errors))), float(np.linalg.norm(combined * spreads / errors))


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """The differences against the learning rate."""
    with plots.figure(4.6, 3.3, columns=1) as (drawing, (whole,)):
        axes, rates = whole.subplots(), arrays["rates"]
        for name, color, marker in (("product", plots.SGD.color, "o"), ("charge", "#56B4E9", "s")):
            error, spread = np.abs(arrays[f"{name}_error"]), 3 * arrays[f"{name}_spread"]
            label = {"product": "$E[uw]$", "charge": "$E[u^2-w^2]$"}[name]
            axes.errorbar(rates, error, spread, fmt=marker, color=color, ms=5, label=label)
        first = abs(arrays["product_error"][0])
        plots.theory(axes, rates, first * rates / rates[0], "proportional to $\\eta$")
        axes.set(xscale="log", yscale="log", xlabel="$\\eta$", ylabel="|SGD − SDE|", title="first order in $\\eta$")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
        axes.legend(loc="upper left", fontsize=7.5)
    return drawing
