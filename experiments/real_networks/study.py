"""Networks as people train them, on real data: where the law of the charge has them, and how to average it.

    dense    64–32–32–10, ReLU, softmax loss, all digits, weight decay: the charge of every neuron of both layers.
    momentum the same with a heavy ball of β = 0.9 and the same η/(1−β).

The noise of these networks comes in bursts: most steps have little of it, a few, after a batch that threw the network
off, ten times the mean and more, and after some ten steps it is forgotten. The charge takes 1/(4ηγ) = 5000 steps and
sees their mean. The law is linear in the noise, so the mean over time of Eq. (9) in discrete time is exact,

    ω mean C + ΔC/steps = mean gain,    see `experiments.real_networks.along`,

but the equilibrium of the moment is not linear in the noise: in a burst decay is nothing beside it, and it stops at
balanced noise however large that is. The mean of equilibria is lower than the equilibrium of the mean noise, and needs
thousands of records; the equilibrium at one end point says little.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs, within
from experiments._networks import WIDTHS, dense_loss, dense_start, digits
from experiments.real_networks.along import (
    Means,
    damping,
    follow,
    half,
    path,
    residuals,
    watch,
    watch_momentum,
)
from experiments.real_networks.figure import draw
from noise_equilibrium.models import deep_relu

RATE, BATCH, DECAY, BETA = 0.1, 8, 5e-4, 0.9
LAYERS = {"first layer": slice(0, WIDTHS[0]), "second layer": slice(WIDTHS[0], sum(WIDTHS))}
BLOCK = 1000  # steps


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        runs: of every kind, each from its own initialisation.
        blocks: of BLOCK steps of SGD on the dense network; half of them count as its end.
        every: steps between records.
        momentum_blocks: the same of the heavy ball.
    """

    runs: int = 2
    blocks: int = 1000
    every: int = 20
    momentum_blocks: int = 400


FULL = Preset()
QUICK = Preset(blocks=60, every=10, momentum_blocks=50)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 4)
    arrays: dict[str, np.ndarray] = {}
    with tqdm(total=preset.blocks + preset.momentum_blocks, disable=None) as bar:
        for name, blocks in (("dense", preset.blocks), ("momentum", preset.momentum_blocks)):
            means = dense(name, preset, blocks, (keys[0], keys[1]), bar)
            arrays |= {f"{name}_{what}": values for what, values in means.items()}
    for name in ("dense", "momentum"):
        arrays |= {f"{name}_mean_{what}": values for what, values in late_means(arrays, name).items()}
    return _metrics(arrays), arrays, draw(arrays, LAYERS, BLOCK)


def dynamics_of(name: str) -> ne.SGD | ne.Momentum:
    """SGD, or a heavy ball of the same η/(1−β)."""
    return ne.SGD(RATE, BATCH) if name == "dense" else ne.Momentum(RATE * (1 - BETA), BETA, BATCH)


def dense(name: str, preset: Preset, blocks: int, keys: tuple[Array, Array], bar: tqdm) -> Means:
    """Charges and gains of the dense network, block by block."""
    problem, symmetries, dynamics = ne.Problem(dense_loss, digits(), DECAY), deep_relu.symmetries(3), dynamics_of(name)
    watched = watch_momentum if isinstance(dynamics, ne.Momentum) else watch
    means, _ = follow(
        problem,
        dynamics,
        watched(problem, dynamics, symmetries),  # pyright: ignore[reportArgumentType]
        jax.vmap(dense_start)(jax.random.split(keys[0], preset.runs)),
        jax.random.split(keys[1], preset.runs),
        blocks=blocks,
        records=BLOCK // preset.every,
        every=preset.every,
        bar=bar,
    )
    omega = damping(problem, dynamics)
    if name == "dense":
        means["path"] = path(means, omega, BLOCK)
    return {**means, "omega": np.array(omega)}


def means_of(arrays: dict[str, np.ndarray], name: str, of: slice) -> tuple[Means, float]:
    """Charges of one layer, and ω."""
    found = {what.removeprefix(f"{name}_"): values for what, values in arrays.items() if what.startswith(f"{name}_")}
    omega = float(found.pop("omega"))
    return {what: values[..., of] for what, values in found.items() if not what.startswith("mean_")}, omega


def law(means: Means, omega: float, gain: str = "gain") -> tuple[np.ndarray, np.ndarray]:
    """Mean charges by the law, (runs, charges), and what is left of every block, (runs, blocks, charges)."""
    left = residuals(means, omega, BLOCK, gain)
    return means["charge"].mean(axis=1) - left.mean(axis=1), left


def late_means(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Mean charges of the late half of each run, beside what each law has, and the mean equilibria."""
    means, omega = means_of(arrays, name, slice(None))
    late = half(means, late=True)
    found = {"charge": late["charge"].mean(axis=1), "law": law(late, omega)[0]}
    if name == "dense":
        return {**found, "targets": late["target"].mean(axis=1)}
    return {**found, "law_slow": law(late, omega, "gain_slow")[0], "law_sgd": law(late, omega, "gain_sgd")[0]}


def slopes(predicted: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Of measured against predicted charges, one number for each block, whose mean is that of all charges and runs.

    Martingale differences: blocks are as good as independent runs, and more of them.
    """
    return 1 + len(left) * np.einsum("rbc,rc->rb", left, predicted) / np.sum(predicted**2)


def distance(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The relative root-mean-square distance of each run."""
    return np.linalg.norm(measured - predicted, axis=-1) / np.linalg.norm(predicted, axis=-1)


def correlation(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Over charges, of the run in which it is least."""
    return min(float(np.corrcoef(*pair)[0, 1]) for pair in zip(measured, predicted, strict=True))


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for layer, of in LAYERS.items():
        metrics += _dense_metrics(f"ReLU network, {layer}:", *means_of(arrays, "dense", of))
    for layer, of in LAYERS.items():
        metrics += _momentum_metrics(f"momentum, {layer}:", *means_of(arrays, "momentum", of))
    return metrics


def _law_metrics(title: str, late: Means, omega: float) -> list[Metric]:
    """Of the mean charges of the second half of a run against the law."""
    predicted, left = law(late, omega)
    measured = late["charge"].mean(axis=1)
    expected = np.sqrt(np.sum(left.var(axis=1, ddof=1), axis=-1) / left.shape[1]) / np.linalg.norm(predicted, axis=-1)
    off = distance(measured, predicted)
    worst = int(np.argmax(off / expected))
    return [
        of_runs(f"{title} mean charges over those of the law, late half", 1, slopes(predicted, left)),
        # Neurons share their batches: in the worst case all err together, by four of their errors at most.
        Metric(
            f"{title} relative rms distance of the two, worst run",
            0,
            float(off[worst]),
            high=4 * float(expected[worst]),
            error=float(expected[worst]),
        ),
        Metric(f"{title} their correlation, worst run", 1, correlation(measured, predicted), low=0.98),
    ]


def _dense_metrics(title: str, means: Means, omega: float) -> list[Metric]:
    early, late = half(means, late=False), half(means, late=True)
    measured, targets = late["charge"].mean(axis=1), late["target"].mean(axis=1)
    end, end_target = late["end_charge"][:, -1], late["end_target"][:, -1]
    predicted, left = law(early, omega)
    forgotten = (1 - omega) ** (BLOCK * np.arange(means["gain"].shape[1])[::-1])
    at_end, everything = means["path"][:, -1], residuals(means, omega, BLOCK) * omega * BLOCK
    projected = np.einsum("rbc,rc->rb", everything, at_end) / np.sum(at_end**2)
    error = float(np.sqrt(np.sum((projected - projected.mean()) ** 2 * forgotten**2)))
    sparse = late["end_target"].mean(axis=1)
    return [
        Metric(f"{title} κt of the run, slowest neuron", None, float(means["rate"].mean(axis=1).min() * _steps(means))),
        of_runs(f"{title} mean charges over those of the law, early half", 1, slopes(predicted, left)),
        *_law_metrics(title, late, omega),
        within(
            f"{title} charges at the end over those that the law has from the start",
            1,
            float(np.sum(end * at_end) / np.sum(at_end**2)),
            error,
            # Blocks that are not forgotten yet: 1/(ω BLOCK) of each run.
            runs=round(len(end) * min(means["gain"].shape[1], 1 / (omega * BLOCK))),
        ),
        Metric(
            f"{title} correlation of mean charges and mean equilibria, worst run",
            1,
            correlation(measured, targets),
            low=0.95,
        ),
        Metric(
            f"{title} relative rms distance of the two, mean of runs", None, float(distance(measured, targets).mean())
        ),
        Metric(
            f"{title} the same with one equilibrium for each block of {BLOCK} steps",
            None,
            float(distance(measured, sparse).mean()),
        ),
        Metric(f"{title} the same at one end point", None, float(distance(end, end_target).mean())),
        Metric(
            f"{title} mean equilibria over mean charges", None, float(np.sum(targets * measured) / np.sum(measured**2))
        ),
    ]


def _momentum_metrics(title: str, means: Means, omega: float) -> list[Metric]:
    late = half(means, late=True)
    measured = late["charge"].mean(axis=1)
    slow, sgd = (law(late, omega, gain)[0] for gain in ("gain_slow", "gain_sgd"))

    def over(predicted: np.ndarray) -> float:
        return float(np.sum(predicted * measured) / np.sum(measured**2))

    return [
        *_law_metrics(title, late, omega),
        Metric(f"{title} law for a slow mean gradient over mean charges", None, over(slow)),
        Metric(f"{title} law of SGD at η/(1−β) over mean charges", None, over(sgd)),
    ]


def _steps(means: Means) -> int:
    return means["gain"].shape[1] * BLOCK
