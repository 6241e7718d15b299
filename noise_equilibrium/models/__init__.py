"""Models as pure functions: parameters, per-sample loss, and the symmetry next to them."""

from . import two_layer_linear

__all__ = ["two_layer_linear"]
