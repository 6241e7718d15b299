"""Null spaces of measured matrices, as sparse vectors with small rational weights, and how clear they are."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import scipy.optimize
import scipy.sparse

# A null vector may be this many times larger than rounding errors explain. Measured on the models of the tests, in
# both precisions: symmetries stay below 0.5; one broken by ε = 1e-5 in a normalisation is at 17 in single precision.
MARGIN = 4.0
FLAT = 3e-3  # entries of a null vector that are smaller than this, of the largest, are zero
EXACT = 1e-7  # the same for vectors that are known to rounding
LARGEST_DENOMINATOR, LARGEST_POWER = 12, 32
MOST_TO_MINIMISE = 60_000  # entries of the rows among which the sparsest are looked for by linear programming
ATTEMPTS = 12  # costs of entries that are tried
ROWS_A_COLUMN = 6  # of a tall matrix only so many rows for each column are looked at


@dataclass(frozen=True)
class NullSpace:
    """The null space of a matrix with columns of unit size.

    Attributes:
        vectors: (r, c), a singular vector in each row, the one of the largest singular value first.
        values: the singular values, and the next larger one in front (1 if there is none).
    """

    vectors: np.ndarray
    values: np.ndarray

    @property
    def basis(self) -> np.ndarray:
        """The null space in reduced row echelon form, up to noise."""
        return echelon(self.vectors)

    @property
    def next(self) -> float:
        """The smallest singular value that is not one of the null space."""
        return float(self.values[0])

    def clearer(self) -> "NullSpace":
        """Without its least clear vector."""
        return NullSpace(self.vectors[1:], self.values[1:])


def tall(matrix: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random selection of rows of a matrix that has more than it needs."""
    most = ROWS_A_COLUMN * matrix.shape[1] + 256
    if len(matrix) <= most:
        return matrix
    return matrix[np.sort(random.choice(len(matrix), most, replace=False))]


def null_space(matrix: np.ndarray, noise: np.ndarray) -> NullSpace:
    """The null space of a matrix whose columns have the root mean square 1.

    Args:
        matrix: (rows, c), more rows than columns.
        noise: (c,) the rounding error of each column, relative to its size.
    """
    triangle = np.linalg.qr(matrix, mode="r")
    _, values, rows = np.linalg.svd(triangle[: matrix.shape[1]], full_matrices=True)
    values = values / np.sqrt(len(matrix))
    explained = np.sqrt(rows**2 @ noise**2)
    count = int(np.sum(np.cumprod((values <= MARGIN * explained)[::-1])))
    first = len(values) - count
    return NullSpace(rows[first:], np.concatenate([values[first - 1 : first] if first else [1.0], values[first:]]))


def echelon(rows: np.ndarray, clear: float = FLAT) -> np.ndarray:
    """The reduced row echelon form of rows of about unit size, pivots taken from the left where they are clear.

    Args:
        rows: (r, c).
        clear: what a pivot exceeds; rows that have none are dropped.
    """
    return _eliminated(rows, clear)[0]


def pivots(rows: np.ndarray) -> list[int]:
    """The columns whose removal leaves nothing of a space, the last ones that will do."""
    if not len(rows):
        return []
    sized = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return sorted(rows.shape[1] - 1 - column for column in _eliminated(sized[:, ::-1], EXACT)[1])


def sparser(rows: np.ndarray) -> np.ndarray:
    """A basis of the same space with fewer entries: multiples of rows are taken from others; small entries are 0."""
    rows = np.where(np.abs(rows) > FLAT * np.abs(rows).max(axis=1, keepdims=True), rows, 0) if len(rows) else rows
    changed = True
    while changed:
        changed = False
        for one in range(len(rows)):
            for other in range(len(rows)):
                shared = np.flatnonzero((rows[one] != 0) & (rows[other] != 0))
                if one == other or not len(shared):
                    continue
                for ratio in np.unique(np.round(rows[one, shared] / rows[other, shared], 2)):
                    place = shared[np.argmin(np.abs(rows[one, shared] / rows[other, shared] - ratio))]
                    new = rows[one] - rows[one, place] / rows[other, place] * rows[other]
                    new = np.where(np.abs(new) > FLAT * np.abs(new).max(), new, 0)
                    if np.count_nonzero(new) < np.count_nonzero(rows[one]):
                        rows[one] = new
                        changed = True
                        break
    return rows


def sparsest(
    rows: np.ndarray, known: np.ndarray, is_plain: Callable[[np.ndarray], bool], random: np.random.Generator
) -> np.ndarray:
    """Rows with multiples of each other and of known ones added so that Σ|entries| is least: most entries are then 0.

    Args:
        rows: (r, c), weights that are new.
        known: (n, c), weights that may be added at will.
        is_plain: which weights are wanted, if several are as sparse: the costs of entries are varied until it holds.
        random: the source of random numbers.
    """
    rows = np.array(rows)
    if len(rows) + len(known) < 2 or (len(rows) + len(known)) * rows.shape[1] > MOST_TO_MINIMISE:
        return rows
    for one in range(len(rows)):
        free = np.concatenate([np.delete(rows, one, axis=0), known])
        best = rows[one]
        for attempt in range(ATTEMPTS):
            costs = 1 + 0.2 * random.random(rows.shape[1]) * (attempt > 0)
            found = _least(rows[one], free, costs)
            if found is not None and _rank(found, is_plain) < _rank(best, is_plain):
                best = found
            if is_plain(best):
                break
        rows[one] = best
    return rows


def _rank(vector: np.ndarray, is_plain: Callable[[np.ndarray], bool]) -> tuple[bool, int]:
    return not is_plain(vector), int(np.count_nonzero(vector))


def _least(vector: np.ndarray, free: np.ndarray, costs: np.ndarray) -> np.ndarray | None:
    """A vector plus the combination of free ones that makes Σ costs |entries| least."""
    count, size = len(vector), np.abs(vector).max()
    free = free / np.abs(free).max(axis=1, keepdims=True)
    bound, above = scipy.sparse.identity(count), scipy.sparse.csr_array(free.T)
    found = scipy.optimize.linprog(
        np.concatenate([np.zeros(len(free)), costs]),
        scipy.sparse.block_array([[above, -bound], [-above, -bound]]).tocsr(),
        np.concatenate([-vector, vector]) / size,
        bounds=[(None, None)] * len(free) + [(0, None)] * count,
    )
    if found.status != 0:
        return None
    least = vector / size + found.x[: len(free)] @ free
    return np.where(np.abs(least) > FLAT * np.abs(least).max(), least, 0)


def _eliminated(rows: np.ndarray, clear: float) -> tuple[np.ndarray, list[int]]:
    rows = np.array(rows, dtype=np.float64)
    found: list[int] = []
    for column in range(rows.shape[1]):
        done = len(found)
        if done == len(rows):
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if np.abs(rows[best, column]) <= clear:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        touched = np.flatnonzero((rows[:, column] != 0) & (np.arange(len(rows)) != done))
        rows[touched] -= np.outer(rows[touched, column], rows[done])
        found.append(column)
    return rows[: len(found)], found


def rational(weights: np.ndarray, tolerance: float, denominator: int = LARGEST_DENOMINATOR) -> np.ndarray | None:
    """Weights as multiples of the smallest, the first positive; small fractions, or None if they are no such numbers.

    Args:
        weights: non-zero numbers.
        tolerance: how far from a fraction they may be, relative to it.
        denominator: the largest one of a fraction.
    """
    if not np.all(np.isfinite(weights)) or not np.all(weights):
        return None
    scaled = weights / np.abs(weights).min() * np.sign(weights[0])
    fractions = [Fraction(float(weight)).limit_denominator(denominator) for weight in scaled]
    exact = np.array([float(fraction) for fraction in fractions])
    if np.abs(exact).max() > LARGEST_POWER:
        return None
    return exact if np.all(np.abs(exact - scaled) <= tolerance * np.abs(scaled)) else None
