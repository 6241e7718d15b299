"""Symmetries of a loss that nobody declared, found by number."""

from ._find_symmetries import find_symmetries
from ._found import FoundSymmetry, Symmetries

__all__ = ["FoundSymmetry", "Symmetries", "find_symmetries"]
