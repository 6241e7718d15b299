"""Noise equilibria: of one symmetry or several, singular cases included, with implicit derivatives; and predictions."""

from ._find import Equilibrium, find_equilibrium
from ._predict import Prediction, predict
from ._status import Status

__all__ = ["Equilibrium", "Prediction", "Status", "find_equilibrium", "predict"]
