"""The random numbers of JAX, faster on the CPU: the same bits, made in one pass instead of five.

`_threefry` is the generator, `_flat` keeps what is made of its bits in long rows, `_one_pass` puts both into a program.
"""

from ._one_pass import in_one_pass

__all__ = ["in_one_pass"]
