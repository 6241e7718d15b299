"""Symmetries: legs, algebras, charges, the group action and its generator."""

from ._bind import BoundSymmetries, bind, bind_each
from ._check import SymmetryError, check_symmetry, symmetry_violation
from ._exponential import BoundExponential, ExponentialSymmetry, exponential_symmetry
from ._families import double_rotation, neuron_rescaling, rescaling, scaling
from ._leg import BoundLeg, Leg
from ._pattern import ACTED, SHARED, Factor, acted_axis, tells_apart_what_is_mixed, whole, window_of
from ._symmetry import AbstractSymmetry, BoundSymmetry, ElementwiseLegs, MatrixLegs, Symmetry, share_entries

__all__ = [
    "ACTED",
    "SHARED",
    "AbstractSymmetry",
    "BoundExponential",
    "BoundLeg",
    "BoundSymmetries",
    "BoundSymmetry",
    "ElementwiseLegs",
    "ExponentialSymmetry",
    "Factor",
    "Leg",
    "MatrixLegs",
    "Symmetry",
    "SymmetryError",
    "acted_axis",
    "bind",
    "bind_each",
    "check_symmetry",
    "double_rotation",
    "exponential_symmetry",
    "neuron_rescaling",
    "rescaling",
    "scaling",
    "share_entries",
    "symmetry_violation",
    "tells_apart_what_is_mixed",
    "whole",
    "window_of",
]
