"""The solvable case (Σ_k u_k w_k x − y)²: all u_k u_l − w_k w_l decay by one factor, and all signs of u_k w_k agree.

One step of SGD multiplies every charge by 1 − η²â², â = 2 r x of its sample (theory, "Solvable case"). Along a run

    SDE:       −d log|C_kl|/dt = 2σ² Var(a),                Var(a) = 4(σ_ε² + 2Δ²),
    discrete:  −d log|C_kl|/dt = (E[η²a²] + E[η⁴a⁴]/2)/η,    up to η⁶, a² with its mean in full,

for x ~ N(0, 1), y = x + ε and the gap Δ = Σ_k u_k w_k − 1, which is averaged over the run.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs
from experiments._runs import independent_runs
from noise_equilibrium import plots
from noise_equilibrium.models.rank_one import Params, init, loss, symmetry

WIDTH = 8
NOISE = 0.5  # σ_ε
RATE = 0.005
RECORDS = 1000
WATCHED = 500  # the steps of the exact identity, one by one


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: independent starts, each with one run of SGD and one of GD.
        time: η × steps; the charges decay at about σ_ε²·2η per unit of time at the minimum.
    """

    seeds: int = 16
    time: float = 2400.0


FULL = Preset()
QUICK = Preset(time=1600.0)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    with jax.enable_x64(True):
        start_key, noise_key = jax.random.split(jax.random.key(seed))
        starts = jax.vmap(lambda key: init(key, WIDTH))(jax.random.split(start_key, preset.seeds))
        starts = jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.float64), starts)
        keys = jax.random.split(noise_key, preset.seeds)
        steps = RECORDS * round(preset.time / RATE / RECORDS)
        observe = {"charge": symmetry.charge, "coherence": coherence, "gap": gap}
        sgd, gd = (
            independent_runs(ne.Problem(loss, data), dynamics, starts, keys, steps, observe, records=RECORDS)
            for data, dynamics in ((ne.Stream(sample), ne.SGD(RATE, 1)), (exact_samples(), ne.GD(RATE)))
        )
        identity = identity_error(starts, keys)
    arrays = {"time": np.asarray(sgd.time[0]), "identity": np.array(identity)}
    for name, runs in (("sgd", sgd), ("gd", gd)):
        arrays |= {f"{name}_{what}": np.asarray(values) for what, values in runs.observed.items()}
    arrays |= rates(arrays)
    return _metrics(arrays), arrays, draw(arrays)


def sample(key: Array) -> tuple[Array, Array]:
    """One sample: x ~ N(0, 1) and y = x + ε."""
    x, noise = jax.random.normal(key, (2,), jnp.float64)
    return x, x + NOISE * noise


def gap(params: Params) -> Array:
    """Δ = Σ_k u_k w_k − 1."""
    return jnp.vdot(params.up, params.down) - 1


def coherence(params: Params) -> Array:
    """|Σ_k u_k w_k| / Σ_k |u_k w_k|: 1 if all neurons have one sign."""
    return jnp.abs(jnp.vdot(params.up, params.down)) / jnp.sum(jnp.abs(params.up * params.down))


def exact_samples() -> tuple[Array, Array]:
    """Samples with the moments of the population up to the fourth, for gradient descent."""
    x, y = ne.data.LinearTeacher(np.eye(1), np.eye(1), NOISE**2 * np.eye(1)).noise_matched()
    return x[:, 0], y[:, 0]


@jax.jit
def identity_error(starts: Params, keys: Array) -> Array:
    """The largest |C_kl' − (1 − η²â²) C_kl| of single steps, relative to ‖u‖² + ‖w‖²; â is read off the step itself."""
    problem = ne.Problem(loss, ne.Stream(sample))

    def one(start: Params, key: Array) -> Array:
        observe = {"params": lambda params: params}
        path = ne.simulate(problem, ne.SGD(RATE, 1), start, WATCHED, key=key, observe=observe).observed["params"]
        before, after = (
            jax.tree_util.tree_map(lambda leaf, cut=cut: leaf[cut], path) for cut in (np.s_[:-1], np.s_[1:])
        )
        size = jnp.sum(before.down**2, axis=1)
        factor = jnp.sum((before.up - after.up) * before.down, axis=1) / (RATE * size)
        charges = [jax.vmap(symmetry.charge)(params) for params in (before, after)]
        error = charges[1] - (1 - (RATE * factor) ** 2)[:, None, None] * charges[0]
        return jnp.max(jnp.abs(error) / (size + jnp.sum(before.up**2, axis=1))[:, None, None])

    return jnp.max(jax.vmap(one)(starts, keys))


def rates(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For every seed the rate of decay of all charges until they have fallen by e⁵, and the two predictions of it."""
    sizes = np.linalg.norm(arrays["sgd_charge"], axis=(2, 3))
    found: dict[str, list[float]] = {"measured": [], "sde": [], "discrete": [], "mean_square": []}
    for size, gaps in zip(sizes, arrays["sgd_gap"], strict=True):
        # From the first record on: the loss settles before it, much faster than the records can follow.
        end = int(np.argmax(size < size[1] * np.exp(-5))) or len(size) - 1
        second, fourth = (np.mean(gaps[1 : end + 1] ** power) for power in (2, 4))
        noise = NOISE**2
        square = 4 * (3 * second + noise)  # E a², a = 2x(Δx + ε)
        square_of_square = 16 * (105 * fourth + 90 * second * noise + 9 * noise**2)
        found["measured"].append(float(np.log(size[1] / size[end]) / (arrays["time"][end] - arrays["time"][1])))
        found["sde"].append(float(ne.exact.sign_alignment_rate(RATE / 2, 1.0, noise, second**0.5)))
        found["mean_square"].append(square / (4 * (noise + 2 * second)))
        found["discrete"].append(RATE * square + RATE**3 * square_of_square / 2)
    return {f"rate_{name}": np.array(values) for name, values in found.items()}


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    settled = RECORDS // 10  # GD is at its minimum by then
    ratio = {name: arrays["rate_measured"] / arrays[f"rate_{name}"] for name in ("sde", "discrete")}
    mean_square = arrays["rate_mean_square"]  # E a²/Var(a)
    # Every entry of the charge has decayed by one factor.
    first, later = arrays["sgd_charge"][:, 0], arrays["sgd_charge"][:, RECORDS // 10]
    shares = later / first
    spread = float(np.max(np.abs(shares / np.median(shares, axis=(1, 2), keepdims=True) - 1)))
    held = arrays["gd_coherence"][:, settled]
    return [
        Metric("C_kl' = (1 − η²â²) C_kl for every step and (k, l), relative", 0, float(arrays["identity"]), high=1e-12),
        Metric("spread of C_kl(t)/C_kl(0) over (k, l) after a tenth of the run", 0, spread, high=1e-9),
        # The SDE has Var(a) where a step has E a², (E a)² = 4Δ² more, and the gap of SGD is of order √η. What is left,
        # η²E a⁴/2 of the discrete rate, is 18 η²σ_ε² of it, far below η.
        of_runs("rate of decay over 2σ²Var(a) of the SDE", float(mean_square.mean()), ratio["sde"], bias=RATE),
        of_runs("rate of decay over the discrete rate", 1, ratio["discrete"], bias=RATE),
        Metric("sign coherence at the end of SGD, least", 1, float(arrays["sgd_coherence"][:, -1].min()), low=0.9999),
        Metric(
            "change of the sign coherence under GD, largest",
            0,
            float(np.abs(arrays["gd_coherence"][:, -1] - held).max()),
            high=1e-9,
        ),
        Metric("sign coherence at the end of GD, median", None, float(np.median(held)), high=0.95),
    ]


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """The charges of all runs against theory, and the coherence of the signs."""
    time = arrays["time"]
    sizes = {name: np.linalg.norm(arrays[f"{name}_charge"], axis=(2, 3)) for name in ("sgd", "gd")}
    with plots.figure(8, 3.3, columns=2) as (drawing, (left, right)):
        axes = left.subplots()
        for name, series in (("sgd", plots.SGD), ("gd", plots.GD)):
            for row, size in enumerate(sizes[name]):
                label = series.label if row == 0 else None
                axes.semilogy(time, size / size[0], color=series.color, ls=series.line, lw=0.9, label=label)
        rate = np.median(arrays["rate_discrete"])
        shown = rate * time < 12
        plots.theory(axes, time[shown], np.exp(-rate * time[shown]), "median predicted rate")
        axes.set(xlabel="time $\\eta\\,\\times$ steps", ylabel="$\\|C(t)\\|\\,/\\,\\|C(0)\\|$", ylim=(1e-6, 3))
        axes.set_title("all charges decay as one")
        axes.legend(loc="center right")

        axes = right.subplots()
        for name, series in (("sgd", plots.SGD), ("gd", plots.GD)):
            for row, values in enumerate(arrays[f"{name}_coherence"]):
                label = series.label if row == 0 else None
                axes.plot(time, values, color=series.color, ls=series.line, lw=0.9, label=label)
        axes.axhline(1, color="black", lw=0.9, ls=":")
        axes.set(xlabel="time $\\eta\\,\\times$ steps", ylim=(0, 1.05))
        axes.set(ylabel="$|\\sum_k u_k w_k|\\,/\\,\\sum_k |u_k w_k|$", title="signs of the neurons")
        axes.legend(loc="lower right")
    return drawing
