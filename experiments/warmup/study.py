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
from experiments._metrics import Metric, of_runs
from experiments._runs import independent_runs
from experiments.warmup.figure import draw
from experiments.warmup.tasks import TASKS, Task
from noise_equilibrium.models.two_layer_linear import Params, loss

RECORDS = 500
EARLY = 100  # steps that are recorded one by one


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        seeds: runs from every initialisation.
    """

    seeds: int = 24


FULL = Preset()
QUICK = Preset(seeds=12)


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
                if case != "warmup" and name != "1/fan-in":
                    continue
                steps = task.steps + task.cooling
                found = train(problem, dynamics, starts, jax.random.split(case_key, preset.seeds), steps)
                arrays |= {f"{what}_{task.name}_{name}_{case}": np.asarray(value) for what, value in found.items()}
        arrays[f"step_{task.name}"] = (task.steps + task.cooling) // RECORDS * np.arange(RECORDS + 1)
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

        steps = arrays[f"step_{task.name}"]

        def ends(kind: str, late: np.ndarray, case: str = "warmup", task: Task = task) -> np.ndarray:
            """Tr ∇²L of every run over its value at equilibrium, a mean over these records; NaN if it diverged."""
            return arrays[f"sharpness_{task.name}_{kind}_{case}"][:, late].mean(axis=1) / task.equilibrium

        def diverged(case: str, task: Task = task, kind: str = kinds[0]) -> int:
            return int(np.sum(arrays[f"diverged_{task.name}_{kind}_{case}"] > 0))

        runs = len(arrays[f"diverged_{task.name}_{kinds[0]}_high"])
        label, least = f"{task.name}, {kinds[0]}:", np.ceil(runs * 3 / 4)
        # Not all: the first steps throw a run now and then to where it is flat enough, before it can diverge.
        metrics += [
            Metric(f"{label} diverging runs of {runs} at the high rate", runs, diverged("high"), low=least),
            Metric(f"{label} diverging runs of {runs} with warmup", 0, diverged("warmup"), high=0),
        ]
        late = steps > 0.9 * (task.steps + task.cooling)
        hot = (steps > 0.8 * task.steps) & (steps <= task.steps)
        for kind, (spread_up, spread_down) in task.spreads().items():
            title = f"{task.name}, {kind}: Tr ∇²L over that at equilibrium,"
            begin = float(
                ne.exact.initial_hessian_trace(np.eye(task.size), task.width, task.size, spread_up**2, spread_down**2)
            )
            start = arrays[f"sharpness_{task.name}_{kind}_warmup"][:, 0] / task.equilibrium
            # Of what is left of second order in η: (ηh)², h = 4 the curvature at the equilibrium.
            metrics += [
                of_runs(f"{title} at the start", begin / task.equilibrium, start),
                Metric(f"{title} late at the high rate", None, float(ends(kind, hot).mean())),
                of_runs(
                    f"{title} at the end, η = {task.final:g}",
                    task.settled(task.final),
                    ends(kind, late),
                    bias=(4 * task.final) ** 2,
                ),
            ]
        name = f"{task.name}, 1/fan-in: Tr ∇²L over that at equilibrium, at the end of GD, least run"
        metrics.append(Metric(name, None, float(ends(kinds[0], late, "gd").min()), low=2))
    return metrics
