"""Two-layer linear networks with given spectra of inputs and label noise: the noise equilibrium, and where SGD settles.

For isotropic label noise Σ ∝ H, and for Σ_x and Σ_ε that are diagonal in the singular vectors of V every term of the
drift is too, so that nothing can turn: there SGD must settle at the noise equilibrium. Otherwise it does so where
B = 0, and the hidden axis turns by Ω (theory, "Where SGD settles").
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._runs import independent_runs
from experiments.valley.valleys import drift_path
from noise_equilibrium.models.two_layer_linear import Params, loss, symmetry

SIZE = 3  # d_x = d_y = d
NOISE = 0.2  # Tr Σ_ε / d_y
RECORDS, LATE = 60, 40  # records of a run, and the first that counts


class Cell(NamedTuple):
    """A network with its data.

    Attributes:
        name: of the cell, for metrics.
        spread: the largest eigenvalue of Σ_x and of Σ_ε over the least.
        problem: with every pair of inputs and label noises, so that they are independent.
        equilibrium: the noise equilibrium at UW = V.
        rest: where `settle` says that SGD settles.
        turning: Ω per unit of 2σ²t.
    """

    name: str
    spread: float
    problem: ne.Problem
    equilibrium: Params
    rest: Params
    turning: np.ndarray


def spectrum(spread: float, size: int) -> np.ndarray:
    """Eigenvalues in geometric progression with mean 1."""
    values = np.geomspace(1, spread, size)
    return values / values.mean()


def cell(name: str, V: np.ndarray, root_x: np.ndarray, root_noise: np.ndarray, spread: float) -> Cell:
    """A cell from its teacher and roots of the two covariances."""
    n_x, n_y = len(root_x), len(root_noise)
    x = np.sqrt(n_x) * np.concatenate([root_x.T, -root_x.T])
    noise = np.sqrt(n_y) * np.concatenate([root_noise.T, -root_noise.T])
    x, noise = (np.array(part) for part in zip(*itertools.product(x, noise), strict=True))
    left, singular, right = np.linalg.svd(V, full_matrices=False)
    start = Params(jnp.asarray(left * singular**0.5), jnp.asarray(singular[:, None] ** 0.5 * right))
    problem = ne.Problem(loss, (jnp.asarray(x), jnp.asarray(x @ V.T + noise)))
    there = ne.find_equilibrium(problem, start, symmetry, 0.5)
    rest = ne.settle(problem, start, symmetry, 0.5)
    return Cell(name, spread, problem, there.params, rest.params, np.asarray(rest.turning))


def rotation(draw: np.random.Generator, size: int) -> np.ndarray:
    """A random rotation."""
    return np.linalg.qr(draw.normal(size=(size, size)))[0]


def generic(draw: np.random.Generator, spread: float) -> Cell:
    """Σ_x and Σ_ε in random directions, which commute with nothing."""
    V = rotation(draw, SIZE) * np.array([1.2, 0.9, 0.6]) @ rotation(draw, SIZE)
    root = spectrum(spread, SIZE) ** 0.5
    root_noise = NOISE**0.5 * rotation(draw, SIZE) * root
    return cell(f"spread {spread:g}", V, rotation(draw, SIZE) * root, root_noise, spread)


def grid(seed: int, spreads: tuple[float, ...]) -> list[Cell]:
    """The controls, where nothing turns, and generic cells of growing spread."""
    draw = np.random.default_rng(seed)
    left, right, turn = (rotation(draw, SIZE) for _ in range(3))
    V = left * np.array([1.2, 0.9, 0.6]) @ right
    root, one = spectrum(16, SIZE) ** 0.5, np.eye(SIZE)
    controls = [
        cell("isotropic label noise", V, turn * root, NOISE**0.5 * one, 16),
        cell("Σ_x and Σ_ε commute with V", V, right.T * root, NOISE**0.5 * left * root[::-1], 16),
    ]
    return [*controls, *(generic(draw, spread) for spread in spreads)]


def turning_cell(anisotropic: bool) -> Cell:
    """The problem of `tests/test_rotation.py`, with two hidden units, where Ω is one number."""
    draw = np.random.default_rng(0)
    V = draw.normal(size=(2, 3)) / 1.7
    turns = [np.linalg.qr(draw.normal(size=(n, n)))[0] for n in (3, 2)]
    stretch = np.diag([1.6, 0.4]) if anisotropic else np.eye(2)
    # The columns of the root are those of a rotation with other lengths: of all that have this covariance, these.
    return cell("turning", V, turns[0], np.sqrt(0.2) * turns[1] @ stretch, 16)


def grams(params: Params) -> Array:
    """UUᵀ and WᵀW, which a rotation of the hidden axis does not change, as one vector."""
    return jnp.concatenate([(params.up @ params.up.T).ravel(), (params.down.T @ params.down).ravel()])


def relative_shift(one: Cell) -> float:
    """How far the Grams where SGD settles are from those of the noise equilibrium."""
    there, rest = np.asarray(grams(one.equilibrium)), np.asarray(grams(one.rest))
    return float(np.linalg.norm(rest - there) / np.linalg.norm(there))


def sgd_ends(cells: list[Cell], rate: float, seeds: int, time: float, key: Array) -> np.ndarray:
    """Grams of SGD with S = 1 from the noise equilibrium and from the point of `settle`, over the last third.

    Returns:
        (2, cells, 2, seeds, entries): at η and at η/2, from either start.
    """
    found = []
    for halvings in (0, 1):
        step = rate / 2**halvings
        steps = RECORDS * round(time / step**2 / RECORDS)

        def repeated(*leaves: Array) -> Array:
            return jnp.repeat(jnp.stack(leaves), seeds, axis=0)

        problems = jax.tree_util.tree_map(repeated, *(one.problem for one in cells for _ in range(2)))
        starts = jax.tree_util.tree_map(repeated, *(place for one in cells for place in (one.equilibrium, one.rest)))
        keys = jax.random.split(jax.random.fold_in(key, halvings), 2 * len(cells) * seeds)
        run = independent_runs(
            problems, ne.SGD(step, 1), starts, keys, steps, {"grams": grams}, records=RECORDS, stacked=True
        )
        means = np.asarray(run.observed["grams"])[:, LATE:].mean(axis=1)
        found.append(means.reshape(len(cells), 2, seeds, -1))
    return np.stack(found)


def drift_end(one: Cell, time: float) -> np.ndarray:
    """The same from the noise equilibrium along `valley_drift`."""
    _, unflatten = ne.flatten(one.equilibrium)
    path = drift_path(one.problem, one.equilibrium, time, RECORDS)[LATE:]
    return np.asarray(jax.vmap(lambda q: grams(unflatten(q)))(path).mean(axis=0))


def angle(params: Params) -> Array:
    """That of the first principal axis of UᵀU + WWᵀ, up to multiples of π."""
    sum_of_grams = params.up.T @ params.up + params.down @ params.down.T
    return jnp.arctan2(2 * sum_of_grams[0, 1], sum_of_grams[0, 0] - sum_of_grams[1, 1]) / 2


def angles(one: Cell, rate: float, seeds: int, time: float, key: Array) -> tuple[np.ndarray, np.ndarray]:
    """The angle turned at records along runs of SGD, (seeds, records), and their times in units of 1/(2σ²)."""
    records = 100
    steps = records * round(time / rate**2 / records)
    starts = jax.tree_util.tree_map(lambda leaf: jnp.repeat(leaf[None], seeds, axis=0), one.rest)
    keys = jax.random.split(key, seeds)
    run = independent_runs(one.problem, ne.SGD(rate, 1), starts, keys, steps, {"angle": angle}, records=records)
    seen = np.asarray(np.unwrap(np.asarray(run.observed["angle"], np.float64), period=np.pi, axis=1), np.float64)
    return seen - seen[:, :1], np.linspace(0, steps * rate**2, records + 1)
