"""Net-A and Net-B (`models.normalized`) on linear regression: SGD, GD and SGD with weight decay.

Both are invariant under θ → (1+ρ)θ, so (Eq. 24)

    d‖θ‖²/dt = −4γ‖θ‖² + 2σ² Tr Σ(θ),    and in discrete time ‖θ‖² grows by η²(Tr Σ/S + ‖ḡ‖²) per step.

So do the charges of every neuron: ‖U_j‖² + ‖W_j‖² of Net-A, ‖U_j‖² and ‖W_j‖² of Net-B. With weight decay the norm
settles at ‖θ*‖⁴ = ηK/(4γS), K = ‖θ‖²Tr Σ, or at E‖θ‖² = E[η²(Tr Σ/S + ‖ḡ‖²)]/(1 − (1 − 2ηγ)²), an identity.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs, within, worst_of
from experiments._runs import dense_start, integral
from experiments.norm_growth.figure import draw
from noise_equilibrium.models import normalized

SIZE, WIDTH, SAMPLES, NOISE = 5, 10, 500, 0.5
RATE, STEPS, DECAY = 0.01, 20_000, 2e-3
NETS = {"Net-A": normalized.net_a, "Net-B": normalized.net_b}
CONTROLS = 2  # runs of GD, whose every step sees all samples
GD_MARKS = {"Net-A": 0.10, "Net-B": 0.03}
LATE = 0.3  # of the run is left out where rates are compared
SETTLED = 48  # the last records, about half of the run


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs of each network.
        settling: steps of the runs with weight decay, in units of those without.
    """

    seeds: int = 12
    settling: int = 4


FULL = Preset()
QUICK = Preset(seeds=6)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 4)
    with jax.enable_x64(True):
        data = regression(keys[0])
        starts = jax.vmap(lambda key: normalized.init(key, SIZE, WIDTH, SIZE))(jax.random.split(keys[1], preset.seeds))
        starts = jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.float64), starts)
        arrays: dict[str, np.ndarray] = {}
        for name, net in tqdm(NETS.items(), disable=None):
            grown = ne.Problem(net.loss, data)
            cases: dict[str, tuple[ne.Problem, Any, int, Array]] = {
                "sgd": (grown, ne.SGD(RATE, 1), STEPS, keys[2]),
                "gd": (grown, ne.GD(RATE), STEPS, keys[2]),
                "gd_half": (grown, ne.GD(RATE / 2), 2 * STEPS, keys[2]),
                "decay": (ne.Problem(net.loss, data, DECAY), ne.SGD(RATE, 1), preset.settling * STEPS, keys[3]),
            }
            for case, (problem, dynamics, steps, key) in cases.items():
                own, number = (_first(starts), CONTROLS) if case.startswith("gd") else (starts, preset.seeds)
                found = descend(net, problem, dynamics, own, jax.random.split(key, number), steps)
                arrays |= {f"{name}_{case}_{what}": np.asarray(value) for what, value in found.items()}
            arrays |= expectations(arrays, name)
    return _metrics(arrays), arrays, draw(arrays, DECAY)


def _first(starts: Any) -> Any:
    return jax.tree_util.tree_map(lambda leaf: leaf[:CONTROLS], starts)


def regression(key: Array) -> tuple[Array, Array]:
    """N samples of x ~ N(0, I), y = Ax + ½ noise, with a random A."""
    teacher, x, noise = (
        jax.random.normal(key, shape, jnp.float64)
        for key, shape in zip(jax.random.split(key, 3), ((SIZE, SIZE), (SAMPLES, SIZE), (SAMPLES, SIZE)), strict=True)
    )
    return x, x @ teacher.T / SIZE**0.5 + NOISE * noise


def descend(
    net: normalized.NetA | normalized.NetB, problem: ne.Problem, dynamics: Any, starts: Any, keys: Array, steps: int
) -> dict[str, Array]:
    """Charges, and the rates of theory, of every run: records are dense at the start, where Tr Σ changes fast."""
    everything = net.symmetries[0]
    # Of every neuron: the charge of both sides in Net-A, those of U and of W one after another in Net-B.
    neurons = [symmetry for symmetry in net.symmetries if symmetry.algebra == "diagonal"]
    data = ne.Problem(problem.loss, problem.data)  # the noise is that of the data loss

    def observe(params: normalized.Params) -> dict[str, Array]:
        moments, *per_neuron = ne.noise_moments(data, params, [everything, *neurons])
        return {
            "charge": everything.charge(params),
            "up": jnp.sum(params.up**2),
            "down": jnp.sum(params.down**2),
            "trace": moments.noise_plus,
            "slope": moments.mean_plus,
            "neurons": jnp.concatenate([one.charge(params) for one in neurons]),
            "neuron_traces": jnp.concatenate([one.noise_plus for one in per_neuron]),
        }

    return dense_start(problem, dynamics, starts, keys, steps, observe)


def expectations(arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """What theory says of one network: the growth at every record, and ‖θ*‖² with weight decay, SDE and discrete."""
    time = arrays[f"{name}_sgd_time"][0]
    late = slice(-SETTLED, None)
    charge, trace, slope = (arrays[f"{name}_decay_{what}"][:, late] for what in ("charge", "trace", "slope"))
    return {  # 2σ² = η/S
        f"{name}_growth": integral(time, RATE * arrays[f"{name}_sgd_trace"]),
        f"{name}_growth_discrete": integral(time, RATE * (arrays[f"{name}_sgd_trace"] + arrays[f"{name}_sgd_slope"])),
        f"{name}_neuron_growth": integral(time, RATE * arrays[f"{name}_sgd_neuron_traces"]),
        f"{name}_rest_sde": np.sqrt(RATE * np.mean(charge * trace, axis=1) / (4 * DECAY)),
        f"{name}_rest_discrete": RATE**2 * np.mean(trace + slope, axis=1) / (1 - (1 - 2 * RATE * DECAY) ** 2),
        f"{name}_rest_measured": np.mean(charge, axis=1),
    }


def growth_ratios(arrays: dict[str, np.ndarray], name: str, charge: str, growth: str) -> np.ndarray:
    """How much a charge grew over the last 70 % of SGD, over what was predicted."""
    time = arrays[f"{name}_sgd_time"][0]
    late = int(np.searchsorted(time, LATE * time[-1]))
    charges, expected = arrays[f"{name}_sgd_{charge}"], arrays[f"{name}_{growth}"]
    return (charges[:, -1] - charges[:, late]) / (expected[:, -1] - expected[:, late])


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for name in NETS:
        rises = {what: np.diff(arrays[f"{name}_sgd_{what}"], axis=1) for what in ("charge", "up", "down")}
        layers = float(min(rises["up"].min(), rises["down"].min()))
        metrics += [
            Metric(f"{name}: least rise of ‖θ‖² between records", None, float(rises["charge"].min()), low=0),
            Metric(f"{name}: least rise of a layer's ‖·‖² between records", None, layers, low=0)
            if name == "Net-B"
            else Metric(f"{name}: least rise of a layer's ‖·‖² between records", None, layers, high=0),
        ]
        # The SDE leaves out the mean gradient, here of order ηh of the noise, h = 2; the discrete law has it.
        ratios = [growth_ratios(arrays, name, "charge", growth) for growth in ("growth", "growth_discrete")]
        neurons = growth_ratios(arrays, name, "neurons", "neuron_growth")
        error = float(np.sqrt(np.mean(neurons.var(axis=0, ddof=1)) / len(neurons)))
        label, runs = f"{name}: the same of every neuron, the worst", 1 + neurons.shape[1] * (len(neurons) - 1)
        metrics += [
            of_runs(f"{name}: d‖θ‖²/dt over 2σ²Tr Σ", 1, ratios[0], bias=2 * RATE),
            of_runs(f"{name}: the same over its discrete value", 1, ratios[1]),
            worst_of([within(label, 1, float(one), error, bias=2 * RATE, runs=runs) for one in neurons.mean(axis=0)]),
        ]
        grown = {
            case: float(np.max(arrays[f"{name}_{case}_charge"][:, -1] / arrays[f"{name}_{case}_charge"][:, 0] - 1))
            for case in ("gd", "gd_half")
        }
        metrics += [
            Metric(f"{name}: growth of ‖θ‖² under GD, largest", 0, grown["gd"], high=GD_MARKS[name]),
            Metric(f"{name}: growth of ‖θ‖² under GD, η halved over η", 0.5, grown["gd_half"] / grown["gd"], 0.3, 0.7),
        ]
        rest = {what: arrays[f"{name}_rest_{what}"] for what in ("measured", "sde", "discrete")}
        metrics += [
            # ‖θ‖⁴ is off by ηh, and so ‖θ‖ by a quarter of it.
            of_runs(
                f"{name}, γ = {DECAY:g}: ‖θ‖ over (ηK/(4γS))^¼",
                1,
                (rest["measured"] / rest["sde"]) ** 0.5,
                bias=2 * RATE / 4,
            ),
            of_runs(
                f"{name}, γ = {DECAY:g}: ‖θ‖ over its discrete value", 1, (rest["measured"] / rest["discrete"]) ** 0.5
            ),
        ]
    return metrics
