"""Dynamics of stochastic gradient descent under parameter symmetries.

A `Problem` (a per-sample loss and data) and a `Symmetry` go in; `noise_moments` measures what the gradient noise does
along the symmetry; `noether_flow`, `find_equilibrium` and `simulate` say where it drives the parameters, how fast, and
show it happen.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import data, models
from ._dynamics import (
    GD,
    SDE,
    SGD,
    SVAG,
    AbstractDynamics,
    FirstTime,
    GradientFlow,
    Optax,
    RunningMoments,
    RunState,
    Trajectory,
    WeakError,
    first_time,
    resume,
    running,
    sde_terms,
    simulate,
    timed,
    weak_error,
)
from ._equilibrium import Equilibrium, Status, find_equilibrium
from ._flow import expected_charge_step, noether_flow, relaxation_rates
from ._noise import Moments, gradient_covariance, noise_moments, sample_noise
from ._parameters import flatten
from ._population import Redrawn, Stream
from ._problem import Problem
from ._symmetry import (
    AbstractSymmetry,
    Leg,
    Symmetry,
    SymmetryError,
    check_symmetry,
    double_rotation,
    neuron_rescaling,
    rescaling,
    scaling,
    symmetry_violation,
)

try:
    __version__ = version("noise_equilibrium")
except PackageNotFoundError:  # used from a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "GD",
    "SDE",
    "SGD",
    "SVAG",
    "AbstractDynamics",
    "AbstractSymmetry",
    "Equilibrium",
    "FirstTime",
    "GradientFlow",
    "Leg",
    "Moments",
    "Optax",
    "Problem",
    "Redrawn",
    "RunState",
    "RunningMoments",
    "Status",
    "Stream",
    "Symmetry",
    "SymmetryError",
    "Trajectory",
    "WeakError",
    "check_symmetry",
    "data",
    "double_rotation",
    "expected_charge_step",
    "find_equilibrium",
    "first_time",
    "flatten",
    "gradient_covariance",
    "models",
    "neuron_rescaling",
    "noether_flow",
    "noise_moments",
    "relaxation_rates",
    "rescaling",
    "resume",
    "running",
    "sample_noise",
    "scaling",
    "sde_terms",
    "simulate",
    "symmetry_violation",
    "timed",
    "weak_error",
]


def __getattr__(name: str) -> Any:
    """Load `plots`, and with it matplotlib, on first use."""
    if name == "plots":
        return import_module(".plots", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
