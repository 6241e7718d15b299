"""Data: populations with known moments, and real data sets that need no download."""

from ._digits import digits
from ._linear_teacher import LinearTeacher

__all__ = ["LinearTeacher", "digits"]
