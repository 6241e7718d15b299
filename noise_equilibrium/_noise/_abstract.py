"""What the moments of every kind of symmetry have in common: two signs, and a total for each."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array


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
