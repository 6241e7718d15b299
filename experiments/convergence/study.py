"""A linear autoencoder of white inputs with white label noise, ℓ = ‖UWx − y‖², y = x + ε, on its way to Theorem 5.2.

The residual compares the two sides of Eq. (14), A = W Σ̄_x Wᵀ and B = Uᵀ Σ̄_ε U, bars = divided by the trace:

    ‖A − B‖ / √(‖A‖ ‖B‖).

At the minimum all charges Q = UᵀU − WWᵀ decay by ρ = 4η²dσ_ε²/S per step, and every step adds η²(GᵀG − GGᵀ), where
G = −(2/S) Σ_s ε_s x_sᵀ is the minibatch gradient in UW. Its fourth moments give the size of Q at rest, for any width:

    E‖GᵀG − GGᵀ‖² = 32σ_ε⁴ d(d − 1)(d + 2)(d + S + 1)/S³.

So the residual rests at √(ρ(d − 1)(d + 2)(d + S + 1)/(d²S)): at √ρ for S ≫ d ≫ 1, at 1.46 √ρ for S = d = 20, and
above 1.8 √ρ for S < d/2; all to leading order in η. The next order: the misfit that SGD keeps, E‖Δ‖² = 2ηd²σ_ε²/S, adds
2ηd/S to the variance of the residual, and the curvature h = 4 of the minimum ηh to the kicks. Half of both is what the
residual, a square root, rests above that.
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
from experiments._metrics import Metric, standard_error, within, worst_of
from experiments._runs import independent_runs
from noise_equilibrium import plots
from noise_equilibrium.models.two_layer_linear import Params, init, loss

SIZE = 20  # d
NOISE = 1.0  # σ_ε
RECORDS = 200
LATE = RECORDS // 2  # the second half counts as the end


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
    def excess(self) -> float:
        """What the next order in η may add to the residual at rest, relative to it: twice the estimate above."""
        return self.rate * (4 + 2 * SIZE / self.batch)

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

    seeds: int = 12
    lifetimes: float = 14.0


FULL = Preset()
QUICK = Preset(seeds=6, lifetimes=12.0)


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
    return _metrics(arrays, preset.lifetimes), arrays, draw(arrays)


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


class End(NamedTuple):
    """The root mean square of the residual at the end, over that at rest.

    Attributes:
        ratio: the ratio.
        error: its standard error.
        blocks: how many nearly independent values it comes from.
    """

    ratio: float
    error: float
    blocks: int


def final(arrays: dict[str, np.ndarray], setting: Setting, lifetimes: float) -> End:
    """Squares are averaged over blocks of one lifetime 1/ρ of the charge, twice that of their correlation."""
    late = arrays[f"residual_{setting.label}"][:, LATE + 1 :] ** 2 / setting.rest**2
    blocks = np.concatenate([part.mean(axis=1) for part in np.array_split(late, int(lifetimes / 2), axis=1)])
    ratio = float(blocks.mean() ** 0.5)
    return End(ratio, standard_error(blocks) / (2 * ratio), len(blocks))


def _metrics(arrays: dict[str, np.ndarray], lifetimes: float) -> list[Metric]:
    metrics = []
    ends = {setting: final(arrays, setting, lifetimes) for sweep in SWEEPS.values() for setting in sweep}
    for name, sweep in SWEEPS.items():
        for setting in sweep:
            if setting == BASE and name != "rate":
                continue
            end, label = (
                ends[setting],
                f"{NAMES[name]} = {getattr(setting, name):g}: final residual over its closed form",
            )
            metrics.append(within(label, 1, end.ratio, end.error, bias=setting.excess, runs=end.blocks))
    fine, coarse = (ends[setting] for setting in SWEEPS["rate"][:2])
    label, value = "final residual over its closed form, extrapolated to η → 0", 2 * fine.ratio - coarse.ratio
    # 1 % of what is of order η², (ηh)² at the larger of the two rates and the overlap with the start.
    metrics.append(within(label, 1, value, np.hypot(2 * fine.error, coarse.error), bias=0.01, runs=fine.blocks))
    for name, label in (("rate", "η doubled"), ("batch", "S halved"), ("width", "d_h doubled")):
        pairs = []
        for before, after in itertools.pairwise(SWEEPS[name]):
            expected, (old, new) = after.rest / before.rest, (ends[before], ends[after])
            factor = expected * new.ratio / old.ratio
            error = factor * np.hypot(new.error / new.ratio, old.error / old.ratio)
            bias = expected * (after.excess if name != "width" else 0.01)
            pairs.append(
                within(
                    f"final residual when {label}: worst factor", expected, factor, error, bias=bias, runs=new.blocks
                )
            )
        metrics.append(worst_of(pairs))
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
