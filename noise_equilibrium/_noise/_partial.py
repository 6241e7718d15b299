"""Moments of parts of the data, which add up: for data that do not fit at once, and for estimates with error bars."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._double import single
from .._group import AbstractGroup, Groups
from .._numbers import jit
from .._parameters import widest_dtype
from .._per_sample import Silence
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetries, bind_each
from ._abstract import AbstractMoments
from ._finite import require_finite_gradients
from ._measurement import Source, without_data
from ._moments import moments_and_mean, of_gradient


class PartialMoments(eqx.Module):
    """The noise moments of a part of the data; `+` gives those of two parts together, exactly.

    Attributes:
        parts: for each symmetry the moments of the part, centred at its own mean gradient, with 1/n.
        gradient: the mean gradient of the part, one array per parameter.
        count: n, the number of samples.
        symmetries: the symmetries, bound to the parameters.
        params: the parameters.
        weight_decay: γ.
    """

    parts: tuple[AbstractMoments, ...]
    gradient: list[Array]
    count: Array
    symmetries: BoundSymmetries
    params: PyTree
    weight_decay: Any

    def __add__(self, other: Any) -> "PartialMoments":
        if isinstance(other, int) and other == 0:  # what `sum` starts from
            return self
        if not isinstance(other, PartialMoments):
            return NotImplemented
        if not _alike(self, other):
            raise ValueError(
                "the two parts are of different symmetries or parameters; expected parts that partial_moments made "
                "from the same params and symmetry on different samples."
            )
        return _together(self, other)

    __radd__ = __add__

    def moments(self, unbiased: bool = False) -> AbstractMoments | tuple[AbstractMoments, ...]:
        """The moments of all samples so far: what `noise_moments` gives for them at once, to rounding.

        Args:
            unbiased: regard the samples as independent draws from a population, and estimate its moments without bias:
                noise × n/(n − 1), and the Grams of the mean gradient less noise/n. Needs n ≥ 2.

        Returns:
            Moments; a tuple of them if the parts were made for a sequence of symmetries.

        Raises:
            ValueError: if unbiased and n < 2.
        """
        if unbiased and not isinstance(self.count, jax.core.Tracer) and int(self.count) < 2:
            raise ValueError("an unbiased estimate needs at least 2 samples, and this part holds 1.")
        parts = single(self.parts)
        if unbiased:
            parts = tuple(_unbiased(part, self.count) for part in parts)
        return self.symmetries.as_given(parts)

    def measurement(self) -> Any:
        """What was measured so far, for flows, rates and equilibria, which take the sum itself as well.

        Returns:
            A `Measurement` without data; a tuple of them if the parts were made for a sequence of symmetries.

        Raises:
            ValueError: inside `jit`, where the number of samples is not known.
        """
        if isinstance(self.count, jax.core.Tracer):
            raise ValueError("the number of samples is traced; expected a call outside of jit, where it is known.")
        count = int(self.count)
        source = Source(self.weight_decay, count)
        each = zip(self.symmetries.each, self.parts, strict=True)
        return self.symmetries.as_given([without_data(self.params, s, part, count, source) for s, part in each])


class MomentEstimate(eqx.Module):
    """The noise moments of a population, estimated from a sample of it.

    Attributes:
        value: unbiased estimates.
        standard_error: their standard errors, entry by entry, in the same form; of the weights, which are no
            estimates, 0.
        count: n, the number of samples.
        batches: the number of batches whose differences the standard errors are measured from.
        replicates: what `value` is without one of the batches, for each of them along a leading axis.
        symmetries: the symmetries, bound to the parameters.
        params: the parameters.
        weight_decay: γ.

    `value`, `standard_error` and `replicates` are tuples if the symmetry was a sequence.
    """

    value: Any
    standard_error: Any
    count: Array
    batches: int = eqx.field(static=True)
    replicates: Any
    symmetries: BoundSymmetries
    params: PyTree
    weight_decay: Any

    def measurement(self) -> Any:
        """The estimate, for flows, rates and equilibria of the population, which take the estimate itself as well.

        Returns:
            A `Measurement` without data, of a Stream; a tuple of them if the symmetry was a sequence.
        """
        return self._measurement(self.value)

    def standard_error_of(self, function: Callable[[Any], Any]) -> Any:
        """The standard error of anything that is made of the estimate, by the jackknife over its batches.

        Args:
            function: of a measurement, or of a tuple of them, such as `lambda m: ne.noether_flow(m, 0.01)` or
                `lambda m: ne.find_equilibrium(m, 0.01).params`; it returns a pytree of arrays.

        Returns:
            The standard errors, entry by entry, in the form of the result.
        """
        each = jax.lax.map(lambda value: function(self._measurement(value)), self.replicates)
        # The jackknife's (B − 1)/B Σ_b (T_b − T̄)², and `var` divides by B already.
        return jax.tree_util.tree_map(lambda x: jnp.sqrt((self.batches - 1) * jnp.var(x, axis=0)), each)

    def _measurement(self, value: Any) -> Any:
        values = value if self.symmetries.several else (value,)
        source = Source(self.weight_decay, 0, is_stream=True)
        return self.symmetries.as_given(
            [
                without_data(self.params, symmetry, one, self.count, source)
                for symmetry, one in zip(self.symmetries.each, values, strict=True)
            ]
        )


def partial_moments(
    problem: Problem, params: PyTree, symmetry: AbstractSymmetry | Sequence[AbstractSymmetry]
) -> PartialMoments:
    """The noise moments of a part of the data, to be added to those of other parts.

        noise = Σ w_b noise_b + Σ w_b Gram(ḡ_b − ḡ),    w_b = n_b/n,    ḡ = Σ w_b ḡ_b.

    For a data loader: `sum(partial_moments(Problem(loss, batch), params, symmetry) for batch in loader).moments()`.
    Batches of one size are compiled once.

    Args:
        problem: a finite problem, whose data are the part.
        params: the parameters, the same for all parts.
        symmetry: as for `noise_moments`.

    Raises:
        ValueError: as `noise_moments`.

    Not checked: that parts do not overlap.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> loss = lambda p, z: p["u"] * p["w"] * z
        >>> params, symmetry = {"u": jnp.array(2.0), "w": jnp.array(3.0)}, ne.scaling()
        >>> batches = [jnp.array([1.0, -1.0]), jnp.array([3.0])]
        >>> parts = [ne.partial_moments(ne.Problem(loss, batch), params, symmetry) for batch in batches]
        >>> float(sum(parts).moments().noise_plus)  # (u² + w²) Var z
        34.666...
    """
    problem.require_finite("partial_moments")
    bound = bind_each(symmetry, params, "partial_moments")
    parts, gradient, silence = moments_and_mean(problem, params, bound.each, True)
    require_finite_gradients(problem, params, single(parts))
    silence.warn()
    decay = jnp.asarray(problem.weight_decay)
    return PartialMoments(parts, gradient, jnp.asarray(problem.num_samples), bound, params, decay)


def estimate_moments(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | Sequence[AbstractSymmetry],
    *,
    batches: int = 32,
) -> MomentEstimate:
    """Unbiased estimates of the noise moments of a population, with standard errors.

    For a Stream: `estimate_moments(problem.sampled(key, n), params, symmetry)`. Its samples are cut into batches, and
    the standard errors are those of the jackknife over batches; their own relative error is about 1/√(2·batches).

    Args:
        problem: a finite problem, whose samples are independent draws.
        params: the parameters, any pytree.
        symmetry: as for `noise_moments`.
        batches: how many batches, at least 2, and of at least one sample each.

    Raises:
        ValueError: as `noise_moments`; for batches that the samples do not suffice for.

    Source: theory, "Estimates from a sample".
    """
    problem.require_finite("estimate_moments")
    count = problem.num_samples
    if not hasattr(batches, "__index__") or not 2 <= batches <= count:
        raise ValueError(f"batches is {batches} and there are {count} samples; expected from 2 to that many batches.")
    bound = bind_each(symmetry, params, "estimate_moments")
    # Sizes that differ by one at most, and so at most two programs.
    edges = [count * b // batches for b in range(batches + 1)]
    parts = []
    for start, end in itertools.pairwise(edges):
        moments, gradient, silence = _moments_of_slice(problem, params, bound.each, jnp.asarray(start), end - start)
        require_finite_gradients(problem, params, moments)
        if start == 0:  # one loss, and so the same for all
            silence.warn()
        decay = jnp.asarray(problem.weight_decay)
        parts.append(PartialMoments(moments, gradient, jnp.asarray(end - start), bound, params, decay))
    return combine_moments(parts)


@jit
def _moments_of_slice(
    problem: Problem, params: PyTree, symmetries: Groups, start: Array, size: int
) -> tuple[tuple[AbstractMoments, ...], list[Array], Silence]:
    """The moments of some samples in a row, and their mean gradient; compiled once per size.

    They are looked up one by one: for a slice that begins at a traced number, each device would gather all samples.
    """
    rows = start + jnp.arange(size)
    data = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[rows], problem.data)
    return moments_and_mean(Problem(problem.loss, data), params, symmetries)


def combine_moments(parts: Sequence[PartialMoments]) -> MomentEstimate:
    """Unbiased estimates of the moments of a population, from independent batches of its samples.

    Args:
        parts: what `partial_moments` gives for each batch; at least two.

    Raises:
        ValueError: for fewer than two parts, or parts of different symmetries or parameters; where their mean gradients
            would take more than 2 GiB together.

    Source: theory, "Estimates from a sample"; the jackknife over batches.
    """
    parts = list(parts)
    if len(parts) < 2:
        raise ValueError(f"got {len(parts)} parts; expected at least 2 independent batches for a standard error.")
    if not all(_alike(parts[0], part) for part in parts[1:]):
        raise ValueError(
            "the parts are of different symmetries or parameters; expected parts that partial_moments made from the "
            "same params and symmetry on different samples."
        )
    size = sum(array.size for array in parts[0].gradient)
    require_room(
        f"the mean gradients of {len(parts)} batches, of {size} numbers each,",
        len(parts) * size,
        widest_dtype(parts[0].gradient),
        "Use fewer batches.",
    )
    stacked = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *[_numbers(part) for part in parts])
    symmetries = parts[0].symmetries
    value, error, replicates, count = _jackknife(stacked, single(parts[0].parts), symmetries.each)
    return MomentEstimate(
        symmetries.as_given(value),
        symmetries.as_given(error),
        count,
        len(parts),
        symmetries.as_given(replicates),
        symmetries,
        parts[0].params,
        parts[0].weight_decay,
    )


def _alike(first: PartialMoments, second: PartialMoments) -> bool:
    """Whether two parts have the same structure, shapes and weights, where those are known."""
    mine, others = first.symmetries, second.symmetries
    if mine.several != others.several or len(mine.each) != len(others.each):
        return False
    for one, two in zip(mine.each, others.each, strict=True):
        if not jax.tree_util.tree_leaves(one) and one != two:  # numbers of a generator may be traced
            return False
    ours, theirs = (single([part.weight for part in side.parts]) for side in (first, second))
    if jax.tree_util.tree_structure(ours) != jax.tree_util.tree_structure(theirs):
        return False
    pairs = list(zip(jax.tree_util.tree_leaves(ours), jax.tree_util.tree_leaves(theirs), strict=True))
    known = [pair for pair in pairs if not any(isinstance(leaf, jax.core.Tracer) for leaf in pair)]
    return all(a.shape == b.shape for a, b in pairs) and all(np.allclose(a, b, equal_nan=True) for a, b in known)


def _numbers(part: PartialMoments) -> tuple[list[Any], list[Array], Array]:
    """What the jackknife combines: noise Grams, mean gradients and counts."""
    return [moments.noise for moments in single(part.parts)], part.gradient, part.count


@jit
def _together(first: PartialMoments, second: PartialMoments) -> PartialMoments:
    """The parallel update of Chan, Golub and LeVeque (1979): no difference of large sums."""
    count = first.count + second.count
    dtype = first.gradient[0].dtype
    share = (second.count / count).astype(dtype)
    step = [b - a for a, b in zip(first.gradient, second.gradient, strict=True)]
    gradient = [a + share.astype(a.dtype) * d for a, d in zip(first.gradient, step, strict=True)]
    parts = []
    for a, b, symmetry in zip(first.parts, second.parts, first.symmetries.each, strict=True):
        legs = [symmetry.only(arrays) for arrays in (step, gradient)]
        function = partial(_combined, symmetry)
        parts.append(symmetry.in_own_precision(function, a, b, *legs, share, keep=True))
    return PartialMoments(tuple(parts), gradient, count, first.symmetries, first.params, first.weight_decay)


def _combined(
    symmetry: AbstractGroup, a: AbstractMoments, b: AbstractMoments, step: list[Any], gradient: list[Any], share: Array
) -> AbstractMoments:
    """The moments of two parts together, from those of each and the step between their mean gradients."""
    noise = jax.tree_util.tree_map(
        # Of two parts Σ w_b Gram(ḡ_b − ḡ) is w_1 w_2 Gram(ḡ_2 − ḡ_1).
        lambda x, y, z: _lerp(x, y, share) + (share * (1 - share)).astype(z.dtype) * z,
        a.noise,
        b.noise,
        of_gradient(symmetry, step),
    )
    return _with(a, noise, of_gradient(symmetry, gradient))


@jit
def _jackknife(
    stacked: tuple[list[Any], list[Array], Array],
    templates: tuple[AbstractMoments, ...],
    symmetries: Groups,
) -> tuple[tuple[AbstractMoments, ...], tuple[AbstractMoments, ...], tuple[AbstractMoments, ...], Array]:
    """The estimates, their standard errors, the estimates without each batch, and the number of samples."""
    noises, gradients, counts = stacked
    total = jnp.sum(counts)
    batches = len(counts)

    def weighted(values: Array, weights: Array) -> Array:
        return jnp.tensordot(weights.astype(values.dtype), values, axes=1, precision=jax.lax.Precision.HIGHEST)

    # From their common mean on, so that the Grams of the differences between batches lose nothing to its size.
    middle = [weighted(g, counts / total) for g in gradients]
    centred = [g - m for g, m in zip(gradients, middle, strict=True)]

    def of_all_but(left_out: Float[Array, " batches"]) -> list[tuple[Any, Any]]:
        """The unbiased noise and mean Grams of the batches that are kept, centred near their mean."""
        kept = counts * (1 - left_out)
        size = jnp.sum(kept)
        shift = [weighted(c, kept / size) for c in centred]
        results = []
        for symmetry, noise, template in zip(symmetries, noises, templates, strict=True):
            spread = jax.lax.map(  # one batch at a time: each is a gradient of all parameters
                lambda each, s=symmetry: of_gradient(s, [c - d for c, d in zip(each, shift, strict=True)]), centred
            )
            within = jax.tree_util.tree_map(lambda a, b: weighted(a + b, kept / size), noise, spread)
            mean = of_gradient(symmetry, [m + d for m, d in zip(middle, shift, strict=True)])
            unbiased = _unbiased(_with(template, within, mean), size)
            results.append((unbiased.noise, unbiased.mean))
        return results

    everything = of_all_but(jnp.zeros(batches))
    # One after the other, because each holds a mean gradient of all parameters.
    each = jax.lax.map(of_all_but, jnp.eye(batches))
    spread = jax.tree_util.tree_map(lambda x: jnp.sqrt((batches - 1) * jnp.var(x, axis=0)), each)
    value = tuple(_with(t, *pair) for t, pair in zip(templates, everything, strict=True))
    error = tuple(
        eqx.tree_at(lambda m: m.weight, _with(t, *pair), jax.tree_util.tree_map(jnp.zeros_like, t.weight))
        for t, pair in zip(templates, spread, strict=True)
    )
    replicates = tuple(
        eqx.tree_at(lambda m: m.weight, _with(t, *pair), _repeated(t.weight, batches))
        for t, pair in zip(templates, each, strict=True)
    )
    return value, error, replicates, total


def _repeated(values: Any, count: int) -> Any:
    """The same values for each batch: weights do not depend on the samples."""
    return jax.tree_util.tree_map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), values)


def _unbiased(moments: AbstractMoments, count: Array) -> AbstractMoments:
    """n/(n − 1) of the noise, and the Grams of the mean gradient less noise/n."""
    noise = jax.tree_util.tree_map(lambda x: (count / (count - 1)).astype(x.dtype) * x, moments.noise)
    mean = jax.tree_util.tree_map(lambda m, x: m - x / count.astype(x.dtype), moments.mean, noise)
    return _with(moments, noise, mean)


def _with(moments: AbstractMoments, noise: Any, mean: Any) -> AbstractMoments:
    return eqx.tree_at(lambda m: (m.noise, m.mean), moments, (noise, mean))


def _lerp(first: Array, second: Array, share: Array) -> Array:
    return first + share.astype(first.dtype) * (second - first)
