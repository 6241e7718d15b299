"""Dynamics in discrete and continuous time, and the one loop that runs them."""

from ._dynamics import AbstractDynamics
from ._gradient_flow import GradientFlow
from ._sde import SDE
from ._sgd import GD, SGD
from ._simulate import Trajectory, simulate

__all__ = ["GD", "SDE", "SGD", "AbstractDynamics", "GradientFlow", "Trajectory", "simulate"]
