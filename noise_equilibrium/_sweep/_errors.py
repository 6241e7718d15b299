"""What a sweep raises when some runs could not be done."""

from typing import Any


class SweepError(RuntimeError):
    """Some runs of a sweep could not be done. The message gives their coordinates; all others are done and kept.

    Attributes:
        dataset: the `xarray.Dataset` of what is done, with a variable `done`; where that is False, floating-point
            results are NaN, others 0, and mean nothing. None if the sweep stopped before anything was done.
    """

    def __init__(self, message: str, dataset: Any = None):
        super().__init__(message)
        self.dataset = dataset
