"""The time of a run: steps × the time step, or the sum of a schedule, across segments too."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._dynamics import AbstractDynamics


class Clock(eqx.Module):
    """time = origin + (step − first) × rate; under a schedule origin + elapsed.

    A schedule is summed in two levels, within a record and over the records, which keeps rounding errors small.

    Attributes:
        origin: the time of `first`.
        first: the step from which one rate holds.
        rate: that rate; NaN for a schedule.
        elapsed: the sum of a schedule since the last record.
    """

    origin: Float[Array, ""]
    first: Int[Array, ""]
    rate: Float[Array, ""]
    elapsed: Float[Array, ""]

    @classmethod
    def start(cls, dynamics: AbstractDynamics, dtype: jnp.dtype) -> "Clock":
        """A clock at time 0 and step 0."""
        zero = jnp.zeros((), dtype)
        return cls(zero, jnp.zeros((), jnp.int32), _rate(dynamics, zero), zero)

    def resumed(self, dynamics: AbstractDynamics, step: Int[Array, ""]) -> "Clock":
        """The clock of the next segment, whose dynamics may have another rate; unchanged to the bit if it has not."""
        rate = _rate(dynamics, self.origin)
        goes_on = (rate == self.rate) | (jnp.isnan(rate) & jnp.isnan(self.rate))
        return Clock(
            jnp.where(goes_on, self.origin, self.time(step)), jnp.where(goes_on, self.first, step), rate, self.elapsed
        )

    def ticked(self, dynamics: AbstractDynamics, step: Int[Array, ""]) -> "Clock":
        """The clock after step number `step`, counted from 0."""
        if not callable(dynamics.time_step):
            return self
        size = jnp.asarray(dynamics.step_size(step)).astype(self.elapsed.dtype)
        return Clock(self.origin, self.first, self.rate, self.elapsed + size)

    def recorded(self) -> "Clock":
        """The clock at a record."""
        return Clock(self.origin + self.elapsed, self.first, self.rate, jnp.zeros_like(self.elapsed))

    def time(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The time after `step` steps, which the clock has ticked."""
        passed = (step - self.first).astype(self.origin.dtype) * self.rate
        return self.origin + jnp.where(jnp.isnan(self.rate), self.elapsed, passed)


def _rate(dynamics: AbstractDynamics, like: Array) -> Array:
    return jnp.asarray(jnp.nan if callable(dynamics.time_step) else dynamics.time_step).astype(like.dtype)
