"""Noise equilibria: of one symmetry or several, singular cases included, with implicit derivatives; and predictions."""

from ._find import Equilibrium, find_equilibrium
from ._move_along import OBJECTIVES, move_along
from ._predict import Prediction, predict
from ._status import Status

__all__ = ["OBJECTIVES", "Equilibrium", "Prediction", "Status", "find_equilibrium", "move_along", "predict"]
