"""From learning rates η and η/2 to η = 0: the value, its standard error, and what is left of higher orders."""

from typing import NamedTuple

import numpy as np


class Limit(NamedTuple):
    """A mean over independent runs, extrapolated to η → 0.

    Attributes:
        value: 2 m(η/2) − m(η).
        error: its standard error.
        first: |m(η/2) − m(η)|, what the last halving changed.
    """

    value: np.ndarray
    error: np.ndarray
    first: np.ndarray

    def remainder(self, size: float) -> float:
        """How much of the second order in η may be left.

        With m(η) = m₀ + aη + bη² the value errs by bη²/2, and the last halving changed aη/2. If the orders fall
        geometrically, |b m₀| ≤ a², that is at most 2 (aη/2)²/m₀.

        Args:
            size: |m₀|, of the quantity that is expanded in η: what is small beside it may be a difference.
        """
        return float(2 * np.linalg.norm(self.first) ** 2 / size)


def limit(coarse: np.ndarray, fine: np.ndarray) -> Limit:
    """The limit from runs at η and at η/2, each an array with independent runs in front."""
    means = coarse.mean(axis=0), fine.mean(axis=0)
    errors = [runs.std(axis=0, ddof=1) / len(runs) ** 0.5 for runs in (coarse, fine)]
    return Limit(2 * means[1] - means[0], np.hypot(2 * errors[1], errors[0]), np.abs(means[1] - means[0]))
