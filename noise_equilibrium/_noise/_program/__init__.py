"""Reading the program of a loss: where parameters meet their input, and the same program with taps there.

`_views` says how a value holds a parameter, `_linear`, `_products` and `_calls` what equations do to such values,
`_uses` reads a program, `_taps` runs it.
"""

from ._actions import Use
from ._taps import TappedLoss, tap
from ._views import POSITION, Window

__all__ = ["POSITION", "TappedLoss", "Use", "Window", "tap"]
