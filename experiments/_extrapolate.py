"""From two learning rates to η = 0: the value, its standard error, and what is left of higher orders."""

from typing import NamedTuple

import numpy as np


class Limit(NamedTuple):
    """A mean over independent runs, extrapolated to η → 0.

    Attributes:
        value: (r m(η/r) − m(η))/(r − 1).
        error: its standard error.
        first: |m(η/r) − m(η)|, what the lower rate changed.
    """

    value: np.ndarray
    error: np.ndarray
    first: np.ndarray

    def remainder(self, size: float) -> float:
        """How much of the second order in η may be left, for r = 2.

        With m(η) = m₀ + aη + bη² the value errs by bη²/2, and the last halving changed aη/2. If the orders fall
        geometrically, |b m₀| ≤ a², that is at most 2 (aη/2)²/m₀.

        Args:
            size: |m₀|, of the quantity that is expanded in η: what is small beside it may be a difference.
        """
        return float(2 * np.linalg.norm(self.first) ** 2 / size)


def weights(ratio: float) -> np.ndarray:
    """Of m(η) and of m(η/r), so that what is of first order in η cancels: (−1, r)/(r − 1)."""
    return np.array([-1, ratio]) / (ratio - 1)


def limit(coarse: np.ndarray, fine: np.ndarray, ratio: float = 2.0) -> Limit:
    """The limit from runs at η and at η/r, each an array with independent runs in front."""
    means = np.stack([coarse.mean(axis=0), fine.mean(axis=0)])
    errors = np.stack([runs.std(axis=0, ddof=1) / len(runs) ** 0.5 for runs in (coarse, fine)])
    both = weights(ratio).reshape(-1, *[1] * (means.ndim - 1))
    return Limit((both * means).sum(axis=0), np.linalg.norm(both * errors, axis=0), np.abs(means[1] - means[0]))
