"""Symmetries: legs, algebras, charges, the group action and its generator."""

from ._check import SymmetryError, check_symmetry, symmetry_violation
from ._families import double_rotation, neuron_rescaling, rescaling, scaling
from ._leg import Leg
from ._symmetry import AbstractSymmetry, BoundSymmetry, Symmetry, bind

__all__ = [
    "AbstractSymmetry",
    "BoundSymmetry",
    "Leg",
    "Symmetry",
    "SymmetryError",
    "bind",
    "check_symmetry",
    "double_rotation",
    "neuron_rescaling",
    "rescaling",
    "scaling",
    "symmetry_violation",
]
