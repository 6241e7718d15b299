"""The problem: a per-sample loss, the data it is averaged over, and a weight decay.

    L(θ) = E_z ℓ(θ, z),        L_γ(θ) = L(θ) + γ‖θ‖².

Weight decay is not random: the gradient noise is that of the data loss ℓ alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._inputs import check_data, pure
from ._keys import as_key
from ._numbers import Traced, as_number, cast, jit, require, require_scalar
from ._parameters import is_array, split
from ._population import AbstractPopulation, Stream
from ._validate import integer


class Problem(Traced):
    """A per-sample loss, data, and weight decay: L_γ(θ) = E_z ℓ(θ, z) + γ‖θ‖².

    Args:
        loss: `loss(params, sample) -> scalar`, a pure function or callable `eqx.Module`. Define it once: a lambda made
            anew in a loop is traced anew each time. Python floats inside a module are traced, not compiled in.
        data: a pytree whose leaves share a leading axis of N samples, or a population: a `Stream`, or samples that are
            `Redrawn` at every visit.
        weight_decay: γ ≥ 0; a number, or an array under `vmap`. The update of SGD is θ ← θ − η(ĝ + 2γθ).

    Raises:
        ValueError: if the leaves of data differ in length, if there is none, or if γ < 0.

    Not checked: that the loss is pure, and that it is differentiable where it is used.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w * z - 1.0) ** 2, jnp.array([1.0, 2.0]), weight_decay=0.5)
        >>> float(problem.risk(jnp.array(1.0)))  # (0² + 1²)/2 + 0.5
        1.0
    """

    loss: Callable[[PyTree, PyTree], Array]
    data: PyTree
    weight_decay: Any

    def __init__(self, loss: Callable[[PyTree, PyTree], Array], data: PyTree, weight_decay: Any = 0.0):
        self.loss = pure(loss, "loss(params, sample) -> scalar")
        self.data = data
        self.weight_decay = as_number(weight_decay)
        require(
            lambda decay: (decay >= 0) & np.isfinite(decay),
            self.weight_decay,
            f"weight_decay is {weight_decay}; expected a number γ ≥ 0 (the penalty is +γ‖θ‖²).",
        )
        if not self.is_population:
            check_data(data)

    @property
    def is_population(self) -> bool:
        """Whether the data are a population that can only be sampled: a Stream, or Redrawn."""
        return isinstance(self.data, AbstractPopulation)

    @property
    def is_stream(self) -> bool:
        """Whether the data are a Stream."""
        return isinstance(self.data, Stream)

    @property
    def num_samples(self) -> int:
        """N, the number of samples of a finite data set."""
        self.require_finite("num_samples")
        return jax.tree_util.tree_leaves(self.data)[0].shape[0]

    def require_finite(self, what: str) -> None:
        """Raise a `ValueError` if the data are a population, for work that needs an expectation."""
        if self.is_population:
            kind = "a Stream" if self.is_stream else "redrawn at every visit"
            raise ValueError(
                f"{what} needs an expectation over a finite data set, and the data of this problem are {kind}. "
                "Draw one first: problem.sampled(key, n)."
            )

    def sampled(self, key: PRNGKeyArray, n: int) -> "Problem":
        """The same problem on n samples drawn from its population.

        Samples of a Stream are independent. Redrawn data are balanced: each of the N samples is redrawn ⌊n/N⌋ times,
        redraw r of sample i at place r·N + i, and the n mod N samples of a random subset once more, at the end.

        Args:
            key: a JAX PRNG key.
            n: the number of samples, n ≥ 1.

        Raises:
            ValueError: if the data are finite already, n is no integer ≥ 1, or the key is missing or unsuitable.
        """
        if not self.is_population:
            raise ValueError(
                f"the data of this problem are finite already ({self.num_samples} samples); sampled(key, n) is for a "
                "Stream or Redrawn data. Index the data to take a part of them."
            )
        n = integer(n, "n", 1)
        return Problem(self.loss, self.data.draw_set(as_key(key, "sampled"), n), self.weight_decay)

    def sample_loss(self, params: PyTree, sample: PyTree) -> Float[Array, ""]:
        """ℓ(θ, z) for one sample, checked to be a real scalar."""
        try:
            value = self.loss(params, sample)
        except Exception as error:
            self._explain(error, params)
            raise
        if not is_array(value) and not isinstance(value, float):
            raise ValueError(
                f"the loss returned {type(value).__name__}; expected a real scalar, one number per sample."
            )
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            of_all = not self.is_population and self.num_samples in value.shape and self.num_samples > 1
            hint = " The number of samples is among its lengths: does the loss use all data?" if of_all else ""
            raise ValueError(
                f"the loss returned an array of shape {value.shape} and dtype {value.dtype} for one sample; expected a "
                f"real scalar. Sum or average over outputs inside the loss; do not reduce over samples.{hint}"
            )
        return value

    def _explain(self, error: Exception, params: PyTree) -> None:
        """Raise a ValueError if a loss fails on one sample because it is meant for all samples at once."""
        if isinstance(error, NameError) and "axis name" in str(error):
            raise ValueError(
                f"the loss refers to an axis name ({error}); expected a loss of one sample, which knows of no others. "
                "Batch statistics (pmean, psum, batch normalisation in training mode) couple samples: leave them out."
            ) from error
        if self.is_population:
            return
        try:
            # The shapes suffice to tell: nothing is computed.
            whole = jax.eval_shape(self.loss, params, self.data)
        except Exception:
            return
        if getattr(whole, "shape", None) == ():
            raise ValueError(
                f"the loss fails on one sample ({type(error).__name__}: {error}) and returns a scalar for all "
                f"{self.num_samples} at once; expected loss(params, sample) of one sample. "
                "Leave out the mean over samples: the program takes it."
            ) from error

    def risk(self, params: PyTree) -> Float[Array, ""]:
        """L_γ(θ) = (1/N) Σ_i ℓ(θ, z_i) + γ‖θ‖².

        Args:
            params: the parameters, any pytree.

        Raises:
            ValueError: on a population, or if the loss is not a real scalar.
        """
        self.require_finite("risk")
        require_scalar(self.weight_decay, "weight_decay")
        return _risk(self, params)


@jit
def _risk(problem: Problem, params: PyTree) -> Float[Array, ""]:
    return penalised_loss(problem, params, problem.data)


def penalised_loss(problem: Problem, params: PyTree, samples: PyTree) -> Float[Array, ""]:
    """The mean of ℓ(θ, z) over samples, + γ‖θ‖²."""
    loss = jnp.mean(jax.vmap(problem.sample_loss, in_axes=(None, 0))(params, samples))
    arrays, _ = split(params)
    return loss + sum(cast(problem.weight_decay, loss) * jnp.sum(array**2).astype(loss.dtype) for array in arrays)


def weighted_gradient(problem: Problem, params: PyTree, samples: PyTree, weights: Float[Array, " n"]) -> list[Array]:
    """Σ_i w_i ∇ℓ(θ, z_i) by one backward pass, whatever the weights; a list of arrays, one per parameter.

    Args:
        problem: whose loss is taken; its own data and weight decay play no part.
        params: the parameters, any pytree.
        samples: a pytree whose leaves share a leading axis of n samples.
        weights: one number per sample.
    """
    arrays, rebuild = split(params)

    def weighted_loss(arrays: Sequence[Array]) -> Array:
        losses = jax.vmap(problem.sample_loss, in_axes=(None, 0))(rebuild(list(arrays)), samples)
        return jnp.sum(weights.astype(losses.dtype) * losses)

    return list(jax.grad(weighted_loss)(arrays))
