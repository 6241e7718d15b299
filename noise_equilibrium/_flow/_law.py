"""What a rate refers to: continuous time at a noise scale, or the exact discrete law of an optimiser.

Every law of motion of a charge in this program has one form, with coefficients that a law provides:

    dQ/dt = 2 (T − R),    R = 2γ'Q₊ + s(c M₋ + m M̄₋),    T = 2γ'Q₋ + s(c M₊ + m M̄₊),

Q the weight Grams, M the noise Grams, M̄ the Grams of the mean gradient. In continuous time, Eq. (7), γ' = γ, s = σ²,
c = 1, m = 0. For one step of SGD divided by η, Appendix D, γ' = γ(1 − ηγ), s = η/2, c = (1/S) × the finite-population
factor, m = 1.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._noise import AbstractMoments, Measurement
from .._numbers import Traced, as_number, cast, require, require_scalar


class ChargeLaw(eqx.Module):
    """The coefficients of a law of motion of the charge.

    Attributes:
        decay: γ'.
        scale: s.
        noise: c, the weight of the noise Grams.
        mean: m, the weight of the Grams of the mean gradient.
    """

    decay: Any
    scale: Any
    noise: Any
    mean: Any

    def sides(self, moments: AbstractMoments) -> tuple[Array, Array]:
        """(R, T): what lowers and what raises the charge, halved; both positive semidefinite."""
        lowers = self._side(moments.weight_plus, moments.noise_minus, moments.mean_minus)
        raises = self._side(moments.weight_minus, moments.noise_plus, moments.mean_plus)
        return lowers, raises

    def flow(self, moments: AbstractMoments) -> Array:
        """dQ/dt, of the charge's shape."""
        lowers, raises = self.sides(moments)
        return 2 * (raises - lowers)

    def spectrum(self, moments: AbstractMoments) -> tuple[Array, Array, Array]:
        """(|μ|, r, t): what lowers and what raises the charge, halved, power by power along a leading axis.

        `sides` are their sums, weighted with |μ|.
        """
        weight, noise, mean = (
            jnp.stack(grams) if isinstance(grams, tuple) else grams
            for grams in (moments.weight, moments.noise, moments.mean)
        )
        powers = powers_of(moments, weight.dtype)
        nothing = jnp.zeros_like(weight)
        of_weight, of_noise = self._side(weight, nothing, nothing), self._side(nothing, noise, mean)
        # The eigenvalue 0 of a generator moves nothing, so it neither lowers nor raises: its sign takes it out of both.
        sign = jnp.sign(powers).reshape(-1, *[1] * (weight.ndim - 1))
        lowers = jnp.where(sign > 0, of_weight, jnp.where(sign < 0, of_noise, 0))
        raises = jnp.where(sign > 0, of_noise, jnp.where(sign < 0, of_weight, 0))
        return jnp.abs(powers), lowers, raises

    def _side(self, weight: Array, noise: Array, mean: Array) -> Array:
        return 2 * cast(self.decay, weight) * weight + cast(self.scale, weight) * (
            cast(self.noise, weight) * noise + cast(self.mean, weight) * mean
        )


def powers_of(moments: Any, dtype: Any) -> Array:
    """The powers of legs, or the eigenvalues of a generator, along the leading axis of `ChargeLaw.spectrum`."""
    return jnp.asarray(moments.powers, dtype)


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
        if measurement.within is None:
            return measurement.measured, coefficients
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
        return moments, dataclasses.replace(coefficients, noise=fresh)


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
