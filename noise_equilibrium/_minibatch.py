"""A minibatch: how its samples are chosen, and how much of the noise of one sample its mean gradient keeps."""

from typing import Any, Literal

import equinox as eqx
import numpy as np

from ._validate import integer

Replacement = bool | Literal["epoch"]
EPOCH = "epoch"


class Minibatches(eqx.Module):
    """Batches of S samples, in one of three modes of sampling.

    True: independent draws, as they always are on a Stream. False: no sample twice in a batch. "epoch": none twice in
    an epoch, which has ⌊N/S⌋ steps on the batches of one random permutation; the N mod S samples left over are others
    in every epoch.

    Args:
        size: S ≥ 1.
        replacement: True, False or "epoch".

    Raises:
        ValueError: for a size that is no integer ≥ 1, or another word.
    """

    size: int = eqx.field(static=True)
    replacement: Replacement = eqx.field(static=True)

    def __init__(self, size: Any, replacement: Any):
        self.size = integer(size, "batch_size", 1)
        self.replacement = as_replacement(replacement)

    def require_fit(self, count: int) -> None:
        """Raise a ValueError if N = `count` samples do not suffice for a batch."""
        if self.replacement is not True and self.size > count:
            raise ValueError(
                f"batch_size is {self.size} without replacement and the data hold {count} samples; "
                "expected a batch no larger than the data, or replacement=True."
            )

    def noise_ratio(self, count: int) -> float:
        """Cov ĝ / Σ of a batch from N = `count` samples: 1/S, times (N − S)/(N − 1) unless with replacement.

        A batch of a shuffled epoch is, by itself, one without replacement. It depends on the other batches of its
        epoch, which moves a charge at the next order in η (theory, "Shuffled epochs").

        Raises:
            ValueError: if the samples do not suffice for a batch.
        """
        self.require_fit(count)
        if self.replacement is True:
            return 1 / self.size
        return (count - self.size) / (self.size * max(count - 1, 1))  # one sample has no noise


def as_replacement(value: Any) -> Replacement:
    """A mode of sampling.

    Raises:
        ValueError: for anything but True, False or "epoch".
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) and value == EPOCH:
        return EPOCH
    raise ValueError(
        f"replacement is {value!r}; expected True (independent draws), False (no sample twice in a batch) or "
        f"{EPOCH!r} (none twice in an epoch)."
    )
