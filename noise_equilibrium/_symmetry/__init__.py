"""Symmetries: legs, algebras, charges, the group action and its generator."""

from ._bind import Bound, BoundSymmetries, bind, bind_each, is_matrix, is_scaling, leaves_of
from ._check import SymmetryError, check_symmetry, symmetry_violation
from ._exponential import BoundExponential, ExponentialSymmetry, exponential_symmetry
from ._families import double_rotation, neuron_rescaling, rescaling, scaling
from ._leg import BoundLeg, Leg
from ._symmetry import AbstractSymmetry, BoundSymmetry, Symmetry

__all__ = [
    "AbstractSymmetry",
    "Bound",
    "BoundExponential",
    "BoundLeg",
    "BoundSymmetries",
    "BoundSymmetry",
    "ExponentialSymmetry",
    "Leg",
    "Symmetry",
    "SymmetryError",
    "bind",
    "bind_each",
    "check_symmetry",
    "double_rotation",
    "exponential_symmetry",
    "is_matrix",
    "is_scaling",
    "leaves_of",
    "neuron_rescaling",
    "rescaling",
    "scaling",
    "symmetry_violation",
]
