"""What is known of slopes: relations that hold for any gradient, and those of the symmetries found so far.

Slopes drawn at random among those that obey all known relations tell which further relations are no news: the ones
that random slopes obey too.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from ._derivatives import Place
from ._part import Part

# A dense decomposition is quicker and sharper than an iteration for so many relations, if it has so many entries.
DENSE, MOST_DENSE = 1500, 20_000_000
ITERATIONS = 300
CONVERGED = 1e-13
SAMPLES = 3  # random slopes that a relation is tried on


class Relations:
    """Linear relations among the slopes of a model's parameters, and random slopes that obey them.

    Args:
        shapes: of the parameters.
        places: parameters and sets of axes that have slopes.
        silent: for each place the entries whose slopes vanish.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], places: Iterable[Place], silent: dict[Place, np.ndarray]):
        self.sizes = {(leaf, axes): math.prod(shapes[leaf][axis] for axis in axes) for leaf, axes in places}
        ends = np.cumsum([0, *self.sizes.values()])
        self.starts = dict(zip(self.sizes, ends[:-1].tolist(), strict=True))
        self.total = int(ends[-1])
        self.rows: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.values: list[np.ndarray] = []
        self.count = 0
        self.drawn: dict[Place, np.ndarray] | None = None
        for leaf, axes in self.sizes:
            for axis in axes:
                self._sum_over(shapes[leaf], leaf, axes, axis)
        for place, entries in silent.items():
            self._add(np.arange(len(entries)), self.starts[place] + entries, np.ones(len(entries)), len(entries))

    def add_family(self, parts: Iterable[tuple[Part, float]]) -> None:
        """Add Σ_p w_p t_p = 0, for each of the d entries of the parts."""
        rows, columns, values, length = [], [], [], 0
        for part, weight in parts:
            length = part.length
            entries = part.indices
            rows.append(np.repeat(np.arange(length), entries.shape[1]))
            columns.append(self.starts[part.leaf, part.axes] + entries.ravel())
            values.append(np.full(entries.size, weight))
        self._add(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), length)

    def _sum_over(self, shape: tuple[int, ...], leaf: int, axes: tuple[int, ...], axis: int) -> None:
        """Slopes along some axes, summed over one of them, are the slopes along the others."""
        rest = tuple(other for other in axes if other != axis)
        if (leaf, rest) not in self.sizes:
            return
        lengths = [shape[other] for other in axes]
        kept = np.arange(self.sizes[leaf, rest]).reshape([shape[other] for other in rest])
        of_each = np.broadcast_to(np.expand_dims(kept, axes.index(axis)), lengths).ravel()
        rows = np.concatenate([of_each, kept.ravel()])
        columns = np.concatenate(
            [self.starts[leaf, axes] + np.arange(of_each.size), self.starts[leaf, rest] + kept.ravel()]
        )
        self._add(rows, columns, np.concatenate([np.ones(of_each.size), -np.ones(kept.size)]), kept.size)

    def _add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, count: int) -> None:
        self.rows.append(rows + self.count)
        self.columns.append(columns)
        self.values.append(values)
        self.count += count
        self.drawn = None

    def samples(self, random: np.random.Generator) -> dict[Place, np.ndarray]:
        """A few random slopes that obey every relation, the same ones until a relation is added."""
        if self.drawn is None:
            self.drawn = self.draw(SAMPLES, random)
        return self.drawn

    def draw(self, count: int, random: np.random.Generator) -> dict[Place, np.ndarray]:
        """Random slopes, `count` rows, that obey every relation."""
        free = random.standard_normal((self.total, count))
        if self.count:
            place = (np.concatenate(self.rows), np.concatenate(self.columns))
            matrix = scipy.sparse.csr_array((np.concatenate(self.values), place), shape=(self.count, self.total))
            free -= _row_space_part(matrix, free)
        return {place: free[start : start + self.sizes[place]].T for place, start in self.starts.items()}


def _row_space_part(matrix: Any, vectors: np.ndarray) -> np.ndarray:
    """The projection of vectors, in columns, on the row space of a matrix whose rows may depend on each other."""
    lengths = np.sqrt(matrix.power(2).sum(axis=1))
    matrix = scipy.sparse.diags_array(1 / np.maximum(lengths, 1e-300)) @ matrix
    if matrix.shape[0] <= DENSE and math.prod(matrix.shape) <= MOST_DENSE:
        decompose: Any = scipy.linalg.qr
        basis, triangle, _ = decompose(matrix.toarray().T, mode="economic", pivoting=True)
        size = np.abs(np.diag(triangle))
        basis = basis[:, : int(np.sum(size > 1e-9 * size[0]))]
        return basis @ (basis.T @ vectors)
    target = matrix @ vectors
    solution = np.zeros_like(target)
    residual = target.copy()
    direction = residual.copy()
    size = np.sum(residual**2, axis=0)
    start = np.maximum(size, 1e-300)
    for _ in range(ITERATIONS):
        image = matrix @ (matrix.T @ direction)
        step = size / np.maximum(np.sum(direction * image, axis=0), 1e-300)
        solution += step * direction
        residual -= step * image
        following = np.sum(residual**2, axis=0)
        if np.all(following <= CONVERGED**2 * start):
            break
        direction = residual + following / np.maximum(size, 1e-300) * direction
        size = following
    return matrix.T @ solution
