"""End points of independent tasks: random teachers and covariances, SGD and GD against the closed-form equilibrium."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._runs import independent_runs
from experiments.alignment._network import (
    Params,
    alignment_sides,
    invariant_grams,
    loss,
    relative_distance,
    symmetry,
    worst,
)

RECORDS = 100


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        tasks: how many.
        d: d_x = d_y.
        hidden: d_h.
        batch: S.
        rate: η.
        steps: SGD steps.
        population: samples that stand for the population in the prediction.
    """

    tasks: int = 16
    d: int = 10
    hidden: int = 14
    batch: int = 8
    rate: float = 0.01
    steps: int = 40_000
    population: int = 20_000


FULL = Preset()
QUICK = Preset(tasks=8)


@dataclass(frozen=True)
class Task:
    """A random linear regression: V with independent N(0, 1/d) entries, covariances with trace d.

    Attributes:
        V: the teacher.
        cov_x: Σ_x, with eigenvalues drawn evenly in their logarithm from a factor of 4 and random eigenvectors.
        cov_noise: Σ_ε, likewise.
    """

    V: np.ndarray
    cov_x: np.ndarray
    cov_noise: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, d: int) -> "Task":
        """A task from a random generator."""

        def covariance() -> np.ndarray:
            vectors, _ = np.linalg.qr(rng.normal(size=(d, d)))
            values = np.exp(rng.uniform(np.log(0.5), np.log(2.0), d))
            return d * (vectors * values) @ vectors.T / values.sum()

        return cls(rng.normal(size=(d, d)) / np.sqrt(d), covariance(), covariance())


@dataclass(frozen=True)
class Ends:
    """Where the tasks ended: A = W Σ̄_x Wᵀ and B = Uᵀ Σ̄_ε U for each, of shape (tasks, d_h, d_h)."""

    sgd: tuple[np.ndarray, np.ndarray]
    gd: tuple[np.ndarray, np.ndarray]


def run(preset: Preset, key: Array, bar: tqdm) -> tuple[list[Metric], Ends]:
    """Train on every task at once, and predict where SGD ends without training."""
    keys = jax.random.split(key, 5)
    rng = np.random.default_rng(int(jax.random.randint(keys[0], (), 0, 2**31 - 1)))
    tasks = [Task.draw(rng, preset.d) for _ in range(preset.tasks)]
    teachers = _stack([ne.data.LinearTeacher(task.V, task.cov_x, task.cov_noise) for task in tasks])
    streams = ne.Stream(teachers)
    exact = jax.vmap(lambda teacher, key: teacher.moment_matched(key, 2 * preset.d))(
        teachers, jax.random.split(keys[4], preset.tasks)
    )
    # As in the paper all runs begin at one point, and only the task differs.
    one = ne.models.two_layer_linear.init(keys[1], preset.d, preset.hidden, preset.d)
    initial = jax.tree_util.tree_map(lambda leaf: jnp.broadcast_to(leaf, (preset.tasks, *leaf.shape)), one)
    noise_keys = jax.random.split(keys[2], preset.tasks)

    bar.set_description("SGD on all tasks")
    dynamics = ne.SGD(preset.rate, preset.batch)
    observe = {"norms": squared_norms, "grams": invariant_grams, "params": lambda params: params}
    sgd = independent_runs(
        ne.Problem(loss, streams), dynamics, initial, noise_keys, preset.steps, observe, records=RECORDS, stacked=True
    )
    bar.update()
    bar.set_description("GD on all tasks")
    gd = independent_runs(ne.Problem(loss, exact), ne.GD(preset.rate), initial, noise_keys, preset.steps, stacked=True)
    bar.update()
    bar.set_description("equilibria of all tasks")
    predicted = [
        _predict(task, preset, key) for task, key in zip(tasks, jax.random.split(keys[3], len(tasks)), strict=True)
    ]
    bar.update()

    cov_x, cov_noise = np.stack([task.cov_x for task in tasks]), np.stack([task.cov_noise for task in tasks])
    ends = Ends(alignment_sides(sgd.params, cov_x, cov_noise), alignment_sides(gd.params, cov_x, cov_noise))
    norms = np.asarray(sgd.observed["norms"], np.float64)[:, RECORDS // 2 :].mean(axis=1)
    grams = np.asarray(sgd.observed["grams"], np.float64)[:, RECORDS // 2 :].mean(axis=1)
    sharpness = _hessian_trace(grams[:, 0], grams[:, 1], cov_x)
    predicted_norms, predicted_grams = (np.stack(parts) for parts in zip(*predicted, strict=True))
    predicted_sharpness = _hessian_trace(predicted_grams[:, 0], predicted_grams[:, 1], cov_x)
    ratio = (norms[:, 0] / norms[:, 1]) / (predicted_norms[:, 0] / predicted_norms[:, 1])
    residual_sgd, residual_gd = relative_distance(*ends.sgd), relative_distance(*ends.gd)
    seen = sgd.observed["params"]
    late = [np.asarray(leaf)[:, RECORDS // 2 :] for leaf in seen]
    shape = late[0].shape[:2]
    flat = Params(*(jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])) for leaf in late))
    repeated = [np.repeat(cov, shape[1], axis=0) for cov in (cov_x, cov_noise)]
    averaged = [side.reshape(*shape, *side.shape[1:]).mean(axis=1) for side in alignment_sides(flat, *repeated)]
    contrast = float(np.median(residual_gd / relative_distance(averaged[0], averaged[1])))
    start = relative_distance(*alignment_sides(initial, cov_x, cov_noise))
    return [
        Metric("tasks, SGD: residual of Eq. (14), worst task", 0, residual_sgd.max(), high=0.10),
        Metric("tasks, GD: residual of Eq. (14), least task", start.min(), residual_gd.min(), low=0.30),
        Metric("tasks, GD residual / SGD residual, least task", None, (residual_gd / residual_sgd).min(), low=6),
        Metric("tasks, GD residual / that of SGD's averages, median task", None, contrast, low=10),
        Metric("tasks, SGD: ‖U‖²/‖W‖² over predicted, worst task", 1, worst(ratio), 0.92, 1.08),
        Metric("tasks, SGD: Tr∇²L over predicted, worst task", 1, worst(sharpness / predicted_sharpness), 0.95, 1.05),
    ], ends


def squared_norms(params: Params) -> Array:
    """(‖U‖², ‖W‖²)."""
    return jnp.stack([jnp.sum(params.up**2), jnp.sum(params.down**2)])


def _predict(task: Task, preset: Preset, key: Array) -> tuple[np.ndarray, np.ndarray]:
    """Norms and Grams of the noise equilibrium on the global minimum, in closed form from any factorisation of V."""
    d, hidden = preset.d, preset.hidden
    with jax.enable_x64(True):
        teacher = ne.data.LinearTeacher(task.V, task.cov_x, task.cov_noise)
        problem = ne.Problem(loss, teacher.moment_matched(key, preset.population))
        minimum = Params(jnp.asarray(np.eye(d, hidden)), jnp.asarray(np.eye(hidden, d) @ task.V))
        there = ne.find_equilibrium(problem, minimum, symmetry, ne.SDE(preset.rate, preset.batch)).params
        return np.asarray(squared_norms(there)), np.asarray(invariant_grams(there))


def _hessian_trace(up_gram: np.ndarray, down_gram: np.ndarray, cov_x: np.ndarray) -> np.ndarray:
    """Tr∇²L = 2(d_y Tr[WΣ_xWᵀ] + Tr[Σ_x] Tr[UᵀU]), Proposition 5.3, from UUᵀ and WᵀW."""
    d_y = up_gram.shape[-1]
    input_trace = np.einsum("tij,tji->t", down_gram, cov_x)
    return 2 * (d_y * input_trace + np.trace(cov_x, axis1=1, axis2=2) * np.trace(up_gram, axis1=1, axis2=2))


def _stack(trees: list[ne.data.LinearTeacher]) -> ne.data.LinearTeacher:
    return jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *trees)
