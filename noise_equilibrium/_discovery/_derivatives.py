"""How the loss of a sample changes when entries along axes of the parameters are scaled, at perturbed parameters.

For a parameter θ_l and some of its axes S, t_{l,S}(z)_j = Σ θ_l ∘ ∂ℓ(θ, z)/∂θ_l, summed over all other axes (theory,
"Finding the symmetries of a loss nobody told us about").
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._budget import at_once
from .._numbers import jit
from .._parameters import accumulation_dtype, is_parameter, split
from .._problem import Problem

SPREAD = 0.4  # of the perturbation, relative to the size of a parameter
LONGEST = 4096  # entries of several axes taken together
LONGEST_AXIS = 2**18  # entries of one axis, each with a slope in every row: a quarter of a million words
CHUNK = 64  # the most samples at once
SAMPLES_A_POINT = 8  # so that a few dozen rows see several parameters

Place = tuple[int, tuple[int, ...]]  # a parameter, and some of its axes
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Marginals:
    """Slopes along the slices of the parameters, one row for each pair of parameters and sample.

    Attributes:
        slope: t_{l,S}, (rows, entries of the axes), for every parameter and set of axes.
        gross: (Σ (θ ∘ g)²)^½ over the same entries: what the slope would be without cancellation.
        noise: by how much slopes change if parameters change by their rounding error; fewer rows.
    """

    slope: dict[Place, np.ndarray]
    gross: dict[Place, np.ndarray]
    noise: dict[Place, np.ndarray]


def on_host(params: PyTree) -> tuple[Arrays, Callable[[Arrays], PyTree]]:
    """The parameters as NumPy arrays, and what puts such a list in their places."""
    arrays, rebuild = split(params)
    put: Callable[[Any], PyTree] = rebuild
    return [np.asarray(array) for array in arrays], put


def axis_sets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sets of axes that are looked at: none (the parameter as a whole), each, and several if they are short."""
    if 0 in shape:
        return []
    sets = [axes for count in range(len(shape) + 1) for axes in itertools.combinations(range(len(shape)), count)]
    most = {0: 1, 1: LONGEST_AXIS}
    return [axes for axes in sets if math.prod(shape[axis] for axis in axes) <= most.get(len(axes), LONGEST)]


def perturbed(arrays: Sequence[np.ndarray], random: np.random.Generator, frozen: frozenset[int]) -> list[np.ndarray]:
    """Parameters with every entry moved by a good part of the size of its array.

    Arrays of one sign keep it (gains, variances); arrays of zeros get the typical size of the matrices.
    """
    sizes = [float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0 for array in arrays]
    known = [size for size, array in zip(sizes, arrays, strict=True) if size > 0 and array.ndim > 1]
    typical = float(np.median(known)) if known else 0.3

    def moved(place: int, array: np.ndarray) -> np.ndarray:
        if place in frozen:
            return array
        step = random.standard_normal(array.shape, dtype=np.float32)
        step *= SPREAD
        if sizes[place] > 0 and (np.all(array > 0) or np.all(array < 0)):
            return (array * np.exp(step)).astype(array.dtype)
        step *= sizes[place] or typical / SPREAD
        return (array + step).astype(array.dtype)

    return [moved(place, array) for place, array in enumerate(arrays)]


def rounded(arrays: Sequence[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """Parameters moved by one or two units in the last place, up or down."""

    def moved(array: np.ndarray) -> np.ndarray:
        size = 2 * float(jnp.finfo(array.dtype).eps)
        step = random.random(array.shape, dtype=np.float32) - np.float32(0.5)
        step = np.sign(step) * size
        return (array * (1 + step.astype(array.dtype))).astype(array.dtype)

    return [moved(array) for array in arrays]


@jit
def slopes(problem: Problem, params: PyTree, samples: PyTree) -> tuple[list[list[Array]], list[list[Array]], Array]:
    """Slopes and gross slopes of each sample, for every parameter and set of axes, and the losses."""
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)
    slope_of = jax.value_and_grad(lambda arrays, sample: problem.sample_loss(rebuild(arrays), sample))

    def of_one(sample: PyTree) -> tuple[list[list[Array]], list[list[Array]], Array]:
        value, gradient = slope_of(arrays, sample)
        sums, squares = [], []
        for array, slope in zip(arrays, gradient, strict=True):
            product = array.astype(dtype) * slope.astype(dtype)
            kept = axis_sets(array.shape)
            others = [tuple(axis for axis in range(array.ndim) if axis not in axes) for axes in kept]
            sums.append([jnp.sum(product, axis=rest).reshape(-1) for rest in others])
            squares.append([jnp.sum(product**2, axis=rest).reshape(-1) for rest in others])
        return sums, squares, value

    each = 3 * sum(array.size for array in arrays) * dtype.itemsize
    count = jax.tree_util.tree_leaves(samples)[0].shape[0]
    # An accelerator would multiply in TF32 or bfloat16, where rounding hides what the search asks for.
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(of_one, samples, batch_size=at_once(each, min(CHUNK, count)))


@jit
def losses(problem: Problem, params: PyTree, samples: PyTree) -> Array:
    """The loss of each sample."""
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(lambda sample: problem.sample_loss(params, sample), samples)


@jit
def gradient(problem: Problem, params: PyTree, sample: PyTree) -> list[Array]:
    """The gradient of the loss of one sample."""
    arrays, rebuild = split(params)
    with jax.default_matmul_precision("highest"):
        return list(jax.grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays))


def measure(
    problem: Problem,
    params: PyTree,
    samples: PyTree,
    rows: int,
    frozen: frozenset[int],
    random: np.random.Generator,
    jittered: int,
) -> Marginals:
    """Slopes at random parameters and samples.

    Every row is divided by the size of θ ∘ g at it, so that no parameters count more than others.

    Args:
        problem: whose loss is taken.
        params: around which parameters are drawn.
        samples: a pytree of arrays with a leading axis of samples.
        rows: how many pairs of parameters and sample, at least.
        frozen: positions of parameters that stay.
        random: the source of random numbers.
        jittered: how many rows are repeated with parameters moved by their rounding error.
    """
    host, rebuild = on_host(params)
    count = jax.tree_util.tree_leaves(samples)[0].shape[0]
    each = min(count, SAMPLES_A_POINT)
    parts: list[tuple[dict[Place, np.ndarray], ...]] = []
    places = [(leaf, axes) for leaf, array in enumerate(host) for axes in axis_sets(array.shape)]
    repeated = 0
    for _ in range(-(-rows // each)):
        point = perturbed(host, random, frozen)
        chosen = np.sort(random.choice(count, each, replace=False))
        here = jax.tree_util.tree_map(lambda leaf: leaf[chosen], samples)  # noqa: B023
        slope, gross, size, finite = _rows(problem, rebuild(point), here, places)
        if not finite:
            blame(problem, params, here, host, point)
        noise = {}
        if repeated < jittered:
            again, *_ = _rows(problem, rebuild(rounded(point, random)), here, places)
            noise = {place: (again[place] - slope[place]) / size for place in places}
            repeated += each
        parts.append(
            (
                {place: slope[place] / size for place in places},
                {place: gross[place] / size for place in places},
                noise,
            )
        )

    def joined(which: int) -> dict[Place, np.ndarray]:
        return {place: np.concatenate([part[which][place] for part in parts if part[which]]) for place in places}

    return Marginals(joined(0), joined(1), joined(2))


def _rows(
    problem: Problem, params: PyTree, samples: PyTree, places: Sequence[Place]
) -> tuple[dict[Place, np.ndarray], dict[Place, np.ndarray], np.ndarray, bool]:
    """Slopes, gross slopes, and the size of θ ∘ g, of each sample, and whether all of it is finite."""
    sums, squares, values = slopes(problem, params, samples)
    slope = dict(zip(places, (np.asarray(array, np.float64) for leaf in sums for array in leaf), strict=True))
    roots = (np.sqrt(np.asarray(array, np.float64)) for leaf in squares for array in leaf)
    gross = dict(zip(places, roots, strict=True))
    size = np.sqrt(sum(gross[place] ** 2 for place in places if place[1] == ()))
    finite = bool(np.all(np.isfinite(np.asarray(values, np.float64))) and np.all(np.isfinite(size)))
    return slope, gross, np.where(size > 0, size, 1), finite


def blame(problem: Problem, params: PyTree, samples: PyTree, before: Arrays, after: Arrays) -> NoReturn:
    """Raise a ValueError that names the parameter whose perturbation makes the loss not finite."""
    names = leaf_names(params)
    _, rebuild = on_host(params)
    if not _is_finite(slopes(problem, params, samples)):
        raise ValueError(
            "the loss of a sample, or its gradient, is not finite at params; expected finite numbers. Check params and "
            "data for NaN, and the loss for divisions, logarithms and square roots."
        )
    guilty = []
    for place in range(len(before)):
        arrays = [after[place] if other == place else array for other, array in enumerate(before)]
        if not _is_finite(slopes(problem, rebuild(arrays), samples)):
            guilty.append(names[place])
    what = ", ".join(guilty) if guilty else "all parameters together, and none alone"
    raise ValueError(
        f"the loss or its gradient is not finite after a perturbation of {what}; find_symmetries looks at perturbed "
        "parameters, which must be in the domain of the loss. Hold those fixed that may not move: "
        "frozen=lambda params: params['variance'], or a list of such."
    )


def leaf_names(params: PyTree) -> list[str]:
    """The paths of the parameters."""
    return [keystr(path) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0] if is_parameter(leaf)]


def keystr(path: Any) -> str:
    """The path of a leaf; "params" for a tree that is one leaf."""
    return jax.tree_util.keystr(path) or "params"


def _is_finite(measured: tuple[Any, Any, Array]) -> bool:
    sums, _, values = measured
    return all(np.all(np.isfinite(np.asarray(x, np.float64))) for x in [values, *(a for leaf in sums for a in leaf)])
