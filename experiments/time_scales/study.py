"""A two-layer linear network with isotropic data: the charge relaxes at κ = 4ηdσ_ε²/S, the loss at h = 2(a + b).

Both rates are those of the theory (theory, "Time scales"): κ grows with the noise scale σ² = η/(2S), h does not know
it, and the weakest singular value of the teacher makes h small. Where κ < h the noise equilibrates after the loss has
settled (slow phase), where κ > h before (fast phase).
"""

import itertools
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib import colormaps
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs, within, worst_of
from noise_equilibrium import plots
from noise_equilibrium.models.two_layer_linear import Params, loss, symmetry

TEACHER = np.diag([0.5, 0.4, 0.3, 0.0125])
NOISE = 0.5  # σ_ε²
SHADES = colormaps["viridis"]
TILT = 0.6  # the largest |log P| from the equilibrium to the start
RECORDS = 200
BLOCKS = 16  # of runs: the rate of a single one is too noisy for a logarithm, the scatter of blocks gives its error


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        rates: the learning rates η, at batch size 1.
        seeds: independent runs of SGD for each.
        times: t κ up to which the charge is followed.
    """

    rates: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008, 0.016)
    seeds: int = 128
    times: float = 3.0


FULL = Preset()
QUICK = Preset(rates=(0.001, 0.004, 0.016), seeds=64)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    d = len(TEACHER)
    with jax.enable_x64(True):
        problem = ne.Problem(loss, independent_samples(d))
        root = np.sqrt(TEACHER)
        balanced = Params(jnp.asarray(root), jnp.asarray(root))
        there = ne.find_equilibrium(problem, balanced, symmetry, preset.rates[0] / 2).params
        draw = np.random.default_rng(seed)
        tilt = draw.normal(size=(d, d))
        # As far from the equilibrium for every seed: the bias of SGD grows with the curvature out there.
        start = symmetry.act(there, jnp.asarray(TILT * (tilt + tilt.T) / np.linalg.norm(tilt + tilt.T, 2)))
        scales = [ne.time_scales(problem, there, symmetry, ne.SDE(rate, 1)) for rate in preset.rates]
        kappa, h = np.array([1 / float(s.equi) for s in scales]), 1 / float(scales[0].erm)
        curves, errors, predicted, blocks = [], [], [], []
        for place, rate in enumerate(tqdm(preset.rates)):
            steps = RECORDS * max(1, round(preset.times / kappa[place] / rate / RECORDS))
            times = jnp.arange(RECORDS + 1) * (rate * steps / RECORDS)
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), place), preset.seeds)
            overlaps = np.asarray(charge_overlaps(problem, rate, start, keys, steps))
            curves.append(overlaps.mean(0))
            blocks.append(overlaps.reshape(BLOCKS, -1, RECORDS + 1).mean(1))
            errors.append(overlaps.std(0, ddof=1) / preset.seeds**0.5)
            flow = ne.orbit_flow(problem, start, symmetry, ne.SDE(rate, 1), times).charge
            predicted.append(np.asarray(jnp.einsum("tij,ij->t", flow, flow[0]) / jnp.sum(flow[0] ** 2)))
        settling = loss_rate(problem, there)
    grid = np.linspace(0, preset.times, RECORDS + 1)
    measured = np.array([_rate(grid, curve) for curve in curves]) * kappa
    scatter = np.array([[_rate(grid, curve) for curve in of] for of in blocks]) * kappa[:, None]
    arrays = {
        "noise_scale": np.array(preset.rates) / 2,
        "kappa": kappa,
        "kappa_measured": measured,
        "kappa_blocks": scatter,
        "h": np.array(h),
        "h_measured": np.array(settling),
        "kappa_time": grid,
        "overlap": np.array(curves),
        "overlap_error": np.array(errors),
        "overlap_predicted": np.array(predicted),
    }
    return _metrics(preset, arrays), arrays, draw_figure(arrays)


def independent_samples(d: int) -> tuple[Array, Array]:
    """Every pair of x and ε from the ± columns of √d·I: independent, with Σ_x = I and Σ_ε = NOISE·I exactly."""
    columns = np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    x, noise = (np.array(part) for part in zip(*itertools.product(columns, columns), strict=True))
    return jnp.asarray(x), jnp.asarray(x @ TEACHER.T + NOISE**0.5 * noise)


@eqx.filter_jit
def charge_overlaps(problem: ne.Problem, rate: float | Array, start: Params, keys: Array, steps: int) -> Array:
    """⟨Q(t), Q(0)⟩/‖Q(0)‖² of every run."""
    before = symmetry.charge(start)

    def overlap(params: Params) -> Array:
        return jnp.sum(symmetry.charge(params) * before) / jnp.sum(before**2)

    def one(key: Array) -> Array:
        every = steps // RECORDS
        return ne.simulate(
            problem, ne.SGD(rate, 1), start, steps, key=key, observe={"q": overlap}, every=every
        ).observed["q"]

    return jax.vmap(one)(keys)


def loss_rate(problem: ne.Problem, there: Params) -> float:
    """The rate at which gradient descent comes back along the softest direction across the orbit."""
    theta, unflatten = ne.flatten(there)
    values, vectors = jnp.linalg.eigh(jax.hessian(lambda theta: problem.risk(unflatten(theta)))(theta))
    soft = vectors[:, jnp.argmax(values > 1e-6 * values[-1])]
    rate, steps = 0.01, 1000
    start = unflatten(theta + 1e-4 * soft)

    def along(params: Params) -> Array:
        return jnp.vdot(ne.flatten(params)[0] - theta, soft)

    run = ne.simulate(problem, ne.GD(rate), start, steps, observe={"along": along}, every=steps // 100)
    return -float(np.polyfit(np.asarray(run.time), np.log(np.abs(np.asarray(run.observed["along"]))), 1)[0])


def _rate(time: np.ndarray, curve: np.ndarray) -> float:
    inside = curve > 0.15
    return -float(np.polyfit(time[inside], np.log(curve[inside]), 1)[0])


def _metrics(preset: Preset, arrays: dict[str, np.ndarray]) -> list[Metric]:
    kappa, h = arrays["kappa"], float(arrays["h"])
    blocks = arrays["kappa_blocks"] / kappa[:, None]
    ratio, error = arrays["kappa_measured"] / kappa, blocks.std(axis=1, ddof=1) / BLOCKS**0.5
    exact = 4 * np.array(preset.rates) * len(TEACHER) * NOISE
    # Of the stiffest direction; at S = 1 SGD leaves the flow by up to ηh(1 + (d + 1)/S)/2.
    excess = 4 * TEACHER.max() * (len(TEACHER) + 2) / 2
    slow = kappa < h / 2
    rates = [
        within("SGD's rate of the charge over κ, worst η", 1, value, off, bias=excess * rate, runs=BLOCKS)
        for value, off, rate in zip(ratio, error, preset.rates, strict=True)
    ]
    logs = np.log(arrays["noise_scale"])
    slopes = np.array([np.polyfit(logs, np.log(of), 1)[0] for of in arrays["kappa_blocks"].T])
    gaps = [
        # What SGD leaves the flow by, as above; of a curve that is at most 1.
        within(
            "mean charge less orbit_flow, κ < h/2, worst time",
            0,
            gap,
            off,
            bias=excess * rate,
            runs=preset.seeds,
        )
        for rate, gap_of, off_of in zip(
            np.array(preset.rates)[slow],
            (arrays["overlap"] - arrays["overlap_predicted"])[slow],
            arrays["overlap_error"][slow],
            strict=True,
        )
        for gap, off in zip(gap_of[1:], off_of[1:], strict=True)
    ]
    phases = []
    for name, row in (("slow", 0), ("fast", len(kappa) - 1)):
        time = 2.0 if name == "slow" else 1.0  # in units of 1/h: most of the loss is gone, or a good part is left
        place = int(np.argmin(np.abs(arrays["kappa_time"] - time * kappa[row] / h)))
        label = f"{name} phase: charge left at t = {time:g}/h, when {np.exp(-2 * time):.2g} of the loss is left"
        values = (
            arrays["overlap_predicted"][row][place],
            arrays["overlap"][row][place],
            arrays["overlap_error"][row][place],
        )
        # A rate that is off by that much of itself, over the time that has passed.
        bias = excess * preset.rates[row] * float(arrays["kappa_time"][place]) * float(values[0])
        phases.append(within(label, *map(float, values), bias=bias, runs=preset.seeds))
    return [
        Metric("κ by relaxation_rates over 4ηdσ²/S, worst η", 1, _worst(kappa / exact), 1 - 1e-9, 1 + 1e-9),
        Metric(
            "h by time_scales over 2(a + b)", 1, h / (4 * TEACHER.min(initial=1, where=TEACHER > 0)), 1 - 1e-9, 1 + 1e-9
        ),
        Metric("rate of GD along the softest direction over h", 1, float(arrays["h_measured"] / h), 0.98, 1.02),
        worst_of(rates),
        of_runs("slope of log rate against log σ²", 1, slopes, bias=0.03),  # 2ηh at the largest over the span
        worst_of(gaps),
        *phases,
    ]


def _worst(ratios: np.ndarray) -> float:
    return float(ratios[np.argmax(np.abs(ratios - 1))])


def draw_figure(arrays: dict[str, np.ndarray]) -> Figure:
    """The charge in its own time, and the two rates against the noise scale."""
    with plots.figure(8, 3.3, columns=2) as (drawing, (left, right)):
        axes = left.subplots()
        count, styles = len(arrays["overlap"]), ("-", (0, (6, 2)), (0, (4, 1.5)), "-.", (0, (2, 1)))
        for row, (curve, error) in enumerate(zip(arrays["overlap"], arrays["overlap_error"], strict=True)):
            shade, style = SHADES(0.15 + 0.7 * row / max(count - 1, 1)), styles[row % len(styles)]
            label = f"SGD, $\\sigma^2$ = {arrays['noise_scale'][row]:g}"
            axes.plot(arrays["kappa_time"], curve, color=shade, ls=style, lw=1.4, label=label)
            axes.fill_between(arrays["kappa_time"], curve - 3 * error, curve + 3 * error, color=shade, alpha=0.15, lw=0)
        plots.theory(axes, arrays["kappa_time"], arrays["overlap_predicted"][0], "flow along the orbit")
        axes.set(
            xlabel="$\\kappa t$",
            ylabel="charge $\\langle Q, Q_0\\rangle/\\|Q_0\\|^2$",
            title="every noise, in its own time",
        )
        axes.legend(loc="upper right")

        axes = right.subplots()
        scale, h = arrays["noise_scale"], float(arrays["h"])
        wide = np.array([scale[0] / 1.6, scale[-1] * 1.6])
        axes.loglog(scale, arrays["kappa_measured"], plots.SGD.marker, color=plots.SGD.color, ms=5, label="charge, SGD")
        axes.loglog(
            wide, arrays["kappa"][0] * wide / scale[0], color="black", lw=0.9, ls=(0, (1, 1)), label="$\\kappa$"
        )
        axes.axhline(float(arrays["h_measured"]), color=plots.GD.color, lw=1.2, label="loss, GD")
        axes.axhline(h, color="black", lw=0.9, ls=(0, (5, 2)), label="$h$")
        crossing = scale[0] * h / arrays["kappa"][0]
        axes.axvline(crossing, color="0.75", lw=0.8)
        low = arrays["kappa"][0] * 0.55
        axes.text(crossing / 1.15, low, "slow phase", ha="right", fontsize=8)
        axes.text(crossing * 1.15, low, "fast phase", ha="left", fontsize=8)
        axes.set(xlim=wide, ylim=(low / 1.2, None), xlabel="noise scale $\\sigma^2$", ylabel="rate")
        axes.set_title("two rates")
        axes.legend(loc="upper left")
    return drawing
