"""Points of equal weight that have every moment of a standard normal vector up to the fourth degree.

With m = 2^r, N = (m + 2)² points: the m² rows of a two-level orthogonal array of strength four, of entries
±√((m + 2)/m); the points ±√(m + 2) e_i; and the origin for the rest. Every coordinate then has the moments 1, 0, 1, 0,
3 and two of them E z_i²z_j² = 1. The array comes from the columns (x, x³), x ≠ 0, over the field of 2^r elements, of
which no four are linearly dependent (the double-error-correcting BCH code).
"""

import functools

import numpy as np

# Irreducible polynomials over two elements, by degree r; bit k is the coefficient of X^k.
MODULI = {2: 0b111, 3: 0b1011, 4: 0b10011, 5: 0b100101, 6: 0b1000011, 7: 0b10000011, 8: 0b100011011}


@functools.lru_cache(maxsize=8)
def normal_points(dimensions: int) -> np.ndarray:
    """The points, of shape (N, dimensions), read-only.

    Args:
        dimensions: from 1 to 255; N is 36 for up to 3 of them, 100 for 7, 324 for 15, 1156 for 31, 4356 for 63.

    Raises:
        ValueError: for more dimensions.
    """
    order = next((r for r in MODULI if dimensions < 2**r), None)
    if order is None:
        raise ValueError(f"the moments of {dimensions} dimensions are to be matched; expected at most 255.")
    size = 2**order
    # An entry of a linear orthogonal array is the parity of the bits that its row and its column have in common.
    rows = np.arange(size**2)[:, None] & np.array(_columns(order)[:dimensions])
    signs = 1.0 - 2.0 * _parity(rows, 2 * order)
    points = np.zeros(((size + 2) ** 2, dimensions))
    points[: size**2] = signs * np.sqrt((size + 2) / size)
    axes = np.sqrt(size + 2) * np.eye(dimensions)
    points[size**2 : size**2 + 2 * dimensions] = np.concatenate([axes, -axes])
    points.setflags(write=False)
    return points


def _columns(order: int) -> list[int]:
    """(x, x³) for every x ≠ 0, as numbers of 2r bits."""
    return [x << order | _product(x, _product(x, x, order), order) for x in range(1, 2**order)]


def _product(a: int, b: int, order: int) -> int:
    """The product in the field of 2^r elements."""
    total = 0
    while b:
        total ^= a if b & 1 else 0
        a, b = a << 1, b >> 1
        a ^= MODULI[order] if a >> order else 0
    return total


def _parity(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Whether the number of set bits is odd: 1 or 0."""
    return np.sum([(numbers >> place) & 1 for place in range(bits)], axis=0) % 2
