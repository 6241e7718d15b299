"""Handwritten digits: real images that ship with scikit-learn."""

from typing import Any

import numpy as np


def digits(scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's handwritten digits as a regression problem.

    Pixels that never change are left out, the others standardised to mean 0 and variance `scale`²; the targets are
    one-hot labels with their mean taken out.

    Args:
        scale: the standard deviation of every input; 3/√d for d inputs if not given, so that E‖x‖² = 9.

    Returns:
        x of shape (1797, 61) and y of shape (1797, 10), in double precision.

    Raises:
        ImportError: if scikit-learn is not installed.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (1998), as shipped with scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    pixels, labels = np.asarray(bunch.data), np.asarray(bunch.target)
    pixels = pixels[:, pixels.std(axis=0) > 0]
    x = (3 / np.sqrt(pixels.shape[1]) if scale is None else scale) * (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    y = np.eye(10)[labels]
    return x, y - y.mean(axis=0)
