"""The time of a run: the sum of its time steps."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Clock(eqx.Module):
    """A compensated sum: its error does not grow with the number of steps, of one rate, a schedule or many segments.

    Source: Kahan, Further remarks on reducing truncation errors (1965).

    Attributes:
        time: the sum of the time steps so far, rounded.
        lost: what rounding took from it.
    """

    time: Float[Array, ""]
    lost: Float[Array, ""]

    @classmethod
    def start(cls, dtype: jnp.dtype) -> "Clock":
        """A clock at time 0."""
        return cls(jnp.zeros((), dtype), jnp.zeros((), dtype))

    def ticked(self, step_size: Float[Array, ""]) -> "Clock":
        """The clock one step later."""
        owed = step_size.astype(self.time.dtype) + self.lost
        time = self.time + owed
        # The order of the operations is the method: what the sum has taken in, against what it was owed. XLA keeps it.
        return Clock(time, owed - (time - self.time))
