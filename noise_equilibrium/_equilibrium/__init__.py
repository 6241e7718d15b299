"""Noise equilibria: closed forms for leg symmetries, singular cases included, with implicit derivatives."""

from ._find import Equilibrium, find_equilibrium
from ._status import Status

__all__ = ["Equilibrium", "Status", "find_equilibrium"]
