"""Dynamics in discrete and continuous time, the one loop that runs them, and what it observes."""

from ._dynamics import AbstractDynamics, as_rate, optax_promotion
from ._files import load_run, save_run
from ._gradient_flow import GradientFlow
from ._momentum import Momentum
from ._noisy import AbstractMinibatched, AbstractNoiseless
from ._observables import AbstractSummary, FirstTime, RunningMoments, first_time, running, timed
from ._optax import Optax
from ._preconditioned import Preconditioned
from ._runge_kutta import AbstractFlow, Field
from ._sde import SDE
from ._sde_terms import sde_terms
from ._sgd import GD, SGD
from ._simulate import RunState, Trajectory, resume, simulate
from ._svag import SVAG
from ._unroll import chooses, unrolled
from ._weak_error import WeakError, weak_error

__all__ = [
    "GD",
    "SDE",
    "SGD",
    "SVAG",
    "AbstractDynamics",
    "AbstractFlow",
    "AbstractMinibatched",
    "AbstractNoiseless",
    "AbstractSummary",
    "Field",
    "FirstTime",
    "GradientFlow",
    "Momentum",
    "Optax",
    "Preconditioned",
    "RunState",
    "RunningMoments",
    "Trajectory",
    "WeakError",
    "as_rate",
    "chooses",
    "first_time",
    "load_run",
    "optax_promotion",
    "resume",
    "running",
    "save_run",
    "sde_terms",
    "simulate",
    "timed",
    "unrolled",
    "weak_error",
]
