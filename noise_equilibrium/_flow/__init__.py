"""The Noether flow: rates of charges in continuous and discrete time, and relaxation rates."""

from ._adapt import adapted, settling
from ._charge_law import ChargeLaw
from ._lanczos import krylov
from ._law import AbstractLaw, NoiseScale, as_law, require_plain
from ._orbit import OrbitFlow, orbit_flow
from ._rates import expected_charge_step, noether_flow
from ._relaxation import RelaxationModes, relaxation_modes, relaxation_rates
from ._time_scales import TimeScales, time_scales

__all__ = [
    "AbstractLaw",
    "ChargeLaw",
    "NoiseScale",
    "OrbitFlow",
    "RelaxationModes",
    "TimeScales",
    "adapted",
    "as_law",
    "expected_charge_step",
    "krylov",
    "noether_flow",
    "orbit_flow",
    "relaxation_modes",
    "relaxation_rates",
    "require_plain",
    "settling",
    "time_scales",
]
