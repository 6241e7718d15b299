"""What dynamics of one kind have in common: a noise scale σ² = η/(2S), minibatches, or no noise at all."""

from typing import Any, ClassVar

import equinox as eqx

from .._minibatch import Minibatches, Replacement
from .._problem import Problem
from ._draws import require_fit
from ._dynamics import AbstractDynamics, constant_rate, rate_at


class AbstractNoisy(AbstractDynamics):
    """Dynamics with the gradient noise of a batch of S samples at a learning rate η."""

    learning_rate: eqx.AbstractVar[Any]
    batch_size: eqx.AbstractVar[int]
    needs_key: ClassVar[bool] = True

    @property
    def noise_scale(self) -> Any:
        """σ² = η/(2S), for sampling with replacement; see `charge_law` for the exact law of discrete steps."""
        return constant_rate(self.learning_rate, "noise_scale") / (2 * self.batch_size)

    def noise_scale_at(self, step: Any) -> Any:
        """σ² = η/(2S) with the learning rate of that step."""
        return rate_at(self.learning_rate, step) / (2 * self.batch_size)


class AbstractMinibatched(AbstractDynamics):
    """Dynamics whose steps draw minibatches."""

    batch_size: eqx.AbstractVar[int]
    replacement: eqx.AbstractVar[Replacement]
    needs_key: ClassVar[bool] = True

    @property
    def batches(self) -> Minibatches:
        """How the samples of a batch are drawn."""
        return Minibatches(self.batch_size, self.replacement)

    def check(self, problem: Problem) -> None:
        """Raise a ValueError if a batch does not fit the data."""
        require_fit(self.batches, problem)


class AbstractNoiseless(AbstractDynamics):
    """Dynamics on the gradient of all data."""

    needs_key: ClassVar[bool] = False

    @property
    def noise_scale(self) -> Any:
        """0: no noise."""
        return 0.0

    def noise_scale_at(self, step: Any) -> Any:
        """0 at every step."""
        return 0.0

    def check(self, problem: Problem) -> None:
        """Raise a ValueError on a Stream."""
        problem.require_finite(type(self).__name__)
