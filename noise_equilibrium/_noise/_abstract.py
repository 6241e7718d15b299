"""What the moments of every kind of symmetry have in common: two signs, and a total for each."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._group import AbstractGroup
from .._numbers import cast


class AbstractMoments(eqx.Module):
    """The weight, noise and mean-gradient Grams of a symmetry, added up by the sign of the powers.

    Attributes:
        weight: Grams of the parameters.
        noise: Grams of the gradient noise.
        mean: Grams of the mean gradient.
    """

    weight: eqx.AbstractVar[Any]
    noise: eqx.AbstractVar[Any]
    mean: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def total(self, grams: Any, sign: int, exponent: int = 1) -> Array:
        """Σ |power|^exponent × Gram over the powers of one sign."""

    @property
    def weight_plus(self) -> Array:
        """Q₊."""
        return self.total(self.weight, +1)

    @property
    def weight_minus(self) -> Array:
        """Q₋."""
        return self.total(self.weight, -1)

    @property
    def noise_plus(self) -> Array:
        """M₊."""
        return self.total(self.noise, +1)

    @property
    def noise_minus(self) -> Array:
        """M₋."""
        return self.total(self.noise, -1)

    @property
    def mean_plus(self) -> Array:
        """The Gram of the mean gradient over the legs of positive power."""
        return self.total(self.mean, +1)

    @property
    def mean_minus(self) -> Array:
        """The Gram of the mean gradient over the legs of negative power."""
        return self.total(self.mean, -1)


class Moments(AbstractMoments):
    """The weight, noise and mean-gradient Grams of the legs of a symmetry (theory, "Closed form").

    Attributes:
        powers: the distinct powers of the legs, in the order of their first leg.
        weight: for each power, Σ θ_legᵀθ_leg over its legs.
        noise: for each power, Σ (E[g_legᵀg_leg] − ḡ_legᵀḡ_leg).
        mean: for each power, Σ ḡ_legᵀḡ_leg.

    Each Gram has the shape of the charge. The properties add them up, counted with |power|, over the legs of one sign.
    """

    weight: tuple[Array, ...]
    noise: tuple[Array, ...]
    mean: tuple[Array, ...]
    powers: tuple[float, ...] = eqx.field(static=True)

    def total(self, grams: tuple[Array, ...], sign: int, exponent: int = 1) -> Array:
        """Σ |power|^exponent × Gram over the powers of one sign; zero if there is none."""
        total = jnp.zeros_like(grams[0])
        for power, value in zip(self.powers, grams, strict=True):
            if power * sign > 0:
                total = total + cast(abs(power) ** exponent, value) * value
        return total


def as_kept(group: AbstractGroup, grams: Any) -> Any:
    """The Grams of a group as moments keep them: in a tuple, of public shape; or along the powers of a generator."""
    return tuple(group.public(grams[power]) for power in group.powers) if isinstance(grams, dict) else grams
