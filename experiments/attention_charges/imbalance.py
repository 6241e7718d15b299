"""How far the noise of queries and keys is from balance."""

import numpy as np


def imbalance(plus: np.ndarray, minus: np.ndarray, lead: int) -> np.ndarray:
    """‖M₊ − M₋‖/(‖M₊‖ + ‖M₋‖), of all heads together: 0 in balance, 1 where one side has all the noise.

    Args:
        plus: M₊ of shape (…, k, k) or (…, H, k, k).
        minus: M₋, likewise.
        lead: how many axes the … are; they are those of the result.
    """

    def norm(matrices: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrices.reshape(*matrices.shape[:lead], -1), axis=-1)

    return norm(plus - minus) / (norm(plus) + norm(minus))
