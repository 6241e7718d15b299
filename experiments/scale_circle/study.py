"""Two toys in the plane, ℓ = (x·θ/‖θ‖ − y)² and ℓ = (u w x − y)², under SGD, GD and SGD with weight decay.

The first has the charge ‖θ‖², which only grows; at the minimum Tr Σ = 4σ_ε²/‖θ‖², so (theory, "Scaling in closed form")

    d‖θ‖⁴/dt = 8ησ_ε²/S,    with decay ‖θ*‖⁴ = ησ_ε²/(Sγ(1 − ηγ)),    under GD ‖θ‖² grows by η²Σ‖ḡ‖² ≈ η(L₀ − L_∞).

The second has the charge u² − w², which decays at the rate 2σ² Var(a) = 8σ²σ_ε² on the valley u w = 1 (theory,
"Solvable case"); the measured rate exceeds it by O(η), because SGD spreads around the valley.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric, extrapolated, of_runs
from experiments._runs import independent_runs
from noise_equilibrium import plots
from noise_equilibrium.models import rank_one, scale_invariant

NOISE = 1.0  # σ_ε, of both toys
RATE, BATCH, DECAY = 0.05, 4, 0.002
STEPS, RECORDS = 20_000, 400
SHOWN, STRIDE = 4000, 4  # the first steps, every fourth of them drawn in the plane
WAYS = 5  # how many of them
RESCALING_RATES = (0.02, 0.01, 0.005)
START_UP = 1.5  # u at the start, w = 1/u
DECADES = 3.0  # the charge of the rescaling decays by e³


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of the scale-invariant toy.
        rescaling_seeds: runs of the rescaling, for each learning rate.
    """

    seeds: int = 32
    rescaling_seeds: int = 64


FULL = Preset()
QUICK = Preset(seeds=16, rescaling_seeds=48)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 3)
    with jax.enable_x64(True):
        angles = jax.random.uniform(keys[0], (preset.seeds,), jnp.float64, -np.pi / 2, np.pi / 2)
        starts = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        arrays = circle(starts, jax.random.split(keys[1], preset.seeds))
        for rate, key in zip(RESCALING_RATES, jax.random.split(keys[2], len(RESCALING_RATES)), strict=True):
            time, charge = rescaling(rate, jax.random.split(key, preset.rescaling_seeds))
            arrays |= {f"rescaling_time_{rate}": time, f"rescaling_charge_{rate}": charge}
    return _metrics(arrays), arrays, draw(arrays)


def plane_sample(key: Array) -> tuple[Array, Array]:
    """One sample: x ~ N(0, I₂) and y = x₁ + ε."""
    numbers = jax.random.normal(key, (3,), jnp.float64)
    return numbers[:2], numbers[0] + NOISE * numbers[2]


def line_sample(key: Array) -> tuple[Array, Array]:
    """One sample: x ~ N(0, 1) and y = x + ε."""
    x, noise = jax.random.normal(key, (2,), jnp.float64)
    return x, x + NOISE * noise


def population() -> tuple[Array, Array]:
    """Samples whose risk is that of the population, for gradient descent."""
    x, y = ne.data.LinearTeacher(np.array([[1.0, 0.0]]), np.eye(2), NOISE**2 * np.eye(1)).noise_matched()
    return x, y[:, 0]


def circle(starts: Array, keys: Array) -> dict[str, np.ndarray]:
    """‖θ‖² along runs of SGD, of SGD with weight decay and of GD, and their ways in the plane."""
    sgd, gd = ne.SGD(RATE, BATCH), ne.GD(RATE)
    stream = ne.Stream(plane_sample)
    exact = ne.Problem(scale_invariant.loss, population())
    cases = {
        "sgd": (ne.Problem(scale_invariant.loss, stream), sgd),
        "decay": (ne.Problem(scale_invariant.loss, stream, DECAY), sgd),
        "gd": (exact, gd),
    }
    arrays = {"time": RATE * STEPS / RECORDS * np.arange(RECORDS + 1)}
    for name, (problem, dynamics) in cases.items():
        charge = {"charge": scale_invariant.symmetry.charge}
        runs = independent_runs(problem, dynamics, starts, keys, STEPS, charge, records=RECORDS)
        arrays[f"{name}_charge"] = np.asarray(runs.observed["charge"])
        if name != "decay":
            place = {"theta": lambda theta: theta}
            ways = independent_runs(
                problem, dynamics, starts[:WAYS], keys[:WAYS], SHOWN, place, records=SHOWN // STRIDE
            )
            arrays[f"{name}_path"] = np.asarray(ways.observed["theta"])
    arrays["risk_drop"] = np.asarray(jax.vmap(exact.risk)(starts)) - NOISE**2
    return arrays


def rescaling(rate: float, keys: Array) -> tuple[np.ndarray, np.ndarray]:
    """Times, and u² − w² of every run from one place on the valley u w = 1."""
    problem, sgd = ne.Problem(rank_one.loss, ne.Stream(line_sample)), ne.SGD(rate, 1)
    predicted = float(ne.exact.sign_alignment_rate(sgd.noise_scale, 1.0, NOISE**2))
    steps = 100 * round(DECADES / predicted / rate / 100)
    start = rank_one.Params(jnp.array([START_UP]), jnp.array([1 / START_UP]))

    def charge(params: rank_one.Params) -> Array:
        return rank_one.symmetry.charge(params)[0, 0]

    @jax.jit
    @jax.vmap
    def runs(key: Array) -> Array:
        return ne.simulate(problem, sgd, start, steps, key=key, observe={"q": charge}, every=steps // 100).observed["q"]

    return rate * steps / 100 * np.arange(101), np.asarray(runs(keys))


def slopes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """d‖θ‖⁴/dt of every run of SGD without decay, once its direction has settled."""
    settled = RECORDS // 10
    return np.polyfit(arrays["time"][settled:], (arrays["sgd_charge"][:, settled:] ** 2).T, 1)[0]


def settled_norm() -> float:
    """‖θ*‖⁴ under SGD with weight decay, of the discrete law."""
    return RATE * NOISE**2 / (BATCH * DECAY * (1 - RATE * DECAY))


def decay_ratios(arrays: dict[str, np.ndarray], rate: float) -> np.ndarray:
    """The rate at which u² − w² decays in every run, over 8σ²σ_ε²."""
    time, charge = arrays[f"rescaling_time_{rate}"], arrays[f"rescaling_charge_{rate}"]
    measured = np.log(charge[:, 0] / charge[:, -1]) / time[-1]
    return measured / float(ne.exact.sign_alignment_rate(rate / 2, 1.0, NOISE**2))


def first_order(arrays: dict[str, np.ndarray], rate: float) -> float:
    """3ηH, H = u² + w², in the mean over a run: by how much u² − w² decays faster than at u w = 1.

    A step has E(2x(Δx + ε))² = 4(σ_ε² + 3Δ²), and SGD spreads around the valley with E Δ² = ηHσ_ε²: of Δ a step leaves
    1 − 2ηH, and adds 2ηHσ_ε of noise.
    """
    charge = arrays[f"rescaling_charge_{rate}"]
    return 3 * rate * float(np.sqrt(charge**2 + 4).mean())


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    ratios = slopes(arrays) / (8 * RATE * NOISE**2 / BATCH)
    growth = {name: arrays[f"{name}_charge"][:, -1] - arrays[f"{name}_charge"][:, 0] for name in ("sgd", "gd")}
    settled = (arrays["decay_charge"][:, RECORDS // 2 :] ** 2).mean(axis=1)
    apart = growth["sgd"].mean() / growth["gd"].mean()
    metrics = [
        # ηh with the curvature h = 2/‖θ‖² of the angle, of 0.2 and less once the norm has grown.
        of_runs("SGD: slope of ‖θ‖⁴ over 8ησ_ε²/S", 1, ratios, bias=0.2 * RATE),
        # η Σ‖ḡ‖²/(L₀ − L_∞) = 1 + ηh/2 with h = 2 at ‖θ‖ = 1.
        of_runs("GD: growth of ‖θ‖² over η(L₀ − L_∞)", 1, growth["gd"] / (RATE * arrays["risk_drop"]), bias=2 * RATE),
        Metric("growth of ‖θ‖² under SGD over that under GD, means", None, apart, low=100),
        # ηh, where the norm settles: h = 2/‖θ*‖².
        of_runs(
            "SGD with decay: ‖θ‖⁴ over ησ_ε²/(Sγ(1 − ηγ))",
            1,
            settled / settled_norm(),
            bias=RATE * 2 / settled_norm() ** 0.5,
        ),
    ]
    for rate in RESCALING_RATES:
        name = f"rescaling, η = {rate}: decay rate of u² − w² over 8σ²σ_ε²"
        first = first_order(arrays, rate)  # its square is of the order that is left out
        metrics.append(of_runs(name, 1 + first, decay_ratios(arrays, rate), bias=first**2))
    pair = [decay_ratios(arrays, rate) for rate in RESCALING_RATES[1:]]
    left = first_order(arrays, RESCALING_RATES[1]) ** 2 / 2
    metrics.append(extrapolated("rescaling, η → 0: the same", 1, *pair, bias=left))
    return metrics


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Ways in the plane over the loss; ‖θ‖⁴ against time; the charge of the rescaling against time."""
    with plots.figure(11.5, 3.6, columns=3) as (drawing, (left, middle, right)):
        _draw_plane(left.subplots(), arrays)

        axes, time = middle.subplots(), arrays["time"]
        decayed = plots.Series(f"SGD, $\\gamma = {DECAY}$", plots.SDE.color, plots.SDE.line)
        for name, series in (("sgd", plots.SGD), ("decay", decayed), ("gd", plots.GD)):
            plots.runs(axes, time, arrays[f"{name}_charge"] ** 2, series)
        noise_scale, noise = RATE / (2 * BATCH), 4 * NOISE**2
        for decay in (0.0, DECAY):
            predicted = ne.exact.scale_invariant_norm(1.0, noise, noise_scale, time, decay) ** 4
            plots.theory(axes, time, np.asarray(predicted), None if decay else "theory")
        axes.set(xlabel="time $\\eta\\,\\times$ steps", ylabel="$\\|\\theta\\|^4$", title="scale invariance: outwards")
        axes.legend(loc="upper left")

        axes = right.subplots()
        looks = (("#0072B2", "-"), ("#4B9FD1", (0, (4, 1.5))), ("#003A5C", "-."))
        for rate, (color, line) in zip(RESCALING_RATES, looks, strict=True):
            scaled = 4 * rate * NOISE**2 * arrays[f"rescaling_time_{rate}"]  # 8σ²σ_ε²t
            charge = arrays[f"rescaling_charge_{rate}"]
            plots.runs(axes, scaled, charge / charge[:, :1], plots.Series(f"SGD, $\\eta = {rate}$", color, line))
        grid = np.linspace(0, DECADES, 50)
        plots.theory(axes, grid, np.exp(-grid), "$e^{-8\\sigma^2\\sigma_\\epsilon^2 t}$")
        axes.set(xlabel="$8\\sigma^2\\sigma_\\epsilon^2\\,t$", ylabel="$(u^2-w^2)$ / its start", yscale="log")
        axes.set_title("rescaling: to balance")
        axes.legend(loc="lower left")
    return drawing


def _draw_plane(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    """The ways of a few runs over the loss, which knows only the angle."""
    low, high, side = -0.9, 2.7, 1.5
    across, along = np.meshgrid(np.linspace(low, high, 400), np.linspace(-side, side, 400))
    risk = NOISE**2 + 2 * (1 - across / np.hypot(across, along))
    axes.imshow(risk, extent=(low, high, -side, side), origin="lower", cmap="Greys", vmax=8, aspect="equal")
    for name, series in (("sgd", plots.SGD), ("gd", plots.GD)):
        for row, path in enumerate(arrays[f"{name}_path"]):
            label = series.label if row == 0 else None
            axes.plot(*path.T, color=series.color, ls=series.line, lw=0.8 if name == "sgd" else 1.8, label=label)
    axes.plot(*arrays["sgd_path"][:, 0].T, "o", color="black", ms=4, ls="none", label="start", zorder=6)
    plots.theory(axes, np.array([0, high]), np.zeros(2), "minima")
    axes.set(xlabel="$\\theta_1$", ylabel="$\\theta_2$", xlim=(low, high), ylim=(-side, side))
    axes.set_title(f"the first {SHOWN} steps over the loss (dark: high)")
    axes.legend(loc="upper right", ncols=2)
