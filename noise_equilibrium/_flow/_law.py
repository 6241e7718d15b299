"""What a rate refers to: continuous time at a noise scale, or the exact discrete law of an optimiser."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._noise import AbstractMoments, Measurement
from .._numbers import Traced, as_number, cast, require, require_scalar
from .._parameters import split
from ._adapt import adapted
from ._charge_law import ChargeLaw


class AbstractLaw(Traced):
    """Something with a law of motion of the charge, and so with an equilibrium.

    Attributes:
        is_discrete: whether the law is that of one step divided by the learning rate.
    """

    is_discrete: ClassVar[bool] = False

    @abc.abstractmethod
    def charge_law(self, problem: Any) -> ChargeLaw:
        """The coefficients of this law on a problem, or its source; raises a ValueError where it has none."""

    def acting(self, measurement: Measurement) -> tuple[AbstractMoments, ChargeLaw]:
        """The moments, and the coefficients of this law on them: what every consumer of a measurement begins with.

        Of redrawn data the noise of the redrawing is new at every visit, so that a batch without replacement lessens
        that of the choice of samples alone: the moments hold both, in the ratio in which a step has them.
        """
        coefficients = self.charge_law(measurement.source)
        group, arrays = measurement.symmetry, split(measurement.params)[0]
        if measurement.within is None:
            return measurement.measured, adapted(coefficients, group, arrays, measurement.measured)
        # The share that a batch keeps of what is new at every visit is 1/S however its samples are chosen, as on a
        # Stream.
        fresh = self.charge_law(dataclasses.replace(measurement.source, is_stream=True)).noise
        share = jnp.asarray(coefficients.noise) / fresh
        noise = jax.tree_util.tree_map(
            lambda choice, redrawn: cast(share, choice) * choice + redrawn,
            measurement.measured.noise,
            measurement.within,
        )
        moments = eqx.tree_at(lambda m: m.noise, measurement.measured, noise)
        return moments, adapted(dataclasses.replace(coefficients, noise=fresh), group, arrays, moments)


def require_plain(law: AbstractLaw, problem: Any, what: str) -> AbstractLaw:
    """The law, if its steps follow the gradient itself.

    Raises:
        ValueError: for a law with a number for each side of a symmetry.
    """
    if law.charge_law(problem).has_numbers:
        raise ValueError(
            f"{what} is about steps along the gradient, and {type(law).__name__} has a number for each side of a "
            "symmetry; expected SGD, an SDE or σ². find_equilibrium and noether_flow take such a law."
        )
    return law


class NoiseScale(AbstractLaw):
    """Continuous time at a noise scale σ² = η/(2S): Eq. (7)."""

    value: Any

    def charge_law(self, problem: Any) -> ChargeLaw:
        return ChargeLaw(decay=problem.weight_decay, scale=self.value, noise=1.0, mean=0.0)


def as_law(law: Any) -> AbstractLaw:
    """A law from what users write: a noise scale σ² > 0, or dynamics that are a law.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(law, AbstractLaw):
        return law
    law = as_number(law)
    if not isinstance(law, float | jax.Array) and not hasattr(law, "shape"):
        raise ValueError(f"the law is {law!r}; expected a noise scale σ² = η/(2S), or an SDE, SGD or GD object.")
    require_scalar(law, "the noise scale")
    require(lambda scale: (scale > 0) & np.isfinite(scale), law, f"the noise scale is {law}; expected σ² = η/(2S) > 0.")
    return NoiseScale(law)
