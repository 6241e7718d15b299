"""In a training loop of the user's own: what its symmetries are up to, and moving its parameters along their orbits."""

from ._diagnose import diagnose
from ._diagnosis import Diagnosis
from ._rebalance import RebalanceState, rebalance
from ._rotational import RotationalEquilibrium, rotational_equilibrium

__all__ = [
    "Diagnosis",
    "RebalanceState",
    "RotationalEquilibrium",
    "diagnose",
    "rebalance",
    "rotational_equilibrium",
]
