"""Sweeps: seeds × hyper-parameters as one labelled, resumable data set."""

from ._errors import SweepError
from ._results import Labelled, labelled
from ._run_key import run_key
from ._sweep import sweep

__all__ = ["Labelled", "SweepError", "labelled", "run_key", "sweep"]
