"""Theorem 4.5 (B.6): dC/dt = G, where G has the sign of C* − C and a slope of at least c₀, and dC* = μ dt + s dW.

With Y = C − C*, m = |μ|/c₀ and v = s²/(2c₀), at all times and in the limit,

    E Y²(t) ≤ e^{−c₀t} Y(0)² + (m² + 2v)(1 − e^{−c₀t}),        limsup E Y² ≤ (m + √(m² + 4v))²/4.

Ratios |Y|/|C*| are judged by their medians: the mean of their squares is infinite. In the second half of the study SGD
trains a linear network with one hidden unit on a teacher that grows, or shrinks, while it runs: ℓ = (u w·x − y)² and
y = p(t) v·x + ε with ‖v‖ = 1 and d inputs. Its noise balances where ‖w‖² = d u², so that with p(t) the target moves as

    C* = u² − ‖w‖² = −(d − 1)p/√d,    κ = 16dσ²σ_ε²/(d + 1),    and C follows it by C − C* = −(dC*/dt)/κ.

SGD rests O(η) beside C*; half of the difference of C at the same p on the way up and on the way down is free of that.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs, within
from noise_equilibrium import plots
from noise_equilibrium.models import two_layer_linear as linear

SYMMETRY = ne.rescaling(lambda params: params.up, lambda params: params.down)
INPUTS, NOISE = 3, 1.0  # d and σ_ε of the network
GROWTH = (0.5, 1.5)  # p at the start and at the end
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
    """

    paths: int = 8192
    time: float = 100.0
    seeds: int = 256
    rate: float = 0.005
    steps: int = 160_000


FULL = Preset()
QUICK = Preset(paths=2048, time=50.0, seeds=64)


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
    """C − C* and C* of independent paths, (paths, rows), by Euler–Maruyama with 40 steps per record."""
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
    """C, and C* of the loss and the parameters of the moment, along runs of SGD from a minimum out of balance."""
    low, high = GROWTH
    columns = np.sqrt(INPUTS) * np.concatenate([np.eye(INPUTS), -np.eye(INPUTS)])
    x, noise = (jnp.asarray(np.repeat(columns, 2, axis=0)), jnp.asarray(np.tile([NOISE, -NOISE], len(columns))))
    direction = np.asarray(jax.random.normal(key, (INPUTS,), jnp.float64))
    direction = jnp.asarray(direction / np.linalg.norm(direction))
    every = preset.steps // RECORDS

    def problem(scale: Array) -> ne.Problem:
        return ne.Problem(linear.loss, (x, (scale * x @ direction + noise)[:, None]))

    @eqx.filter_jit
    def follow_teacher(sizes: Array, keys: Array) -> Array:
        begin = sizes[0] ** 0.5
        start = linear.Params(jnp.full((1, 1), begin), begin * direction[None])  # balanced, but not in its noise

        def one(key: Array) -> Array:
            def record(params: linear.Params, place: Array) -> tuple[linear.Params, Array]:
                now, sgd = problem(sizes[place]), ne.SGD(preset.rate, 1)
                end = ne.simulate(now, sgd, params, every, key=jax.random.fold_in(key, place)).params
                there = ne.find_equilibrium(now, end, SYMMETRY, sgd.noise_scale).params
                return end, jnp.stack([SYMMETRY.charge(end), SYMMETRY.charge(there)])

            return jax.lax.scan(record, start, jnp.arange(RECORDS))[1]

        return jax.vmap(one)(keys)

    sizes = np.linspace(low, high, RECORDS)
    found = {"sgd_sizes": sizes, "sgd_time": preset.rate * every * np.arange(1, RECORDS + 1)}
    for place, name in enumerate(("up", "down")):
        keys = jax.random.split(jax.random.fold_in(key, place), preset.seeds)
        seen = np.asarray(follow_teacher(jnp.asarray(sizes if name == "up" else sizes[::-1]), keys))
        found |= {f"sgd_{name}_charge": seen[..., 0], f"sgd_{name}_target": seen[..., 1]}
    kappa = 16 * INPUTS * (preset.rate / 2) * NOISE**2 / (INPUTS + 1)
    slope = -(INPUTS - 1) / INPUTS**0.5 * (high - low) / (RECORDS - 1) / (preset.rate * every)
    expected = -(INPUTS - 1) / INPUTS**0.5 * sizes
    return found | {"sgd_expected": expected, "sgd_kappa": np.array(kappa), "sgd_lag": np.array(-slope / kappa)}


def at_rest(drift: float, spread: float) -> float:
    """E Y² of the stationary density of dY = (G(Y) − μ) dt − s dW, by quadrature; of its fixed point if s = 0."""
    grid = np.linspace(-6, 6, 20_001)
    force = np.asarray(flow(jnp.asarray(grid))) - drift
    if spread == 0:
        return float(np.interp(0, -force, grid) ** 2)  # −G rises with Y
    potential = np.concatenate([[0], np.cumsum((force[1:] + force[:-1]) / 2 * np.diff(grid))]) * 2 / spread**2
    density = np.exp(potential - potential.max())
    return float(np.sum(grid**2 * density) / np.sum(density))


def _metrics(preset: Preset, arrays: dict[str, np.ndarray]) -> list[Metric]:
    time, late = arrays["time"], slice(RECORDS // 2, None)
    metrics = []
    for name, (drift, spread) in CASES.items():
        allowed = bound(time, 4.0, drift, spread, SLOPE)
        excess = (arrays[f"{name}_square"] - 3 * arrays[f"{name}_error"]) / allowed
        metrics.append(Metric(f"{name}: E Y² less 3 errors over its bound, worst time", None, excess[1:].max(), high=1))
        if drift or spread:
            runs, late_mean = preset.paths, arrays[f"{name}_square"][late].mean()
            # Records a time apart that is longer than the correlation; 1 % for the step of the integration.
            error = arrays[f"{name}_error"][late].mean() / (preset.time / 8) ** 0.5
            expected = at_rest(drift, spread)
            label = f"{name}: late E Y² over that of the stationary density"
            metrics.append(within(label, 1, late_mean / expected, error / expected, bias=0.01, runs=runs))
    # A sharp case: a target at rest is reached as e^{−2c₀t}.
    decay = -np.polyfit(time[1:11], np.log(arrays["at rest_square"][1:11]), 1)[0]
    metrics.append(Metric("at rest: rate of E Y² over 2c₀", 1, decay / (2 * SLOPE), 0.98, 1.02))
    for name, power in (("drift", -1.0), ("diffusion", -0.5)):
        ratio = arrays[f"{name}_ratio"]
        inside = time > preset.time / 10
        slope = np.polyfit(np.log(time[inside]), np.log(ratio[inside]), 1)[0]
        metrics.append(
            Metric(f"{name}: power of t in the median of |Y|/|C*|", power, slope, power - 0.15, power + 0.15)
        )
    middle = slice(RECORDS // 4, 3 * RECORDS // 4)
    expected, unit = arrays["sgd_expected"], float(arrays["sgd_lag"])
    up, down = arrays["sgd_up_charge"], arrays["sgd_down_charge"][:, ::-1]
    target = (arrays["sgd_up_target"] + arrays["sgd_down_target"][:, ::-1]) / 2
    # SGD differs from the flow by ηh with h = 2(u² + ‖w‖²) < 7, and at S = 1 by (d + 2) times half of that.
    bias = 17 * preset.rate
    grown = float((expected[-20:].mean() + unit) / expected[0])  # C* < 0 falls, and C stays above it by its lag
    metrics += [
        of_runs(
            "SGD on a growing teacher: C late over C* at the start",
            grown,
            up[:, -20:].mean(axis=1) / expected[0],
            bias=bias * grown,
        ),
        of_runs(
            "SGD: C* by `find_equilibrium` over its closed form, mean over the run",
            1,
            (target / expected)[:, middle].mean(axis=1),
            bias=bias,
        ),
        of_runs(
            "SGD: lag of C behind C*, over (dC*/dt)/κ", 1, (up - down)[:, middle].mean(axis=1) / (2 * unit), bias=bias
        ),
        Metric("SGD: |C − C*| at the start over (dC*/dt)/κ", None, float(abs(expected[0]) / unit)),
    ]
    return metrics


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """E Y² against its bounds, medians of the ratio, and SGD on a teacher that changes, with its lag."""
    looks = (("#0072B2", "-"), ("#56B4E9", (0, (4, 1.5))), ("#003A5C", "-."))
    colors = {name: plots.Series(name, *look) for name, look in zip(("drift", "diffusion", "both"), looks, strict=True)}
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
        plots.theory(axes, reference, 1.2 / reference, "$t^{-1}$ (lower), $t^{-1/2}$ (upper)")
        plots.theory(axes, reference, 1.6 * reference**-0.5, None)
        axes.set(xlabel="$c_0 t$", ylabel="median of $|Y|/|C^*|$", title="ever better, relative to its size")
        axes.legend(loc="lower left")

        above, below = right.subplots(2, 1, sharex=True)
        sizes = arrays["sgd_sizes"]
        gaps = {}
        for name, order, color, line in (("up", 1, "#0072B2", "-"), ("down", -1, "#56B4E9", (0, (4, 1.5)))):
            values = arrays[f"sgd_{name}_charge"][:, ::order]
            label = {"up": "SGD, teacher grows", "down": "SGD, teacher shrinks"}[name]
            plots.runs(above, sizes, values, plots.Series(label, color, line))
            gaps[name] = values - arrays["sgd_expected"]
        plots.theory(above, sizes, arrays["sgd_expected"], "$C^*$")
        above.set(ylabel="charge $C$", title="SGD while its teacher changes")
        above.legend(loc="lower left", fontsize=7.5)
        lag = (gaps["up"] - gaps["down"]) / 2
        error = 3 * lag.std(axis=0, ddof=1) / len(lag) ** 0.5
        below.plot(sizes, lag.mean(axis=0), color=plots.SGD.color, label="half of their difference")
        below.fill_between(
            sizes, lag.mean(axis=0) - error, lag.mean(axis=0) + error, color=plots.SGD.color, alpha=0.3, lw=0
        )
        unit = float(arrays["sgd_lag"])
        plots.theory(below, sizes, np.full(len(sizes), unit), "$(dC^*/dt)/\\kappa$")
        below.set(xlabel="size $p$ of the teacher", ylabel="lag behind $C^*$", ylim=(-unit, 5 * unit))
        below.legend(loc="upper center", fontsize=7.5)
    return drawing


def _squares(axes: Axes, time: np.ndarray, arrays: dict[str, np.ndarray], name: str, series: plots.Series) -> None:
    """E Y² with three standard errors to both sides."""
    square, error = arrays[f"{name}_square"], 3 * arrays[f"{name}_error"]
    axes.plot(time, square, color=series.color, label="measured")
    axes.fill_between(time, np.maximum(square - error, 1e-12), square + error, color=series.color, alpha=0.3, lw=0)
