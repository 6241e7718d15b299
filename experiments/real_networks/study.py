"""Networks as people train them, on real data: where the law of the charge has them, and how to average it.

    dense    64–32–32–10, ReLU, softmax loss, all digits, weight decay: the charge of every neuron of both layers.
    momentum the same with a heavy ball of β = 0.9 and the same η/(1−β).
    filters  two convolutions, each normalised: the scale of every filter is a symmetry, ‖W_c‖² its charge, and noise
             alone makes it grow. Under AdamW the norm rests, and turns, as `rotational_equilibrium` says from afar.
    decoder  attention and ReLU neurons on source files of Python's standard library, byte by byte, with the symmetries
             that `find_symmetries` finds and none declared.

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
from scipy import stats
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, of_runs, within, worst_of
from experiments._networks import CHANNELS, WIDTHS, dense_loss, dense_start, digits
from experiments.real_networks.along import (
    Clock,
    Means,
    damping,
    follow,
    half,
    path,
    residuals,
    watch,
    watch_equilibrium,
    watch_momentum,
)
from experiments.real_networks.figure import draw, short
from experiments.real_networks.others import ADAM_DECAY, ADAM_RATE, LARGER, PROBES, decoder, filters, rotation
from noise_equilibrium.models import deep_relu

RATE, BATCH, DECAY, BETA = 0.1, 8, 5e-4, 0.9
LAYERS = {"first layer": slice(0, WIDTHS[0]), "second layer": slice(WIDTHS[0], sum(WIDTHS))}
FILTER_LAYERS = {"first layer": slice(0, CHANNELS[0]), "second layer": slice(CHANNELS[0], sum(CHANNELS))}
BLOCK = 1000  # steps
OF_CHARGES = ("charge", "gain", "gain_slow", "gain_sgd", "target", "rate", "one_target", "first", "last", "end", "path")
REACHED = 8.0  # κt
FILTER_CLOCK, DECODER_CLOCK = Clock(120, 1, 10, 50), Clock(80, 1, 20, 25)
CLOCKS = {"dense": Clock(0, 50, 4, 5), "momentum": Clock(0, 1, 100, 10)}


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        runs: of every kind, each from its own initialisation.
        blocks: of BLOCK steps of SGD on the dense network; half of them count as its end.
        momentum_blocks: the same of the heavy ball.
        filters: blocks of the convolutional network.
        adam: steps of AdamW over which norms are measured; it is trained three times as long before.
        depth: layers of the decoder.
        windows: samples of its text.
        decoder: blocks of the decoder.
    """

    runs: int = 2
    blocks: int = 1000
    momentum_blocks: int = 400
    filters: Clock = FILTER_CLOCK
    adam: int = 4000
    depth: int = 2
    windows: int = 256
    decoder: Clock = DECODER_CLOCK


FULL = Preset()
QUICK = Preset(
    blocks=40,
    momentum_blocks=30,
    filters=Clock(40, 1, 10, 50),
    adam=2000,
    depth=1,
    windows=192,
    decoder=Clock(24, 1, 10, 50),
)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 5)
    others = jax.random.split(keys[2], 2), jax.random.split(keys[3], 2 + PROBES), jax.random.split(keys[4], 2)
    arrays: dict[str, np.ndarray] = {}
    total = preset.blocks + preset.momentum_blocks + preset.filters.blocks + preset.decoder.blocks
    with tqdm(total=total, disable=None) as bar:
        for name, blocks in (("dense", preset.blocks), ("momentum", preset.momentum_blocks)):
            means = dense(name, preset, blocks, (keys[0], keys[1]), bar)
            arrays |= {f"{name}_{what}": values for what, values in means.items()}
        for name, found in (
            ("filters", filters(preset.filters, others[0], bar)),
            ("adam", rotation(preset.adam, others[1])),
            ("decoder", decoder(preset.depth, preset.windows, preset.decoder, seed, others[2], bar)),
        ):
            arrays |= {f"{name}_{what}": values for what, values in found.items()}
    for name, block in (("dense", BLOCK), ("momentum", BLOCK), ("filters", preset.filters.block)):
        arrays |= {f"{name}_mean_{what}": values for what, values in late_means(arrays, name, block).items()}
    clocks = {"filters": preset.filters.block, "decoder": preset.decoder.block}
    return _metrics(arrays, clocks, preset.depth), arrays, draw(arrays, LAYERS, BLOCK, clocks["decoder"])


def dynamics_of(name: str) -> ne.SGD | ne.Momentum:
    """SGD, or a heavy ball of the same η/(1−β)."""
    return ne.SGD(RATE, BATCH) if name == "dense" else ne.Momentum(RATE * (1 - BETA), BETA, BATCH)


def dense(name: str, preset: Preset, blocks: int, keys: tuple[Array, Array], bar: tqdm) -> Means:
    """Charges and gains of the dense network, block by block."""
    problem, symmetries, dynamics = ne.Problem(dense_loss, digits(), DECAY), deep_relu.symmetries(3), dynamics_of(name)
    if isinstance(dynamics, ne.Momentum):
        seen = (watch_momentum(problem, dynamics, symmetries),)
    else:
        seen = watch(problem, dynamics, symmetries), watch_equilibrium(problem, dynamics, symmetries)
    starts = jax.vmap(dense_start)(jax.random.split(keys[0], preset.runs))
    noise_keys, clock = jax.random.split(keys[1], preset.runs), CLOCKS[name]._replace(blocks=blocks)
    means, _ = follow(problem, dynamics, starts, noise_keys, clock, *seen, bar=bar)
    omega = damping(problem, dynamics)
    if name == "dense":
        means["path"] = path(means, omega, BLOCK)
    return {**means, "omega": np.array(omega)}


def means_of(arrays: dict[str, np.ndarray], name: str, of: slice) -> tuple[Means, float]:
    """Charges of one layer, and ω."""
    found = {what.removeprefix(f"{name}_"): values for what, values in arrays.items() if what.startswith(f"{name}_")}
    return {what: found[what][..., of] for what in OF_CHARGES if what in found}, float(found["omega"])


def law(means: Means, omega: float, gain: str = "gain", block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """Mean charges by the law, (runs, charges), and what is left of every block, (runs, blocks, charges)."""
    left = residuals(means, omega, block, gain)
    return means["charge"].mean(axis=1) - left.mean(axis=1), left


def late_means(arrays: dict[str, np.ndarray], name: str, block: int) -> dict[str, np.ndarray]:
    """Mean charges of the late half of each run, beside what each law has, and the equilibria in the mean.

    Of filters ‖W‖⁴ is what is linear in the noise at the equilibrium: "root" is the square root of its mean.
    """
    means, omega = means_of(arrays, name, slice(None))
    late = half(means, late=True)
    found = {"charge": late["charge"].mean(axis=1), "law": law(late, omega, block=block)[0]}
    if name == "momentum":
        return {**found, "law_slow": law(late, omega, "gain_slow")[0], "law_sgd": law(late, omega, "gain_sgd")[0]}
    return {
        **found,
        "targets": late["target"].mean(axis=1),
        "root": np.sqrt(np.mean(late["target"] ** 2, axis=1)),
    }


def slopes(predicted: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Of measured against predicted charges, one number for each block, whose mean is that of all charges and runs.

    Martingale differences: blocks are as good as independent runs, and more of them.
    """
    return 1 + len(left) * np.einsum("rbc,rc->rb", left, predicted) / np.sum(predicted**2)


def expected_distance(predicted: np.ndarray, left: np.ndarray) -> np.ndarray:
    """What `distance` would be from the scatter of the blocks of each run alone."""
    errors = np.sum(left.var(axis=1, ddof=1), axis=-1) / left.shape[1]
    return np.sqrt(errors) / np.linalg.norm(predicted, axis=-1)


def slope_metric(name: str, predicted: np.ndarray, left: np.ndarray) -> Metric:
    """Of measured against predicted charges; errors in what is predicted lower a slope by their relative square."""
    attenuation = float(np.mean(expected_distance(predicted, left) ** 2))
    return of_runs(name, 1, slopes(predicted, left), bias=attenuation)


def distance(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The relative root-mean-square distance of each run."""
    return np.linalg.norm(measured - predicted, axis=-1) / np.linalg.norm(predicted, axis=-1)


def correlation(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Over charges, of the run in which it is least."""
    return min(float(np.corrcoef(*pair)[0, 1]) for pair in zip(measured, predicted, strict=True))


def correlation_metric(name: str, measured: np.ndarray, predicted: np.ndarray, left: np.ndarray) -> Metric:
    """Of measured and predicted charges within the runs, against what the scatter of the blocks leaves of it.

    Errors that are e of the spread of the charges leave a correlation of √(1 − e²). Their square is a sum over the
    eigenvectors of their covariance, as one of (Tr C)²/Tr C² equal terms would be (Satterthwaite): neurons share their
    batches, and there are two to five in a run.
    """
    measured, predicted = (charges - charges.mean(axis=1, keepdims=True) for charges in (measured, predicted))
    covs, blocks = np.stack([np.cov(run.T) for run in left]), left.shape[1]
    total = float(np.trace(covs, axis1=1, axis2=2).sum())
    error = total / blocks / float(np.sum(predicted**2))
    quantile = stats.f.isf(stats.norm.sf(4), total**2 / np.sum(covs**2), len(left) * (blocks - 1))  # as four errors
    found = np.sum(measured * predicted) / np.linalg.norm(measured) / np.linalg.norm(predicted)
    return Metric(name, 1, float(found), low=float(max(1 - error * quantile, 0) ** 0.5))


def _metrics(arrays: dict[str, np.ndarray], clocks: dict[str, int], depth: int) -> list[Metric]:
    metrics = []
    for layer, of in LAYERS.items():
        metrics += _dense_metrics(f"ReLU network, {layer}:", *means_of(arrays, "dense", of))
    for layer, of in LAYERS.items():
        metrics += _momentum_metrics(f"momentum, {layer}:", *means_of(arrays, "momentum", of))
    for layer, of in FILTER_LAYERS.items():
        metrics += _filter_metrics(f"filters, {layer}:", *means_of(arrays, "filters", of), clocks["filters"])
    return [*metrics, *_adam_metrics(arrays), *_decoder_metrics(arrays, clocks["decoder"], depth)]


def _law_metrics(title: str, late: Means, omega: float) -> list[Metric]:
    """Of the mean charges of the second half of a run against the law."""
    predicted, left = law(late, omega)
    measured = late["charge"].mean(axis=1)
    expected = expected_distance(predicted, left)
    off = distance(measured, predicted)
    worst = int(np.argmax(off / expected))
    return [
        slope_metric(f"{title} mean charges over those of the law, late half", predicted, left),
        # Neurons share their batches: in the worst case all err together, as one number would.
        within(
            f"{title} relative rms distance of the two, worst run",
            0,
            float(off[worst]),
            float(expected[worst]),
            runs=left.shape[1],
        ),
        correlation_metric(f"{title} their correlation, within runs", measured, predicted, left),
    ]


def _dense_metrics(title: str, means: Means, omega: float) -> list[Metric]:
    early, late = half(means, late=False), half(means, late=True)
    measured, targets = late["charge"].mean(axis=1), late["target"].mean(axis=1)
    end, end_target = late["end"][:, -1], late["one_target"][:, -1]
    predicted, left = law(early, omega)
    forgotten = (1 - omega) ** (BLOCK * np.arange(means["gain"].shape[1])[::-1])
    at_end, everything = means["path"][:, -1], residuals(means, omega, BLOCK) * omega * BLOCK
    projected = np.einsum("rbc,rc->rb", everything, at_end) / np.sum(at_end**2)
    error = float(np.sqrt(np.sum((projected - projected.mean()) ** 2 * forgotten**2)))
    sparse = late["one_target"].mean(axis=1)
    return [
        Metric(f"{title} κt of the run, slowest neuron", None, float(means["rate"].mean(axis=1).min() * _steps(means))),
        slope_metric(f"{title} mean charges over those of the law, early half", predicted, left),
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


def _filter_metrics(title: str, means: Means, omega: float, block: int) -> list[Metric]:
    late = half(means, late=True)
    predicted, left = law(late, omega, block=block)
    fourth = np.sqrt(np.mean(late["target"] ** 2, axis=1) / np.mean(late["charge"] ** 2, axis=1))
    end = late["one_target"][:, -1] / late["end"][:, -1]
    steps = means["gain"].shape[1] * block
    return [
        Metric(f"{title} κt of the run, slowest filter", None, float(means["rate"].mean(axis=1).min() * steps)),
        slope_metric(f"{title} mean ‖W‖² over that of the law, late half", predicted, left),
        Metric(
            f"{title} ‖W‖⁴ at the equilibria over that measured, square root of the means, filters' mean",
            1,
            float(fourth.mean()),
        ),
        Metric(
            f"{title} ‖W‖² at the equilibrium over that measured, one end point, filters' mean", 1, float(end.mean())
        ),
    ]


def _adam_metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    norm, angle = (arrays[f"adam_{what}"] / arrays[f"adam_{what}_predicted"] for what in ("norm", "angle"))
    # Adam's updates do not know the norm, an exponent of 0; what is measured instead is drift, and shifts a norm that
    # is predicted from LARGER times as far by that much. The angle goes as the update over the norm, likewise.
    drift = float(abs(np.mean(arrays["adam_exponent"])) * np.log(LARGER))
    turned = (2 * ADAM_RATE * ADAM_DECAY * (1 - 0.9) / (1 + 0.9)) ** 0.5
    return [
        of_runs("AdamW: norms of filters over those predicted from larger ones, mean", 1, norm, bias=drift),
        of_runs("AdamW: angles per step over those predicted likewise, mean", 1, angle, bias=drift),
        Metric(
            "AdamW: angle per step over √(2ηλ(1−β₁)/(1+β₁)), mean", 1, float(np.mean(arrays["adam_angle"]) / turned)
        ),
    ]


def decoder_rows(arrays: dict[str, np.ndarray], block: int) -> list[dict[str, float]]:
    """For each symmetry of the decoder what is measured of it."""
    means, omega = means_of(arrays, "decoder", slice(None))
    steps, rows = block * means["gain"].shape[1], []
    for place in range(len(arrays["decoder_names"])):
        own = arrays["decoder_of"] == place
        late = half({name: values[..., own] for name, values in means.items()}, late=True)
        predicted, left = law(late, omega, block=block)
        slowest, fastest = (arrays[f"decoder_{what}"][0, :, place] for what in ("slowest", "fastest"))
        rows.append(
            {
                "clock": float(slowest.mean() * steps),
                "distance": float(distance(late["charge"].mean(axis=1), predicted)[0]),
                "expected": float(expected_distance(predicted, left)[0]),
                "decay_slowest": float(omega / slowest[len(slowest) // 2 :].mean()),
                "decay_fastest": float(omega / fastest[len(fastest) // 2 :].mean()),
            }
        )
    return rows


def _decoder_metrics(arrays: dict[str, np.ndarray], block: int, depth: int) -> list[Metric]:
    rows = decoder_rows(arrays, block)
    reached = [row for row in rows if row["clock"] >= REACHED]
    off = [row["distance"] for row in reached]
    means, omega = means_of(arrays, "decoder", slice(None))
    predicted, left = law(half(means, late=True), omega, block=block)
    risk, blocks = arrays["decoder_risk"], left.shape[1]
    named = [(short(str(name)), row) for name, row in zip(arrays["decoder_names"], rows, strict=True)]
    return [
        Metric("decoder: loss at the end, mean of the late half", None, float(risk[:, risk.shape[1] // 2 :].mean())),
        # The last gain with the output; in every layer neurons, both gains, queries with keys, values with outputs.
        Metric("decoder: symmetries found, none declared", 1 + 5 * depth, len(rows), 1 + 5 * depth, 1 + 5 * depth),
        slope_metric("decoder: mean charges over those of the law, late half, all symmetries", predicted, left),
        Metric(f"decoder: symmetries with κt < {REACHED:g} in the slowest direction", None, len(rows) - len(reached)),
        Metric(f"decoder: symmetries with κt ≥ {REACHED:g}", None, len(reached)),
        Metric("decoder: of those within 10 % of the law in the mean", None, sum(value <= 0.1 for value in off)),
        Metric(
            "decoder: relative distance from the law, median of those", None, float(np.median(off)) if off else np.nan
        ),
        Metric("decoder: relative distance from the law, worst of those", None, max(off, default=np.nan)),
        # Entries of a charge share their batches, as neurons do.
        worst_of(
            [
                within(f"decoder: distance from the law, {name}", 0, row["distance"], row["expected"], runs=blocks)
                for name, row in named
            ]
        ),
        Metric(
            "decoder: share of decay in κ, direction that is most held by decay",
            None,
            max(row["decay_slowest"] for row in rows),
        ),
        Metric(
            "decoder: share of decay in κ, direction that is most held by noise",
            None,
            min(row["decay_fastest"] for row in rows),
        ),
    ]


def _steps(means: Means) -> int:
    return means["gain"].shape[1] * BLOCK
