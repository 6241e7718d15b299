"""The noise of a minibatch gradient, from that of a single sample."""

from typing import Any


def batch_factor(count: int, size: Any, replacement: bool = True) -> Any:
    """Σ_S / Σ: 1/S, times (N − S)/(N − 1) without replacement.

    Args:
        count: N, the number of samples.
        size: S, the batch size.
        replacement: whether the samples of a batch are independent draws.

    Raises:
        ValueError: if S < 1, or S > N without replacement.
    """
    if not hasattr(size, "__index__") or isinstance(size, bool) or size < 1:
        raise ValueError(f"batch_size is {size!r}; expected an integer of at least 1.")
    if replacement:
        return 1 / size
    if size > count:
        raise ValueError(
            f"batch_size is {size} without replacement and the data hold {count} samples; expected a batch no larger "
            "than the data, or replacement=True."
        )
    return (count - size) / (size * max(count - 1, 1))
