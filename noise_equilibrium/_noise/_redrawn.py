"""The gradient noise of data that are redrawn at every visit: of the choice of samples, and of the redrawing.

    Cov ĝ = (1/S) [ Cov_i(E_ε g_i) · (N − S)/(N − 1) + E_i Cov_ε(g_i) ]

without replacement; with replacement the factor is 1. It must not touch the second term, which every visit draws anew.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._keys import as_key
from .._minibatch import Minibatches, Replacement
from .._numbers import Traced, cast
from .._population import Redrawn, all_redrawn
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetries, bind_each
from ._abstract import AbstractMoments
from ._finite import require_finite_gradients
from ._measurement import Source, without_data
from ._moments import measured_moments


class RedrawnMoments(eqx.Module):
    """The two parts of the noise of redrawn data.

    Attributes:
        between: moments of the choice of samples, noise Cov_i(E_ε g_i).
        within: moments of the redrawing, noise E_i Cov_ε(g_i).
        num_samples: N.
        redraws: R, how often each sample was redrawn.
        symmetries: the symmetries, bound to the parameters; None of moments that were put together by hand.
        params: the parameters.
        weight_decay: γ.
    """

    between: Any
    within: Any
    num_samples: int = eqx.field(static=True)
    redraws: int = eqx.field(static=True, default=1)
    symmetries: BoundSymmetries | None = None
    params: PyTree = None
    weight_decay: Any = 0.0

    def measurement(self) -> Any:
        """Both parts, for flows, rates and equilibria, which take the moments themselves as well.

        A law without replacement lessens the part between alone, see `of_batch`.

        Returns:
            A `Measurement` without data; a tuple of them if the symmetry was a sequence.

        Raises:
            ValueError: if the moments do not know the symmetries they are of.
        """
        if self.symmetries is None:
            raise ValueError("these moments do not know their symmetries; expected what redrawn_moments returns.")
        several = self.symmetries.several
        pairs = zip(self.between, self.within, strict=True) if several else [(self.between, self.within)]
        source, count = Source(self.weight_decay, self.num_samples), self.num_samples * self.redraws
        return self.symmetries.as_given(
            [
                without_data(self.params, symmetry, between, count, source, within.noise)
                for symmetry, (between, within) in zip(self.symmetries.each, pairs, strict=True)
            ]
        )

    def of_batch(self, batch_size: int, replacement: Replacement = True) -> Any:
        """The moments whose noise is that of a minibatch gradient.

        Args:
            batch_size: S ≥ 1.
            replacement: how the samples of a batch are chosen. True: independent draws. False: no sample twice in a
                batch, which lessens the part between alone. "epoch": the same, for a batch of a shuffled epoch taken by
                itself.

        Raises:
            ValueError: for a batch that does not fit the data, or another word.
        """
        batches = Minibatches(batch_size, replacement)
        choice = batches.noise_ratio(self.num_samples)

        def noise(between: Array, within: Array) -> Array:
            return cast(choice, between) * between + cast(1 / batches.size, within) * within

        def one(between: AbstractMoments, within: AbstractMoments) -> AbstractMoments:
            total = jax.tree_util.tree_map(noise, between.noise, within.noise)
            return eqx.tree_at(lambda m: m.noise, between, total)

        if isinstance(self.between, tuple):
            return tuple(one(*pair) for pair in zip(self.between, self.within, strict=True))
        return one(self.between, self.within)


# A module and not a closure: made anew at every call it is equal to the last one, and compiled once.
class _MeanLoss(Traced):
    """The mean loss over the redraws of one sample: a per-sample loss whose sample is a group."""

    loss: Callable[[PyTree, PyTree], Array]

    def __call__(self, params: PyTree, group: PyTree) -> Array:
        return jnp.mean(jax.vmap(self.loss, in_axes=(None, 0))(params, group))


def redrawn_moments(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | Sequence[AbstractSymmetry],
    *,
    key: PRNGKeyArray,
    redraws: int = 16,
) -> RedrawnMoments:
    """The noise moments of redrawn data, such as label noise drawn anew at every step: both parts, without bias.

    With R redraws of each sample, T the moments over all N·R of them and B those of the mean gradients of the N groups,
    the part within is W = (T − B)·R/(R − 1), and the part between is B − (1 − 1/N) W/R.

    Args:
        problem: a problem whose data are `Redrawn`.
        params: the parameters, any pytree.
        symmetry: as for `noise_moments`.
        key: a JAX PRNG key (threefry), for the redraws.
        redraws: R ≥ 2.

    Returns:
        RedrawnMoments; `.of_batch(batch_size, replacement)` is the noise of one step of SGD.

    Raises:
        ValueError: for other data; for R < 2; as `noise_moments`.

    Source: theory, "Label noise redrawn at every step".
    """
    if not isinstance(problem.data, Redrawn):
        raise ValueError(
            "redrawn_moments needs data that are redrawn at every visit; expected "
            "Problem(loss, Redrawn(data, redraw)). Use noise_moments for a finite data set."
        )
    if not hasattr(redraws, "__index__") or redraws < 2:
        raise ValueError(f"redraws is {redraws}; expected an integer of at least 2.")
    bound = bind_each(symmetry, params, "redrawn_moments")
    count = problem.data.num_samples
    groups = all_redrawn(problem.data, as_key(key, "redrawn_moments"), int(redraws))
    each = Problem(problem.loss, jax.tree_util.tree_map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), groups))
    total, silence = measured_moments(each, params, bound.each)
    require_finite_gradients(each, params, total)
    silence.warn()
    grouped, _ = measured_moments(Problem(_MeanLoss(problem.loss), groups), params, bound.each)
    between, within = [], []
    for all_of_them, of_groups in zip(total, grouped, strict=True):
        redrawing = jax.tree_util.tree_map(
            lambda t, b: (t - b) * (redraws / (redraws - 1)), all_of_them.noise, of_groups.noise
        )
        # The mean over R redraws leaves W/R in B, of which the centring of N groups takes the share 1/N out again.
        choice = jax.tree_util.tree_map(lambda b, w: b - w * ((1 - 1 / count) / redraws), of_groups.noise, redrawing)
        between.append(eqx.tree_at(lambda m: m.noise, all_of_them, choice))
        within.append(eqx.tree_at(lambda m: m.noise, all_of_them, redrawing))
    decay = jnp.asarray(problem.weight_decay)
    return RedrawnMoments(bound.as_given(between), bound.as_given(within), count, int(redraws), bound, params, decay)
