"""Any optimiser of optax on minibatches."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._minibatch import Replacement, as_replacement
from .._parameters import is_parameter
from .._problem import Problem, penalised_loss
from .._validate import integer
from ._draws import draw_batch, first_epoch
from ._dynamics import optax_promotion
from ._noisy import AbstractMinibatched


class Optax(AbstractMinibatched):
    """An optax optimiser on the gradient ĝ + 2γθ of a minibatch; its state is carried along.

    Weight decay of the problem is part of the gradient, as in `SGD`: `Optax(optax.sgd(η), S)` is `SGD(η, S)`. An
    optimiser that takes extra arguments gets `value`, the loss of the batch with decay, and `grad`. Time counts steps,
    for an optimiser does not tell its learning rate; so it can name no noise scale and no law of the charge either. The
    law of SGD with momentum is that of `Momentum`; of Adam with one number per leg, and nearly of Adam, that of
    `Preconditioned`.

    Args:
        optimizer: an `optax.GradientTransformation`. Define it once: one made anew for each call is compiled anew, its
            numbers with it. It sees the parameters as a pytree with None in place of all other leaves.
        batch_size: S ≥ 1.
        replacement: as in `SGD`.

    Raises:
        ValueError: for an optimiser that is none, a batch size below 1, or a batch that does not fit the data.

    Not checked: that the optimiser's own learning rate is positive.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 1.0]))
        >>> heavy_ball = ne.Optax(optax.sgd(0.5, momentum=0.5), 2)
        >>> float(ne.simulate(problem, heavy_ball, jnp.array(0.0), 2, key=jax.random.key(0)).params)
        1.0
    """

    optimizer: optax.GradientTransformation
    batch_size: int = eqx.field(static=True)
    replacement: Replacement = eqx.field(static=True)

    def __init__(self, optimizer: optax.GradientTransformation, batch_size: int, replacement: Replacement = True):
        if not isinstance(optimizer, optax.GradientTransformation):
            raise ValueError(f"optimizer is {optimizer!r}; expected one of optax, such as optax.adam(η).")
        self.optimizer = optimizer
        self.batch_size, self.replacement = integer(batch_size, "batch_size", 1), as_replacement(replacement)

    @property
    def noise_scale(self) -> Any:
        """Raises a ValueError: an optimiser does not tell its learning rate."""
        raise ValueError(_unknown("noise_scale"))

    def noise_scale_at(self, step: Any) -> Any:
        """Raises a ValueError: an optimiser does not tell its learning rate."""
        raise ValueError(_unknown("noise_scale_at"))

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """Raises a ValueError: which law it has, an optimiser does not tell; see `Momentum` and `Preconditioned`."""
        raise ValueError(_unknown("a law of the charge"))

    @property
    def time_step(self) -> Any:
        """1: time counts steps."""
        return 1.0

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """The state of the optimiser, and the permutation of the epoch, if there are epochs."""
        with optax_promotion():
            state = self.optimizer.init(eqx.filter(params, is_parameter))
        # A loop carries arrays, and a state may begin with Python numbers.
        return jax.tree_util.tree_map(jnp.asarray, state), first_epoch(self.batches, problem)

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One update on the next minibatch."""
        before, permutation = state
        samples, permutation = draw_batch(self.batches, problem, permutation, key, step)
        trained, rest = eqx.partition(params, is_parameter)

        def loss(trained: PyTree) -> Any:
            return penalised_loss(problem, eqx.combine(trained, rest), samples)

        value, gradient = jax.value_and_grad(loss)(trained)
        optimizer = optax.with_extra_args_support(self.optimizer)
        with optax_promotion():
            updates, after = optimizer.update(gradient, before, trained, value=value, grad=gradient)
            trained = optax.apply_updates(trained, updates)
        # A loop carries fixed dtypes, and an optimiser may widen its state under x64.
        after = jax.tree_util.tree_map(lambda old, new: jnp.asarray(new).astype(old.dtype), before, after)
        return eqx.combine(trained, rest), (after, permutation)


def _unknown(what: str) -> str:
    return (
        f"{what} needs a learning rate, and an optax optimiser does not tell its own; give the law as "
        "SGD(learning_rate, batch_size), as Momentum with momentum, or as Preconditioned for adaptive steps."
    )
