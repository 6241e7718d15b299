"""The random numbers of JAX, faster on the CPU: the same bits, made in one pass instead of five.

`_threefry` is the generator, `_rows` keeps what is made of its bits in long rows, `_rewrite` puts both into a program.
"""

from ._rewrite import in_one_pass

__all__ = ["in_one_pass"]
