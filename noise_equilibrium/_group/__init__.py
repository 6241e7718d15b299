"""Groups of known parameters: one number per direction, or a matrix per block; their action, equilibria and rates."""

from ._abstract import AbstractGroup, Balance
from ._elementwise import ElementwiseGroup
from ._matrix import MatrixGroup, times
from ._psd import lyapunov

Groups = tuple[AbstractGroup, ...]

__all__ = ["AbstractGroup", "Balance", "ElementwiseGroup", "Groups", "MatrixGroup", "lyapunov", "times"]
