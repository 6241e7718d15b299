"""Which sample spoils a result: one with a loss or a gradient that is not finite."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._budget import at_once
from .._numbers import all_finite, jit
from .._parameters import split, widest_dtype
from .._problem import Problem


def require_finite_gradients(problem: Problem, params: PyTree, result: PyTree) -> None:
    """Raise a ValueError that names a sample, if a result is not finite because of that sample.

    Nothing is raised inside a transformation, where numbers are not known, nor for parameters that are not finite
    themselves, such as those of a run that diverged: their result stays NaN.
    """
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(result) if hasattr(leaf, "dtype")]
    inputs = jax.tree_util.tree_leaves((problem, params))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in [*leaves, *inputs]):
        return
    # Reading a result waits for the device: the price of an error that names the sample.
    if not leaves or _all_finite(leaves):  # one number to fetch: on a device every fetch waits for it
        return
    if not _all_finite(split(params)[0]):
        return
    losses, sizes = (np.asarray(values, np.float64) for values in _losses(problem, params))
    bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(sizes)))
    if not bad.size:
        return
    first = int(bad[0])
    others = f", and {bad.size - 1} other samples spoil it too" if bad.size > 1 else ""
    raise ValueError(
        f"the loss of sample {first} is {losses[first]:.4g} and its largest gradient entry is {sizes[first]:.4g} at "
        f"finite parameters{others}; expected finite numbers. Look at this sample, and at divisions, logarithms and "
        "square roots in the loss."
    )


_all_finite = jit(all_finite)


@jit
def _losses(problem: Problem, params: PyTree) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """ℓ and max|∇ℓ| of every sample."""
    arrays, rebuild = split(params)

    def one(sample: PyTree) -> tuple[Array, Any]:
        loss, slopes = jax.value_and_grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays)
        return loss, jnp.stack([jnp.max(jnp.abs(slope.astype(loss.dtype)), initial=0) for slope in slopes]).max()

    each = 2 * sum(array.size for array in arrays) * widest_dtype(arrays).itemsize
    return jax.lax.map(one, problem.data, batch_size=at_once(each, min(64, problem.num_samples)))
