"""The Noether flow: rates of charges in continuous and discrete time, and relaxation rates."""

from ._law import AbstractLaw, ChargeLaw, as_law
from ._orbit import OrbitFlow, orbit_flow
from ._rates import expected_charge_step, noether_flow
from ._relaxation import RelaxationModes, relaxation_modes, relaxation_rates
from ._time_scales import TimeScales, time_scales

__all__ = [
    "AbstractLaw",
    "ChargeLaw",
    "OrbitFlow",
    "RelaxationModes",
    "TimeScales",
    "as_law",
    "expected_charge_step",
    "noether_flow",
    "orbit_flow",
    "relaxation_modes",
    "relaxation_rates",
    "time_scales",
]
