"""Symmetries: legs, algebras, charges, the group action and its generator."""

from ._bind import BoundSymmetries, bind, bind_each
from ._check import SymmetryError, check_symmetry, symmetry_violation
from ._exponential import BoundExponential, ExponentialSymmetry, exponential_symmetry
from ._families import double_rotation, neuron_rescaling, rescaling, scaling
from ._leg import BoundLeg, Leg
from ._symmetry import AbstractSymmetry, BoundSymmetry, ElementwiseLegs, MatrixLegs, Symmetry

__all__ = [
    "AbstractSymmetry",
    "BoundExponential",
    "BoundLeg",
    "BoundSymmetries",
    "BoundSymmetry",
    "ElementwiseLegs",
    "ExponentialSymmetry",
    "Leg",
    "MatrixLegs",
    "Symmetry",
    "SymmetryError",
    "bind",
    "bind_each",
    "check_symmetry",
    "double_rotation",
    "exponential_symmetry",
    "neuron_rescaling",
    "rescaling",
    "scaling",
    "symmetry_violation",
]
