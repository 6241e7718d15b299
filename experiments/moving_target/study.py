"""Theorem 4.5 (B.6): dC/dt = G, where G has the sign of C* − C and a slope of at least c₀, and dC* = μ dt + s dW.

With Y = C − C*, m = |μ|/c₀ and v = s²/(2c₀), at all times and in the limit,

    E Y²(t) ≤ e^{−c₀t} Y(0)² + (m² + 2v)(1 − e^{−c₀t}),        limsup E Y² ≤ (m + √(m² + 4v))²/4.

Ratios |Y|/|C*| are judged by their medians: the mean of their squares is infinite. The second half of the study takes
C, C*, c₀, μ and s from SGD on a two-layer linear network.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric
from noise_equilibrium import plots
from noise_equilibrium.models import two_layer_linear as linear

SYMMETRY = ne.rescaling(lambda params: params.up, lambda params: params.down)
TEACHER = np.array([[0.8, -0.4], [0.3, 0.6]])
SLOPE = 1.0  # c₀ of the synthetic flow
CASES = {"drift": (1.0, 0.0), "diffusion": (0.0, 1.0), "both": (1.0, 1.0), "at rest": (0.0, 0.0)}  # (μ, s)
RECORDS = 200


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        paths: independent paths of the synthetic target.
        time: how long they are followed, in units of 1/c₀.
        seeds: independent runs of SGD.
        rate: η of SGD, at batch size 1.
        steps: its steps.
        decay: γ.
    """

    paths: int = 8192
    time: float = 100.0
    seeds: int = 128
    rate: float = 0.02
    steps: int = 40_000
    decay: float = 0.002


FULL = Preset()
QUICK = Preset(paths=2048, time=50.0, seeds=32, steps=20_000)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 2)
    with jax.enable_x64(True):
        arrays = {"time": np.linspace(0, preset.time, RECORDS + 1)}
        for place, (name, (drift, spread)) in enumerate(CASES.items()):
            key = jax.random.fold_in(keys[0], place)
            gap, target = follow(drift, spread, preset.time, jax.random.split(key, preset.paths))
            arrays |= summary(name, np.asarray(gap), np.asarray(target))
        arrays |= training(preset, keys[1])
    return _metrics(preset, arrays), arrays, draw(arrays)


def flow(gap: Array) -> Array:
    """G as a function of C − C*: slope −c₀ above the equilibrium, and ever steeper below it."""
    return -SLOPE * (gap + jnp.where(gap < 0, gap - gap**2, 0))


@eqx.filter_jit
def follow(drift: float, spread: float, time: float, keys: Array) -> tuple[Array, Array]:
    """C − C* and C* of independent paths, (paths, rows), by Euler–Maruyama with 20 steps per record."""
    inner = 40
    dt = time / (RECORDS * inner)

    def one(key: Array) -> tuple[Array, Array]:
        def step(state: tuple[Array, Array], noise: Array) -> tuple[tuple[Array, Array], None]:
            gap, target = state
            moved = drift * dt + spread * jnp.sqrt(dt) * noise
            return (gap + flow(gap) * dt - moved, target + moved), None

        def record(state: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            noise = jax.random.normal(jax.random.fold_in(key, place), (inner,))
            state, _ = jax.lax.scan(step, state, noise)
            return state, state

        start = jnp.asarray(2.0), jnp.asarray(1.0)
        _, rows = jax.lax.scan(record, start, jnp.arange(RECORDS))
        gap, target = (jnp.concatenate([first[None], rest]) for first, rest in zip(start, rows, strict=True))
        return gap, target

    return jax.vmap(one)(keys)


def summary(name: str, gap: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """E Y² with its standard error, and the median of |Y|/|C*|."""
    squares = gap**2
    return {
        f"{name}_square": squares.mean(0),
        f"{name}_error": squares.std(0, ddof=1) / len(gap) ** 0.5,
        f"{name}_ratio": np.median(np.abs(gap) / np.abs(target), axis=0),
    }


def bound(time: np.ndarray, start: float, drift: float, spread: float, slope: float) -> np.ndarray:
    """The bound on E Y²(t)."""
    m, v = drift / slope, spread**2 / (2 * slope)
    return np.exp(-slope * time) * start + (m**2 + 2 * v) * (1 - np.exp(-slope * time))


def limit(drift: float, spread: float, slope: float) -> float:
    """The bound on the limit of E Y²."""
    m, v = drift / slope, spread**2 / (2 * slope)
    return (m + np.sqrt(m**2 + 4 * v)) ** 2 / 4


def training(preset: Preset, key: Array) -> dict[str, np.ndarray]:
    """C, C* and the least κ on the orbit segment between them, along runs of SGD; μ and s from the motion of C*.

    The runs start at the minimum and out of balance: from random weights some diverge before they get there, and C may
    begin as close to C* as it ends.
    """
    keys = jax.random.split(key, 3)
    teacher = ne.data.LinearTeacher(TEACHER, np.eye(2), 0.25 * np.eye(2))
    data = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), teacher.moment_matched(keys[0], 64))
    problem = ne.Problem(linear.loss, data, preset.decay)
    # The minimum itself, with the layers in a random basis and out of balance by e^{±1/2}.
    left, singular, right = np.linalg.svd(TEACHER)
    basis = np.linalg.qr(np.asarray(jax.random.normal(keys[1], (2, 2), jnp.float64)))[0]
    start = linear.Params(
        jnp.asarray(np.exp(-0.5) * (left * singular**0.5) @ basis.T),
        jnp.asarray(np.exp(0.5) * basis @ (singular[:, None] ** 0.5 * right)),
    )
    sgd = ne.SGD(preset.rate, 1)

    def observe(params: linear.Params) -> Float[Array, " 3"]:
        moments = ne.noise_moments(problem, params, SYMMETRY)
        found = ne.find_equilibrium(problem, params, SYMMETRY, sgd)
        law = sgd.charge_law(problem)
        grid = found.element * jnp.linspace(0, 1, 17)
        up, down = jnp.exp(2 * grid), jnp.exp(-2 * grid)
        noise = law.noise * moments.noise_plus + moments.mean_plus, law.noise * moments.noise_minus + moments.mean_minus
        inertia = moments.weight_plus * up + moments.weight_minus * down
        slopes = 4 * law.decay + 2 * law.scale * (noise[0] * down + noise[1] * up) / inertia
        return jnp.stack([SYMMETRY.charge(params), SYMMETRY.charge(found.params), jnp.min(slopes)])

    every = preset.steps // RECORDS

    @eqx.filter_jit
    @jax.vmap
    def runs(key: Array) -> Array:
        return ne.simulate(problem, sgd, start, preset.steps, key=key, observe={"all": observe}, every=every).observed[
            "all"
        ]

    seen = np.asarray(runs(jax.random.split(keys[2], preset.seeds)))
    charge, target, slopes = seen[..., 0], seen[..., 1], seen[..., 2]
    time = np.arange(RECORDS + 1) * every * preset.rate
    steps = np.diff(target, axis=1)
    return {
        "sgd_time": time,
        "sgd_charge": charge,
        "sgd_target": target,
        "sgd_slope": np.array(slopes.min()),
        "sgd_drift": np.array(np.abs(np.polyfit(time, target.mean(0), 1)[0])),
        "sgd_spread": np.array(np.sqrt(steps.var() / (time[1] - time[0]))),
        **summary("sgd", charge - target, target),
    }


def _metrics(preset: Preset, arrays: dict[str, np.ndarray]) -> list[Metric]:
    time, late = arrays["time"], slice(RECORDS // 2, None)
    metrics = []
    for name, (drift, spread) in CASES.items():
        allowed = bound(time, 4.0, drift, spread, SLOPE)
        excess = (arrays[f"{name}_square"] - 3 * arrays[f"{name}_error"]) / allowed
        metrics.append(Metric(f"{name}: E Y² less 3 errors over its bound, worst time", None, excess[1:].max(), high=1))
        if drift or spread:
            mean = arrays[f"{name}_square"][late].mean()
            error = arrays[f"{name}_error"][late].mean()
            metrics.append(
                Metric(
                    f"{name}: late E Y² over the limit bound",
                    None,
                    (mean - 3 * error) / limit(drift, spread, SLOPE),
                    0.05,
                    1,
                )
            )
    # The sharp cases: a drift upwards is followed at the Y with G(Y) = μ; a target at rest is reached as e^{−2c₀t}.
    lag = np.roots([1, -2, -1])  # −G: y² − 2y = μ = 1 below the equilibrium, y < 0
    metrics.append(
        Metric(
            "drift: late E Y² over that of G(Y) = μ",
            1,
            arrays["drift_square"][-1] / np.min(np.abs(lag)) ** 2,
            0.999,
            1.001,
        )
    )
    at_rest = -np.polyfit(time[1:11], np.log(arrays["at rest_square"][1:11]), 1)[0]
    metrics.append(Metric("at rest: rate of E Y² over 2c₀", 1, at_rest / (2 * SLOPE), 0.98, 1.02))
    for name, power in (("drift", -1.0), ("diffusion", -0.5)):
        ratio = arrays[f"{name}_ratio"]
        inside = time > preset.time / 10
        slope = np.polyfit(np.log(time[inside]), np.log(ratio[inside]), 1)[0]
        metrics.append(
            Metric(f"{name}: power of t in the median of |Y|/|C*|", power, slope, power - 0.15, power + 0.15)
        )
    drift, spread, slope = (float(arrays[f"sgd_{name}"]) for name in ("drift", "spread", "slope"))
    start = float(arrays["sgd_square"][0])
    allowed = bound(arrays["sgd_time"], start, drift, spread, slope)
    excess = (arrays["sgd_square"] - 3 * arrays["sgd_error"]) / allowed
    metrics += [
        Metric("SGD: E Y² less 3 errors over its bound, worst time", None, excess[1:].max(), high=1),
        Metric("SGD: E Y² at the end over that at the start", None, float(arrays["sgd_square"][-1] / start), high=0.05),
        Metric("SGD: c₀ × time", None, slope * float(arrays["sgd_time"][-1]), low=3),
    ]
    return metrics


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """E Y² against its bounds, medians of the ratio, and the training run with its own bound."""
    colors = {"drift": plots.SGD, "diffusion": plots.SDE, "both": plots.GD}
    time = arrays["time"]
    with plots.figure(11, 4.2, columns=3) as (drawing, (left, middle, right)):
        panels = left.subplots(3, 1, sharex=True)
        for axes, (name, series) in zip(panels, colors.items(), strict=True):
            _squares(axes, time, arrays, name, series)
            plots.theory(axes, time, bound(time, 4.0, *CASES[name], SLOPE), "bound")
            limits = np.full(2, limit(*CASES[name], SLOPE))
            axes.plot([10, 20], limits, color="black", lw=0.9, ls=(0, (5, 2)), label="bound of the limit")
            axes.set(xlim=(0, 20), yscale="log", ylim=(0.05, 9), ylabel="$E[Y^2]$")
            axes.text(0.97, 0.04, name, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5)
        panels[0].set_title("a moving equilibrium is followed")
        panels[0].legend(loc="upper center", ncols=3, fontsize=7, columnspacing=1, handlelength=1.6)
        panels[-1].set_xlabel("$c_0 t$")

        axes = middle.subplots()
        inside = time > 0
        for name, series in colors.items():
            axes.loglog(time[inside], arrays[f"{name}_ratio"][inside], color=series.color, ls=series.line, label=name)
        reference = time[time > 5]
        plots.theory(axes, reference, 1.2 / reference, "$t^{-1}$, $t^{-1/2}$")
        plots.theory(axes, reference, 1.6 * reference**-0.5, None)
        axes.set(xlabel="$c_0 t$", ylabel="median of $|Y|/|C^*|$", title="ever better, relative to its size")
        axes.legend(loc="lower left")

        above, below = right.subplots(2, 1, sharex=True)
        ages = arrays["sgd_time"]
        plots.runs(above, ages, arrays["sgd_charge"], plots.Series("charge $C$", plots.SGD.color))
        target = plots.Series("equilibrium $C^*$", plots.SDE.color, (0, (4, 1.5)))
        plots.runs(above, ages, arrays["sgd_target"], target)
        above.set(ylabel="charge", title="SGD on a linear network")
        above.legend(loc="lower right")
        _squares(below, ages, arrays, "sgd", plots.SGD)
        drift, spread, slope = (float(arrays[f"sgd_{name}"]) for name in ("drift", "spread", "slope"))
        start = float(arrays["sgd_square"][0])
        plots.theory(below, ages, bound(ages, start, drift, spread, slope), "bound by the measured $\\mu$, $s$, $c_0$")
        lowest = float(arrays["sgd_square"].min()) / 10
        below.set(yscale="log", xlabel="time $\\eta\\,\\times$ steps", ylabel="$E[Y^2]$", ylim=(lowest, 1e3 * start))
        below.legend(loc="upper right")
    return drawing


def _squares(axes: Axes, time: np.ndarray, arrays: dict[str, np.ndarray], name: str, series: plots.Series) -> None:
    """E Y² with three standard errors to both sides."""
    square, error = arrays[f"{name}_square"], 3 * arrays[f"{name}_error"]
    axes.plot(time, square, color=series.color, label="measured")
    axes.fill_between(time, np.maximum(square - error, 1e-12), square + error, color=series.color, alpha=0.3, lw=0)
