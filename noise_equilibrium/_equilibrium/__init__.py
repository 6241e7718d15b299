"""Noise equilibria: of one symmetry or several, singular cases included, with implicit derivatives; and predictions."""

from ._broken import Rest, rest_on_orbit
from ._find import Equilibrium, find_equilibrium
from ._move_along import OBJECTIVES, move_along
from ._pinning import Pinning, pinning
from ._predict import Prediction, predict
from ._raise import or_raise
from ._status import Status

__all__ = [
    "OBJECTIVES",
    "Equilibrium",
    "Pinning",
    "Prediction",
    "Rest",
    "Status",
    "find_equilibrium",
    "move_along",
    "or_raise",
    "pinning",
    "predict",
    "rest_on_orbit",
]
