"""Dynamics of stochastic gradient descent under parameter symmetries.

A `Problem` (a per-sample loss and data) and a `Symmetry` go in; `noise_moments` measures what the gradient noise does
along the symmetry; `noether_flow`, `find_equilibrium` and `simulate` say where it drives the parameters, how fast, and
show it happen.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import data, models
from ._dynamics import GD, SDE, SGD, AbstractDynamics, GradientFlow, Trajectory, simulate
from ._equilibrium import Equilibrium, Status, find_equilibrium
from ._flow import expected_charge_step, noether_flow, relaxation_rates
from ._noise import Moments, gradient_covariance, noise_moments, sample_noise
from ._parameters import flatten
from ._problem import Problem, Stream
from ._sweep import Labelled, SweepError, labelled, run_key, sweep
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
    "AbstractDynamics",
    "AbstractSymmetry",
    "Equilibrium",
    "GradientFlow",
    "Labelled",
    "Leg",
    "Moments",
    "Problem",
    "Status",
    "Stream",
    "SweepError",
    "Symmetry",
    "SymmetryError",
    "Trajectory",
    "check_symmetry",
    "data",
    "double_rotation",
    "expected_charge_step",
    "find_equilibrium",
    "flatten",
    "gradient_covariance",
    "labelled",
    "models",
    "neuron_rescaling",
    "noether_flow",
    "noise_moments",
    "relaxation_rates",
    "rescaling",
    "run_key",
    "sample_noise",
    "scaling",
    "simulate",
    "sweep",
    "symmetry_violation",
]


def __getattr__(name: str) -> Any:
    """Load `plots`, and with it matplotlib, on first use."""
    if name == "plots":
        return import_module(".plots", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
