"""The Noether flow: rates of charges in continuous and discrete time, and relaxation rates."""

from ._law import AbstractLaw, ChargeLaw, as_law
from ._rates import expected_charge_step, noether_flow
from ._relaxation import relaxation_rates

__all__ = [
    "AbstractLaw",
    "ChargeLaw",
    "as_law",
    "expected_charge_step",
    "noether_flow",
    "relaxation_rates",
]
