"""Valleys that are no orbit of a symmetry: the path of SGD against the path of `valley_drift`.

    bent valley      the three parameters of theory, "The drift along the valley": Σ commutes with nothing
    sparse           y ≈ (u∘u − v∘v)·x with fewer samples than inputs, and label noise: it drifts to sparse predictors
    tanh             one hidden layer with more weights than samples, and label noise

All noise is across the valley, so that the slow motion is deterministic as η → 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._runs import independent_runs

RECORDS = 20
SUBSTEPS = 10  # of the path of `valley_drift`, between records
NEWTON = 3  # steps back to the minima after each of them: an explicit step leaves a curved valley at second order


class Valley(NamedTuple):
    """A problem with a point of its minima.

    Attributes:
        problem: whose noise is all across the valley.
        start: a minimum, as a vector.
        rate: the larger learning rate of SGD with S = 1; the other is half of it.
        time: how long the path is, in units of 1/(2σ²).
        view: what of θ is drawn.
    """

    problem: ne.Problem
    start: Array
    rate: float
    time: float
    view: Callable[[Array], Any]


def bent_loss(q: Array, z: Array) -> Array:
    """Minima on a curve of three parameters, without a symmetry."""
    r = jnp.stack([q[0] * q[1] + 0.3 * q[2] ** 2 - 1, q[2] - jnp.sin(q[0])])
    return r[0] ** 2 + r[1] ** 2 / 2 + z[0] * r[0] + z[1] * r[1] * jnp.exp(0.3 * q[1])


def sparse_loss(q: Array, sample: tuple[Array, Array]) -> Array:
    """((u∘u − v∘v)·x − y)²."""
    up, down = jnp.split(q, 2)
    x, y = sample
    return (jnp.vdot(up**2 - down**2, x) - y) ** 2


def tanh_output(q: Array, x: Array) -> Array:
    """Σ_j u_j tanh(w_j x + b_j)."""
    up, down, shift = jnp.split(q, 3)
    return jnp.vdot(up, jnp.tanh(down * x + shift))


def tanh_loss(q: Array, sample: tuple[Array, Array]) -> Array:
    """(f(x) − y)²."""
    x, y = sample
    return (tanh_output(q, x) - y) ** 2


def labels_of_either_sign(x: np.ndarray, y: np.ndarray, size: float) -> tuple[Array, Array]:
    """Every input twice, with its label ± size: label noise of this standard deviation."""
    return jnp.asarray(np.concatenate([x, x])), jnp.asarray(np.concatenate([y + size, y - size]))


def valleys(seed: int) -> dict[str, Valley]:
    """The three, with data drawn from the seed."""
    draw = np.random.default_rng([seed, 1])
    noise = draw.normal(size=(6, 2))
    noise = noise - noise.mean(axis=0)
    # Of one covariance for every seed, with correlation 0.5: it is no function of H.
    noise = noise @ np.linalg.inv(np.linalg.cholesky(noise.T @ noise / 6)).T @ np.array([[0.6, 0.3], [0.0, 0.52]])
    last = np.sin(0.7)
    bent = Valley(
        ne.Problem(bent_loss, jnp.asarray(noise)),
        jnp.array([0.7, (1 - 0.3 * last**2) / 0.7, last]),
        0.03,
        16.0,
        lambda q: q[0],
    )
    x = draw.normal(size=(3, 6))
    x = np.sqrt(3) * x / np.linalg.norm(x, axis=0)  # so that Tr∇²L = 8 Σ_j (u_j² + v_j²)
    beta = np.linalg.pinv(x) @ x[:, 0]  # the least of all that fit: dense
    root = np.sqrt(beta**2 + 4 * 0.4**4)
    start = np.sqrt(np.concatenate([root + beta, root - beta]) / 2)
    sparse = Valley(
        ne.Problem(sparse_loss, labels_of_either_sign(x, x @ beta, 0.5)),
        jnp.asarray(start),
        0.01,
        1.0,
        lambda q: jnp.sum(q**2),
    )
    weights = jnp.asarray(np.concatenate([draw.normal(size=4), draw.normal(size=4) + 1, draw.normal(size=4)]))
    inputs = np.array([-1.0, 0.2, 1.0])
    fitted = np.asarray(jax.vmap(partial(tanh_output, weights))(jnp.asarray(inputs)))
    tanh = Valley(
        ne.Problem(tanh_loss, labels_of_either_sign(inputs, fitted, 0.5)), weights, 0.02, 1.5, lambda q: jnp.sum(q**2)
    )
    return {"bent valley": bent, "sparse": sparse, "tanh": tanh}


@eqx.filter_jit
def drift_path(problem: ne.Problem, start: Any, time: float, records: int = RECORDS) -> Array:
    """Where `valley_drift` leads, at equidistant times after the start: the midpoint rule, and Newton to the minima.

    Args:
        problem: the problem.
        start: a minimum, any pytree.
        time: in units of 1/(2σ²).
        records: the number of times.

    Returns:
        (records + 1, parameters) with the start.
    """
    theta, unflatten = ne.flatten(start)
    step = time / (records * SUBSTEPS)

    def risk(q: Array) -> Array:
        return problem.risk(unflatten(q))

    def velocity(q: Array) -> Array:
        return ne.flatten(ne.valley_drift(problem, unflatten(q), 0.5, method="dense"))[0]

    def back(q: Array) -> Array:
        return q - jnp.linalg.pinv(jax.hessian(risk)(q), rtol=1e-5, hermitian=True) @ jax.grad(risk)(q)

    def more(q: Array, _: None) -> tuple[Array, None]:
        q = q + step * velocity(q + step / 2 * velocity(q))
        return jax.lax.fori_loop(0, NEWTON, lambda _, q: back(q), q), None

    def record(q: Array, _: None) -> tuple[Array, Array]:
        q, _ = jax.lax.scan(more, q, None, length=SUBSTEPS)
        return q, q

    path = jax.lax.scan(record, theta, None, length=records)[1]
    return jnp.concatenate([theta[None], path])


def sgd_paths(valley: Valley, seeds: int, key: Array) -> np.ndarray:
    """Paths of SGD at η and η/2: (2, seeds, RECORDS + 1, parameters)."""
    found = []
    for halvings in (0, 1):
        rate = valley.rate / 2**halvings
        steps = RECORDS * round(valley.time / rate**2 / RECORDS)
        starts = jnp.repeat(valley.start[None], seeds, axis=0)
        keys = jax.random.split(jax.random.fold_in(key, halvings), seeds)
        run = independent_runs(
            valley.problem, ne.SGD(rate, 1), starts, keys, steps, {"q": lambda q: q}, records=RECORDS
        )
        found.append(np.asarray(run.observed["q"]))
    return np.stack(found)
