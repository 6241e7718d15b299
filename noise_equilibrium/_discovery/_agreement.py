"""Whether a program shows the scalings that were found by number, and no others."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._parameters import split
from .._problem import Problem
from .._symmetry import Symmetry
from ._program import TooLarge, read


def scalings_of(symmetry: Symmetry, params: PyTree) -> np.ndarray:
    """The logarithms of the scales of all entries, a row for each number of a symmetry, or diagonal entry of one."""
    arrays, rebuild = split(params)
    ones = rebuild([jnp.ones_like(array) for array in arrays])
    shape = symmetry.charge(params).shape
    if symmetry.algebra == "symmetric":
        diagonal = np.eye(int(np.prod(shape[:-1]))).reshape(-1, *shape[:-1])
        elements = [row[..., None] * np.eye(shape[-1]) for row in diagonal]
    else:
        elements = [row.reshape(shape) for row in np.eye(int(np.prod(shape)))]
    moved = (split(symmetry.generator(ones, jnp.asarray(element, arrays[0].dtype)))[0] for element in elements)
    return np.array([np.concatenate([np.asarray(array, float).ravel() for array in each]) for each in moved])


def compared(
    problem: Problem, params: PyTree, symmetries: Sequence[Symmetry], names: Sequence[str], ignored: set[str]
) -> str:
    """What the program shows of some symmetries, in a sentence.

    Args:
        problem: whose loss is read.
        params: the parameters.
        symmetries: what was found.
        names: of the parameters.
        ignored: names of those that may be scaled at will.
    """
    try:
        equations = read(problem, params)
    except TooLarge:
        return "the program was not read: it is too large"
    sizes = [array.size for array in split(params)[0]]
    free = np.repeat([name in ignored for name in names], sizes)
    # Equations among entries that count, after those of the ignored ones were met.
    basis, values, _ = np.linalg.svd(equations[:, free], full_matrices=False)
    basis = basis[:, values > 1e-9]
    kept = equations[:, ~free]
    kept = kept - basis @ (basis.T @ kept)
    shown = int(np.sum(~free)) - _rank(kept)
    vectors = [scalings_of(one, params)[:, ~free] for one in symmetries]
    agree = [np.abs(kept @ rows.T).max(initial=0) < 1e-6 for rows in vectors]
    common = _rank(
        np.concatenate([np.zeros((1, kept.shape[1])), *(r for r, a in zip(vectors, agree, strict=True) if a)])
    )
    if all(agree) and common == shown:
        return f"the program shows the same {shown} scalings"
    text = f"the program shows {shown} scalings, {common} of them among those that were found"
    missing = [str(one) for one, held in zip(symmetries, agree, strict=True) if not held]
    return text + (f"; it does not show {'; '.join(missing)}" if missing else "")


def _rank(matrix: np.ndarray) -> int:
    return int(np.linalg.matrix_rank(matrix, tol=1e-6)) if matrix.size else 0
