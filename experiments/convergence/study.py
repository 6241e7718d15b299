"""A linear autoencoder of white inputs with white label noise, ℓ = ‖UWx − y‖², y = x + ε, on its way to Theorem 5.2.

The residual compares the two sides of Eq. (14), A = W Σ̄_x Wᵀ and B = Uᵀ Σ̄_ε U, bars = divided by the trace:

    ‖A − B‖ / √(‖A‖ ‖B‖).

At the minimum all charges Q = UᵀU − WWᵀ decay by ρ = 4η²dσ_ε²/S per step, and every step adds η²(GᵀG − GGᵀ), where
G = −(2/S) Σ_s ε_s x_sᵀ is the minibatch gradient in UW. Its fourth moments give the size of Q at rest, for any width:

    E‖GᵀG − GGᵀ‖² = 32σ_ε⁴ d(d − 1)(d + 2)(d + S + 1)/S³.

So the residual rests at √(ρ(d − 1)(d + 2)(d + S + 1)/(d²S)): at √ρ for S ≫ d ≫ 1, at 1.46 √ρ for S = d = 20, and
above 1.8 √ρ for S < d/2; all to leading order in η.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._runs import independent_runs
from noise_equilibrium import plots
from noise_equilibrium.models.two_layer_linear import Params, init, loss

SIZE = 20  # d
NOISE = 1.0  # σ_ε
RECORDS = 200
LATE = RECORDS * 3 // 5  # the last 40 % count as the end


class Setting(NamedTuple):
    """One run.

    Attributes:
        rate: η.
        batch: S.
        width: d_h.
    """

    rate: float = 0.03
    batch: int = 20
    width: int = 20

    @property
    def decay(self) -> float:
        """ρ = 4η²dσ_ε²/S, the rate of the charges per step."""
        return 4 * self.rate**2 * SIZE * NOISE**2 / self.batch

    @property
    def rest(self) -> float:
        """The residual at rest."""
        d, S = SIZE, self.batch
        return (self.decay * (d - 1) * (d + 2) * (d + S + 1) / (d**2 * S)) ** 0.5

    @property
    def label(self) -> str:
        """For the names of arrays."""
        return f"{self.rate:g}_{self.batch}_{self.width}"


BASE = Setting()
SWEEPS = {
    "rate": [BASE._replace(rate=rate) for rate in (0.0075, 0.015, 0.03, 0.06)],
    "batch": [BASE._replace(batch=batch) for batch in (80, 40, 20, 10)],
    "width": [BASE._replace(width=width) for width in (20, 40, 80)],
}
NAMES = {"rate": "η", "batch": "S", "width": "d_h"}


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of every setting.
        lifetimes: ρ × steps.
    """

    seeds: int = 6
    lifetimes: float = 14.0


FULL = Preset()
QUICK = Preset(seeds=2, lifetimes=12.0)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    settings = list(dict.fromkeys(setting for sweep in SWEEPS.values() for setting in sweep))
    arrays: dict[str, np.ndarray] = {}
    problem = ne.Problem(loss, ne.Stream(sample))
    setting_keys = jax.random.split(jax.random.key(seed), len(settings))
    for setting, key in zip(tqdm(settings, disable=None), setting_keys, strict=True):
        steps = RECORDS * round(preset.lifetimes / setting.decay / RECORDS)
        start_key, noise_key = jax.random.split(key)
        starts = jax.vmap(lambda key, width=setting.width: init(key, SIZE, width, SIZE, std=width**-0.5))(
            jax.random.split(start_key, preset.seeds)
        )
        sgd, keys = ne.SGD(setting.rate, setting.batch), jax.random.split(noise_key, preset.seeds)
        runs = independent_runs(problem, sgd, starts, keys, steps, {"residual": residual}, records=RECORDS)
        arrays[f"residual_{setting.label}"] = np.asarray(runs.observed["residual"])
        arrays[f"step_{setting.label}"] = steps // RECORDS * np.arange(RECORDS + 1)
    return _metrics(arrays), arrays, draw(arrays)


def sample(key: Array) -> tuple[Array, Array]:
    """One sample: x ~ N(0, I) and y = x + ε."""
    x, noise = jax.random.normal(key, (2, SIZE))
    return x, x + NOISE * noise


def residual(params: Params) -> Array:
    """‖A − B‖ / √(‖A‖ ‖B‖), A = WWᵀ/d, B = UᵀU/d."""
    up, down = params
    lower, upper = down @ down.T, up.T @ up
    norm = jnp.linalg.norm
    return norm(lower - upper) / jnp.sqrt(norm(lower) * norm(upper))


def final(arrays: dict[str, np.ndarray], setting: Setting) -> float:
    """The root mean square of the residual at the end."""
    return float(np.sqrt(np.mean(arrays[f"residual_{setting.label}"][:, LATE:] ** 2)))


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name, sweep in SWEEPS.items():
        for setting in sweep:
            if setting == BASE and name != "rate":
                continue
            label, end = f"{NAMES[name]} = {getattr(setting, name):g}: final residual over ", final(arrays, setting)
            if 2 * setting.batch > SIZE:
                root = setting.decay**0.5
                metrics.append(Metric(label + "√ρ", setting.rest / root, end / root, high=1.8))
            else:  # which rests above that
                metrics.append(Metric(label + "its closed form", 1, end / setting.rest, 0.85, 1.15))
    fine, coarse = (final(arrays, setting) / setting.rest for setting in SWEEPS["rate"][:2])
    label = "final residual over its closed form, extrapolated to η → 0"
    metrics.append(Metric(label, 1, 2 * fine - coarse, 0.95, 1.05))
    for name, label in (("rate", "η doubled"), ("batch", "S halved")):
        ends = [final(arrays, setting) for setting in SWEEPS[name]]
        least = min(after / before for before, after in itertools.pairwise(ends))
        expected = min(after.rest / before.rest for before, after in itertools.pairwise(SWEEPS[name]))
        metrics.append(Metric(f"final residual when {label}: least factor", expected, least, low=1))
    ends = [final(arrays, setting) for setting in SWEEPS["width"]]
    metrics.append(Metric("final residual over widths: largest over least", 1, max(ends) / min(ends), high=1.1))
    return metrics


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """The residual against the number of steps, over each sweep; black: where it rests."""
    with plots.figure(10.5, 3.5, columns=3) as (drawing, columns):
        for column, (name, sweep) in zip(columns, SWEEPS.items(), strict=True):
            axes = column.subplots()
            _draw_sweep(axes, arrays, name, sweep)
            title = {"rate": "learning rate", "batch": "batch size", "width": "width"}[name]
            axes.set(xlabel="steps", yscale="log", xscale="log", ylim=(0.01, 2), title=title)
        columns[0].axes[0].set_ylabel("residual of Theorem 5.2")
    return drawing


def _draw_sweep(axes: Axes, arrays: dict[str, np.ndarray], name: str, sweep: list[Setting]) -> None:
    symbol = {"rate": "\\eta", "batch": "S", "width": "d_h"}[name]
    looks = [("#9ecae1", "-"), ("#4B9FD1", (0, (4, 1.5))), ("#0072B2", "-."), ("#003A5C", "-")]
    for setting, (color, line) in zip(sweep, looks[-len(sweep) :], strict=True):
        steps, values = (arrays[f"{what}_{setting.label}"] for what in ("step", "residual"))
        series = plots.Series(f"${symbol} = {getattr(setting, name):g}$", color, line)
        plots.runs(axes, steps[1:], values[:, 1:], series)
        label = "predicted, at rest" if setting == sweep[-1] else None
        plots.theory(axes, steps[[RECORDS // 4, -1]], np.full(2, setting.rest), label)
    axes.legend(loc="lower left", fontsize=7.5)
