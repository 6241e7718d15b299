"""Dynamics of stochastic gradient descent under parameter symmetries.

A `Problem` (a per-sample loss and data) and a `Symmetry` go in; `measure` says what the gradient noise does along the
symmetry; `noether_flow`, `find_equilibrium` and `simulate` say where it drives the parameters, how fast, and
show it happen.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import data, exact, models
from ._citation import citation
from ._discovery import FoundSymmetry, Symmetries, find_symmetries
from ._dynamics import (
    GD,
    SDE,
    SGD,
    SVAG,
    AbstractDynamics,
    FirstTime,
    GradientFlow,
    Momentum,
    Optax,
    Preconditioned,
    RunningMoments,
    RunState,
    Trajectory,
    WeakError,
    first_time,
    load_run,
    resume,
    running,
    save_run,
    sde_terms,
    simulate,
    timed,
    weak_error,
)
from ._equilibrium import (
    Equilibrium,
    Pinning,
    Prediction,
    Rest,
    Status,
    find_equilibrium,
    move_along,
    pinning,
    predict,
    rest_on_orbit,
)
from ._flow import (
    OrbitFlow,
    RelaxationModes,
    TimeScales,
    expected_charge_step,
    noether_flow,
    orbit_flow,
    relaxation_modes,
    relaxation_rates,
    time_scales,
)
from ._group import AbstractGroup, ElementwiseGroup, MatrixGroup
from ._noise import (
    AbstractMoments,
    Explanation,
    GradientNoise,
    LegPath,
    Measurement,
    MomentEstimate,
    Moments,
    PartialMoments,
    RedrawnMoments,
    SpectralMoments,
    charge_rates,
    combine_moments,
    estimate_moments,
    explain,
    gradient_covariance,
    gradient_noise_scale,
    measure,
    noise_moments,
    noise_trace,
    partial_moments,
    redrawn_moments,
    sample_noise,
)
from ._parameters import flatten
from ._population import Redrawn, Stream
from ._problem import Problem
from ._sweep import Labelled, SweepError, labelled, run_key, sweep
from ._symmetry import (
    AbstractSymmetry,
    ExponentialSymmetry,
    Leg,
    Symmetry,
    SymmetryError,
    check_symmetry,
    double_rotation,
    exponential_symmetry,
    neuron_rescaling,
    rescaling,
    scaling,
    symmetry_violation,
)
from ._training import (
    Diagnosis,
    RebalanceState,
    RotationalEquilibrium,
    diagnose,
    rebalance,
    rotational_equilibrium,
)
from ._valley import EntropicFlow, Settled, ValleyMotion, entropic_loss, settle, valley_drift, valley_motion

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
    "AbstractGroup",
    "AbstractMoments",
    "AbstractSymmetry",
    "Diagnosis",
    "ElementwiseGroup",
    "EntropicFlow",
    "Equilibrium",
    "Explanation",
    "ExponentialSymmetry",
    "FirstTime",
    "FoundSymmetry",
    "GradientFlow",
    "GradientNoise",
    "Labelled",
    "Leg",
    "LegPath",
    "MatrixGroup",
    "Measurement",
    "MomentEstimate",
    "Moments",
    "Momentum",
    "Optax",
    "OrbitFlow",
    "PartialMoments",
    "Pinning",
    "Preconditioned",
    "Prediction",
    "Problem",
    "RebalanceState",
    "Redrawn",
    "RedrawnMoments",
    "RelaxationModes",
    "Rest",
    "RotationalEquilibrium",
    "RunState",
    "RunningMoments",
    "Settled",
    "SpectralMoments",
    "Status",
    "Stream",
    "SweepError",
    "Symmetries",
    "Symmetry",
    "SymmetryError",
    "TimeScales",
    "Trajectory",
    "ValleyMotion",
    "WeakError",
    "charge_rates",
    "check_symmetry",
    "citation",
    "combine_moments",
    "data",
    "diagnose",
    "double_rotation",
    "entropic_loss",
    "estimate_moments",
    "exact",
    "expected_charge_step",
    "explain",
    "exponential_symmetry",
    "find_equilibrium",
    "find_symmetries",
    "first_time",
    "flatten",
    "gradient_covariance",
    "gradient_noise_scale",
    "labelled",
    "load_run",
    "measure",
    "models",
    "move_along",
    "neuron_rescaling",
    "noether_flow",
    "noise_moments",
    "noise_trace",
    "orbit_flow",
    "partial_moments",
    "pinning",
    "predict",
    "rebalance",
    "redrawn_moments",
    "relaxation_modes",
    "relaxation_rates",
    "rescaling",
    "rest_on_orbit",
    "resume",
    "rotational_equilibrium",
    "run_key",
    "running",
    "sample_noise",
    "save_run",
    "scaling",
    "sde_terms",
    "settle",
    "simulate",
    "sweep",
    "symmetry_violation",
    "time_scales",
    "timed",
    "valley_drift",
    "valley_motion",
    "weak_error",
]


def __getattr__(name: str) -> Any:
    """Load `plots`, and with it matplotlib, on first use."""
    if name == "plots":
        return import_module(".plots", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
