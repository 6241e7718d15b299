"""How far two matrices are from equal, as Eq. (14) says they are at the noise equilibrium."""

import numpy as np


def residual(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖A − B‖/√(‖A‖‖B‖) in the Frobenius norm.

    Args:
        a: matrices of shape (…, d, d).
        b: likewise.

    Returns:
        An array of shape (…); 0 where they are equal.
    """

    def norm(matrices: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrices, axis=(-2, -1))

    return norm(a - b) / np.sqrt(norm(a) * norm(b))
