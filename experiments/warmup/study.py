"""Linear networks trained at a high learning rate, with and without warmup: SGD from three initialisations, and GD.

From weights of variance 1/fan-in the loss is too sharp for the high rate, and SGD diverges at once. At a low rate it
does not, and label noise then drives the network to the noise equilibrium, where Tr ∇²L (Proposition 5.3) is that of
Eq. (15) and the high rate is stable: a warmup gives it the time. GD keeps the sharpness of its initialisation.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._runs import independent_runs
from experiments.warmup.figure import draw
from experiments.warmup.tasks import TASKS, Task
from noise_equilibrium.models.two_layer_linear import Params, loss

RECORDS = 500
EARLY = 100  # steps that are recorded one by one
LATE = RECORDS * 4 // 5  # the last fifth counts as the end


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs from every initialisation.
    """

    seeds: int = 16


FULL = Preset()
QUICK = Preset(seeds=8)


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    arrays: dict[str, np.ndarray] = {}
    keys = jax.random.split(jax.random.key(seed), len(TASKS))
    for task, task_key in zip(tqdm(TASKS, disable=None), keys, strict=True):
        for (name, spreads), key in zip(task.spreads().items(), jax.random.split(task_key, 3), strict=True):
            start_key, warm_key, high_key = jax.random.split(key, 3)
            starts = jax.vmap(lambda key, task=task, spreads=spreads: task.start(key, spreads))(
                jax.random.split(start_key, preset.seeds)
            )
            cases = {
                "warmup": (task.problem, ne.SGD(task.schedule, task.batch), warm_key),
                "high": (task.problem, ne.SGD(task.high, task.batch), high_key),
                "gd": (exact_problem(task), ne.GD(task.low), warm_key),
            }
            for case, (problem, dynamics, case_key) in cases.items():
                found = train(problem, dynamics, starts, jax.random.split(case_key, preset.seeds), task.steps)
                arrays |= {f"{what}_{task.name}_{name}_{case}": np.asarray(value) for what, value in found.items()}
        arrays[f"step_{task.name}"] = task.steps // RECORDS * np.arange(RECORDS + 1)
    return _metrics(arrays), arrays, draw(arrays)


def exact_problem(task: Task) -> ne.Problem:
    """2d samples with the risk of the population, for gradient descent."""
    root = jnp.sqrt(jnp.asarray(task.size, jnp.float32)) * jnp.eye(task.size)
    x, clean = jnp.concatenate([root, root]), root @ jnp.asarray(task.teacher).T
    return ne.Problem(loss, (x, jnp.concatenate([clean + root, clean - root])))


@eqx.filter_jit
def train(problem: ne.Problem, dynamics: ne.SGD | ne.GD, starts: Params, keys: Array, steps: int) -> dict[str, Array]:
    """Tr ∇²L of every run at its first steps and at the records, and the step at which it diverged."""
    size = starts.up.shape[1]

    def sharpness(params: Params) -> Array:
        return 2 * size * (jnp.sum(params.up**2) + jnp.sum(params.down**2))  # Proposition 5.3 for white x

    observe = {"sharpness": sharpness}
    early = independent_runs(problem, dynamics, starts, keys, EARLY, observe, records=EARLY)
    whole = independent_runs(problem, dynamics, starts, keys, steps, observe, records=RECORDS)
    return {
        "early": early.observed["sharpness"],
        "sharpness": whole.observed["sharpness"],
        "diverged": whole.diverged_at,
    }


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for task in TASKS:
        kinds = list(task.spreads())

        def ends(kind: str, case: str, task: Task = task) -> float:
            """Tr ∇²L at the end over its value at equilibrium, a mean over runs; NaN if one diverged."""
            return float(arrays[f"sharpness_{task.name}_{kind}_{case}"][:, LATE:].mean() / task.equilibrium)

        def diverged(case: str, task: Task = task, kind: str = kinds[0]) -> int:
            return int(np.sum(arrays[f"diverged_{task.name}_{kind}_{case}"] > 0))

        runs = len(arrays[f"diverged_{task.name}_{kinds[0]}_high"])
        label, least = f"{task.name}, {kinds[0]}:", np.ceil(runs * 15 / 16)
        metrics += [
            Metric(f"{label} diverging runs of {runs} at the high rate", runs, diverged("high"), low=least),
            Metric(f"{label} diverging runs of {runs} with warmup", 0, diverged("warmup"), high=0),
        ]
        low, high = 1 - task.mark, 1 + task.mark
        for kind in kinds:
            name = f"{task.name}, {kind}: Tr ∇²L at the end over that at equilibrium"
            metrics.append(Metric(name, 1, ends(kind, "warmup"), low, high))
        name = f"{task.name}, 1/fan-in: Tr ∇²L at the end of GD over that at equilibrium"
        metrics.append(Metric(name, None, ends(kinds[0], "gd"), low=high))
    return metrics
