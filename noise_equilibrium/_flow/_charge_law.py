"""A law of motion of the charge: coefficients of what decay, noise and mean gradient do to it.

Every law of motion of a charge in this program has one form, with coefficients that a law provides:

    dQ/dt = 2 (T − R),    R = 2γ'Q₊ + s(c M₋ + m M̄₋),    T = 2γ'Q₋ + s(c M₊ + m M̄₊),

Q the weight Grams, M the noise Grams, M̄ the Grams of the mean gradient. In continuous time, Eq. (7), γ' = γ, s = σ²,
c = 1, m = 0. For one step of SGD divided by η, Appendix D, γ' = γ(1 − ηγ), s = η/2, c = (1/S) × the finite-population
factor, m = 1. Where a step moves the legs of one sign d₊ or d₋ times as far as their gradient says, the charge is
Q₊/d₊ − Q₋/d₋, and every Q± above is Q±/d±, every M± and M̄± is d±M± and d±M̄±.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._noise import AbstractMoments
from .._numbers import cast


class ChargeLaw(eqx.Module):
    """The coefficients of a law of motion of the charge.

    Attributes:
        decay: γ'.
        scale: s.
        noise: c, the weight of the noise Grams.
        mean: m, the weight of the Grams of the mean gradient.
        plus: d₊; None for 1.
        minus: d₋, likewise.
        adapts: whether d₊ and d₋ are those of a point, and others elsewhere, see `adapted`.
    """

    decay: Any
    scale: Any
    noise: Any
    mean: Any
    plus: Any = None
    minus: Any = None
    adapts: bool = eqx.field(static=True, default=False)

    @property
    def has_numbers(self) -> bool:
        """Whether there are d₊ and d₋."""
        return self.plus is not None or self.adapts

    def sides(self, moments: AbstractMoments) -> tuple[Array, Array]:
        """(R, T): what lowers and what raises the charge, halved; both positive semidefinite."""
        weights = self.weights(moments)
        lowers = self._of_weight(weights[0]) + self._of_noise(moments.noise_minus, moments.mean_minus, self.minus)
        raises = self._of_weight(weights[1]) + self._of_noise(moments.noise_plus, moments.mean_plus, self.plus)
        return lowers, raises

    def weights(self, moments: AbstractMoments, exponent: int = 1) -> tuple[Array, Array]:
        """(Q₊/d₊, Q₋/d₋), legs counted with |power|^exponent."""
        plus, minus = (moments.total(moments.weight, sign, exponent) for sign in (1, -1))
        return _divided(plus, self.plus), _divided(minus, self.minus)

    def numbers(self, powers: Array) -> Array:
        """d of legs of these powers."""
        if self.plus is None:
            return jnp.ones_like(powers)
        return jnp.where(powers > 0, cast(self.plus, powers), cast(self.minus, powers))

    def gradients(self, moments: AbstractMoments, exponent: int = 1) -> tuple[Array, Array]:
        """(d₊(cM₊ + mM̄₊), d₋(cM₋ + mM̄₋)), likewise."""
        plus, minus = (
            self._gradients(moments.total(moments.noise, sign, exponent), moments.total(moments.mean, sign, exponent))
            for sign in (1, -1)
        )
        return _times(plus, self.plus), _times(minus, self.minus)

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
        beside = (-1, *[1] * (weight.ndim - 1))
        numbers = None if self.plus is None else self.numbers(powers).reshape(beside)
        of_weight, of_noise = self._of_weight(_divided(weight, numbers)), self._of_noise(noise, mean, numbers)
        # The eigenvalue 0 of a generator moves nothing, so it neither lowers nor raises: its sign takes it out of both.
        sign = jnp.sign(powers).reshape(beside)
        lowers = jnp.where(sign > 0, of_weight, jnp.where(sign < 0, of_noise, 0))
        raises = jnp.where(sign > 0, of_noise, jnp.where(sign < 0, of_weight, 0))
        return jnp.abs(powers), lowers, raises

    def _of_weight(self, weight: Array) -> Array:
        return 2 * cast(self.decay, weight) * weight

    def _of_noise(self, noise: Array, mean: Array, number: Any) -> Array:
        return cast(self.scale, noise) * _times(self._gradients(noise, mean), number)

    def _gradients(self, noise: Array, mean: Array) -> Array:
        return cast(self.noise, noise) * noise + cast(self.mean, noise) * mean


def _times(gram: Array, number: Any) -> Array:
    return gram if number is None else cast(number, gram) * gram


def _divided(gram: Array, number: Any) -> Array:
    return gram if number is None else gram / cast(number, gram)


def powers_of(moments: Any, dtype: Any) -> Array:
    """The powers of legs, or the eigenvalues of a generator, along the leading axis of `ChargeLaw.spectrum`."""
    return jnp.asarray(moments.powers, dtype)
