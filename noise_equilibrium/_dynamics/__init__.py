"""Dynamics in discrete and continuous time, the one loop that runs them, and what it observes."""

from ._dynamics import AbstractDynamics, optax_promotion
from ._gradient_flow import GradientFlow
from ._observables import AbstractSummary, FirstTime, RunningMoments, first_time, running, timed
from ._optax import Optax
from ._sde import SDE
from ._sde_terms import sde_terms
from ._sgd import GD, SGD
from ._simulate import RunState, Trajectory, resume, simulate
from ._svag import SVAG
from ._weak_error import WeakError, weak_error

__all__ = [
    "GD",
    "SDE",
    "SGD",
    "SVAG",
    "AbstractDynamics",
    "AbstractSummary",
    "FirstTime",
    "GradientFlow",
    "Optax",
    "RunState",
    "RunningMoments",
    "Trajectory",
    "WeakError",
    "first_time",
    "optax_promotion",
    "resume",
    "running",
    "sde_terms",
    "simulate",
    "timed",
    "weak_error",
]
