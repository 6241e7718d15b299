"""Where SGD settles on the orbit of a two-layer linear network, how it turns there, and its paths along other valleys.

Theorem 5.2 is a zero of the Noether flow. With anisotropic label noise SGD does not stay there, also as η → 0: its
drift along the valley has an antisymmetric part, and it settles where the symmetric part B vanishes, turning by Ω
(theory, "Where SGD settles"). All predictions come from H and Σ; every measurement is SGD with S = 1 at η and η/2,
extrapolated to 0.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments._extrapolate import limit
from experiments._metrics import Metric, within
from experiments.valley import heads, networks
from experiments.valley.figure import draw
from experiments.valley.valleys import RECORDS, drift_path, sgd_paths, valleys

SPREADS = (4.0, 16.0, 64.0, 256.0)
TASKS = 6  # of each spread, for the prediction alone
TURNING_TIME, ENDS_TIME = 6.0, 8.0  # in units of 1/(2σ²); at wide spreads the slowest relaxation takes more


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        turning: the larger learning rate of the runs that turn.
        ends: of those that settle.
        seeds: independent runs of each kind and learning rate.
        heads: runs of the decoder at each learning rate; without any its turns are predicted and no more.
    """

    turning: float = 0.01
    ends: float = 0.008
    seeds: int = 128
    heads: int = 1024


FULL = Preset()
QUICK = Preset(turning=0.016, ends=0.012, seeds=64, heads=0)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), 4)
        parts = turning, settling, paths, turning_heads
        found = [part(preset, seed, key) for part, key in zip(parts, tqdm(keys), strict=True)]
    metrics = [metric for some, _ in found for metric in some]
    arrays = {name: values for _, some in found for name, values in some.items()}
    return metrics, arrays, draw(arrays)


def turning(preset: Preset, _: int, key: jax.Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """The angle of the hidden axis against time."""
    metrics, arrays = [], {}
    for place, (name, anisotropic) in enumerate((("anisotropic", True), ("isotropic", False))):
        one = networks.turning_cell(anisotropic)
        seen = []
        for halvings in (0, 1):
            some = jax.random.fold_in(key, 2 * place + halvings)
            angle, time = networks.angles(one, preset.turning / 2**halvings, 4 * preset.seeds, TURNING_TIME, some)
            seen.append(angle)
        slopes = limit(*(angle[:, -1] / time[-1] for angle in seen))
        omega = one.turning[0, 1]
        metrics.append(
            within(
                f"turning of the axis per unit of 2σ²t, {name} label noise",
                omega,
                float(slopes.value),
                float(slopes.error),
                bias=slopes.remainder(abs(omega)) if anisotropic else 0.0,  # nothing turns at any order
            )
        )
        arrays |= {f"angle_{name}": seen[1], f"omega_{name}": np.array(omega), "angle_time": time}
    return metrics, arrays


def settling(preset: Preset, seed: int, key: jax.Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """SGD from the noise equilibrium, which it leaves as `valley_drift` says, and from `settle`, where it stays."""
    cells = networks.grid(seed, SPREADS)
    ends = networks.sgd_ends(cells, preset.ends, preset.seeds // 2, ENDS_TIME, key)
    metrics, shares = [], []
    for place, one in enumerate(cells):
        there, rest = (np.asarray(networks.grams(params)) for params in (one.equilibrium, one.rest))
        size = float(np.linalg.norm(there))
        if place < len(cells) - len(SPREADS):
            runs = limit(*np.concatenate([ends[:, place, 0], ends[:, place, 1]], axis=1))
            name = f"{one.name}: distance of SGD's Grams from the noise equilibrium"
            metrics.append(_distance(name, runs.value, there, runs.error, runs.remainder(size), size))
            continue
        shift = networks.relative_shift(one)
        direction = (rest - there) / np.linalg.norm(rest - there) ** 2
        ways = np.array([(networks.drift_end(one, ENDS_TIME) - there) @ direction, 1.0])
        row = [one.spread, shift]
        runs = limit(*ends[:, place, 1])
        # The Grams are what is expanded in η; their remainder, relative to them, is one of the shift.
        bias = runs.remainder(size) / size
        for start, (name, way) in enumerate(zip(("the noise equilibrium", "`settle`"), ways, strict=True)):
            along = limit(*((ends[half, place, start] - there) @ direction for half in (0, 1)))
            metrics.append(
                within(
                    f"{one.name}: shift of the Grams of SGD that started at {name}",
                    shift * way,
                    float(along.value) * shift,
                    float(along.error) * shift,
                    bias=bias,
                )
            )
            row += [way, float(along.value), float(along.error)]
        name = f"{one.name}: distance of SGD's Grams from `settle`"
        metrics.append(_distance(name, runs.value, rest, runs.error, bias * size, size))
        shares.append(row)
    tasks = np.random.default_rng([seed, 2])
    predicted = np.array(
        [[spread, networks.relative_shift(networks.generic(tasks, spread))] for spread in SPREADS for _ in range(TASKS)]
    )
    median = {spread: float(np.median(predicted[predicted[:, 0] == spread, 1])) for spread in SPREADS}
    metrics += [
        Metric(f"predicted shift of the Grams at spread {spread:g}, median of {TASKS} tasks", None, value)
        for spread, value in median.items()
    ]
    return metrics, {"ends": np.array(shares), "predicted_shift": predicted}


def paths(preset: Preset, seed: int, key: jax.Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """SGD along valleys without a symmetry, halfway and at the end."""
    metrics, arrays = [], {}
    for place, (name, valley) in enumerate(valleys(seed).items()):
        path = np.asarray(drift_path(valley.problem, valley.start, valley.time))
        seen = sgd_paths(valley, 4 * preset.seeds, jax.random.fold_in(key, place))
        for record, when in ((RECORDS // 2, "halfway"), (RECORDS, "at the end")):
            ahead = path[record] - path[0]
            length = float(np.linalg.norm(ahead))
            runs = limit(*seen[:, :, record])
            along = limit(*((seen[half, :, record] - path[0]) @ ahead / length**2 for half in (0, 1)))
            bias = along.remainder(1.0)
            metrics.append(
                within(
                    f"{name}: way of SGD over that of `valley_drift`, {when}",
                    1.0,
                    float(along.value),
                    float(along.error),
                    bias=bias,
                )
            )
        left = runs.remainder(length)
        metrics.append(
            _distance(f"{name}: distance of the two ends over the way", runs.value, path[-1], runs.error, left, length)
        )
        look = jax.vmap(valley.view)
        arrays[f"path_{name}"] = np.stack(
            [
                np.linspace(0, valley.time, RECORDS + 1),
                np.asarray(look(jnp.asarray(path))),
                *(np.asarray(look(jnp.asarray(half.mean(axis=0)))) for half in seen),
            ]
        )
    return metrics, arrays


def turning_heads(preset: Preset, seed: int, key: jax.Array) -> tuple[list[Metric], dict[str, np.ndarray]]:
    """Ω of every head of a decoder; in the full preset against `valley_drift` and short runs of SGD."""
    one = heads.trained(seed)
    found = heads.predict(one)
    omega, size = found.omega, float(np.linalg.norm(found.omega))
    metrics = [
        Metric("heads: directions without curvature", found.directions, found.flat, found.directions, found.directions),
        Metric("heads: steepest over softest curvature", None, found.steepest / found.softest),
    ]
    metrics += [
        Metric(
            f"heads: radians that {name} turns in 10⁵ steps of η = {heads.RATE:g}", None, value * heads.RATE**2 * 1e5
        )
        for name, value in zip(one.names, omega, strict=True)
    ]
    arrays = {"heads_names": np.array(one.names), "heads_predicted": omega}
    if preset.heads:
        by_drift, left, far = heads.drift(one, found)
        # Rounding turns the valley by ε h/h₀, h₀ the softest curvature across it, and changes Cov by as much of itself.
        # What is left of the gradient says that the minimum is elsewhere, by ‖∇L_γ‖/h₀.
        rounding = 10 * (float(np.finfo(np.float64).eps) + far) * found.steepest / found.softest
        apart = float(np.linalg.norm(by_drift - omega)) / size
        metrics += [
            Metric("heads: ‖∇L_γ‖/(h‖θ‖) where the decoder was trained to", 0, far, high=1e-10),
            Metric("heads: Ω of `valley_drift` against Tr[R Cov H]", 0, apart, high=rounding),
            Metric("heads: share of `valley_drift` that is no turn", 0, left, high=rounding),
        ]
        seen = [
            heads.turns(one, found, heads.RATE / 2**half, preset.heads, jax.random.fold_in(key, half))
            for half in (0, 1)
        ]
        times = [heads.TIME * heads.RATE / 2**half for half in (0, 1)]  # 2σ²t with S = 1
        speeds = [angles[:, -1] / time for angles, time in zip(seen, times, strict=True)]
        coarse, fine = speeds
        runs = limit(coarse, fine)
        metrics += [
            within(
                f"heads: turning of {name} per unit of 2σ²t",
                float(omega[place]),
                float(runs.value[place]),
                float(runs.error[place]),
                # Ω is a difference, Cov H − H Cov, and that of one head may be small beside what is expanded in η.
                bias=float(2 * runs.first[place] ** 2 / size),
            )
            for place, name in enumerate(one.names)
            if found.alive[place]
        ]
        # The heads' angles scatter differently: weighted by what is known of each.
        weights = np.where(found.alive, omega / np.where(found.alive, fine.var(axis=0), 1), 0)
        along = limit(coarse @ weights / (omega @ weights), fine @ weights / (omega @ weights))
        metrics.append(
            within(
                "heads: turning of all over that predicted",
                1.0,
                float(along.value),
                float(along.error),
                bias=along.remainder(1.0),
            )
        )
        arrays |= {
            "heads_measured": np.stack([runs.value, runs.error]),
            "heads_time": np.linspace(0, times[1], heads.RECORDS + 1),
            "heads_angles": seen[1],
        }
    return metrics, arrays


def _distance(name: str, value: np.ndarray, target: np.ndarray, error: np.ndarray, bias: float, size: float) -> Metric:
    """A vector within four times the norm of its standard errors, and a bias, relative to a size."""
    noise = float(np.linalg.norm(error))
    return Metric(
        name, 0, float(np.linalg.norm(value - target)) / size, high=(4 * noise + bias) / size, error=noise / size
    )
