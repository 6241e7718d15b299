"""Sharpness, and the largest learning rate at which gradient descent stays at a minimum of the linear autoencoder."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from scipy.sparse.linalg import LinearOperator, eigsh

import noise_equilibrium as ne
from noise_equilibrium.models.two_layer_linear import Params

STEPS = 1500  # of gradient descent from beside a minimum
RANGE = (0.02, 1.0)  # of learning rates that are searched
HALVINGS = 11
SIDE = 1e-5  # how far beside it
TOLERANCE = 1e-4  # of ‖∇²L v − λv‖/λ: at the minima eigenvalues lie close together, and λ may err by as much


@eqx.filter_jit
def _hessian_product(problem: ne.Problem, params: PyTree, vector: Array) -> Array:
    theta, unflatten = ne.flatten(params)
    return jax.jvp(jax.grad(lambda theta: problem.risk(unflatten(theta))), (theta,), (vector,))[1]


def sharpness(problem: ne.Problem, params: PyTree, key: Array) -> float:
    """The largest eigenvalue of ∇²L, by ARPACK: far from a minimum one that is negative may be much larger in size.

    Raises:
        ArpackNoConvergence: if it is not found within ten times as many restarts as there are parameters.
    """
    theta, _ = ne.flatten(params)

    def product(vector: np.ndarray) -> np.ndarray:
        return np.asarray(_hessian_product(problem, params, jnp.asarray(vector.ravel(), theta.dtype)), np.float64)

    # What is known of SciPy's types is older than these arguments.
    operator = LinearOperator((theta.size, theta.size), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.asarray(jax.random.normal(key, theta.shape), np.float64)
    found = eigsh(operator, k=1, which="LA", v0=start, tol=TOLERANCE, return_eigenvectors=False)  # pyright: ignore[reportArgumentType]
    return float(found[0])


def all_sharpness(problem: ne.Problem, points: PyTree, keys: Array) -> np.ndarray:
    """That of all points, which are stacked in front."""
    each = (jax.tree_util.tree_map(lambda leaf, place=place: leaf[place], points) for place in range(len(keys)))
    return np.array([sharpness(problem, point, key) for point, key in zip(each, keys, strict=True)])


@eqx.filter_jit
def gd_minimum(problem: ne.Problem, starts: Params) -> Params:
    """Where GD at a small rate takes them."""
    return jax.vmap(lambda start: ne.simulate(problem, ne.GD(0.01), start, 3000, every=3000).params)(starts)


@eqx.filter_jit
def _leaves(problem: ne.Problem, minima: Params, teacher: Array, keys: Array, rates: Array) -> Array:
    """Whether GD goes away from the minima: whether the excess loss ever is larger than at first, or not finite.

    Below 2/λ_max every component of the deviation shrinks, and the excess with them.
    """

    def excess(params: Params) -> Array:
        return jnp.sum((params.up @ params.down - teacher) ** 2)

    def one(minimum: Params, key: Array, rate: Array) -> Array:
        theta, unflatten = ne.flatten(minimum)
        beside = unflatten(theta + SIDE * jax.random.normal(key, theta.shape, theta.dtype))
        run = ne.simulate(problem, ne.GD(rate), beside, STEPS, observe={"excess": excess}, every=10)
        seen = run.observed["excess"]
        return ~jnp.all(seen[1:] <= seen[0])

    return jax.vmap(one)(minima, keys, rates)


def largest_stable_rate(problem: ne.Problem, minima: Params, teacher: Array, key: Array) -> np.ndarray:
    """That of GD beside each of these minima, by bisection of the logarithm; by at most RANGE/2^HALVINGS off."""
    count = len(minima.up)
    keys = jax.random.split(key, count)
    low, high = (np.full(count, np.log(end)) for end in RANGE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gone = np.asarray(_leaves(problem, minima, teacher, keys, jnp.exp(jnp.asarray(middle))))
        low, high = np.where(gone, low, middle), np.where(gone, middle, high)
    return np.exp((low + high) / 2)
