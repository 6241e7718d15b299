"""One pass over the data: the Grams of per-sample gradients, and the mean gradient, in chunks of bounded memory."""

import math
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._double import in_double
from .._parameters import split
from .._problem import Problem
from ._activation_bytes import ESCAPED, FIXED, SAMPLE, bytes_per_sample
from ._chunks import samples_in, sum_over_samples
from ._outer_products import LegGram
from ._parameter_gradient import LeafForm, leaf_form
from ._silence import Silence
from ._tapped_loss import TappedLoss, tap


class Plan(NamedTuple):
    """How the Grams that some legs want are computed; static.

    Attributes:
        tapped: the loss with taps.
        forms: for each parameter that is wanted and used, how its gradient is held.
        wanted: the Grams.
        dtype: of the arithmetic after the backward pass.
        total: N.
        most: the largest number of samples in a chunk.
        memory: an estimate of the temporary memory of a chunk, in bytes.
    """

    tapped: TappedLoss
    forms: dict[int, LeafForm]
    wanted: Sequence[LegGram]
    dtype: jnp.dtype
    total: int
    most: int
    memory: int

    @property
    def silence(self) -> Silence:
        """What the loss does not depend on, of what the legs want."""
        ignored = {leg.name for leg, _ in self.wanted if leg.index not in self.forms}
        return Silence(self.tapped.varies, tuple(sorted(ignored)))

    def factors(
        self, arrays: Sequence[Array], samples: PyTree, others: Sequence[int] = ()
    ) -> tuple[dict[int, list[list[Array]]], dict[int, Array]]:
        """The factors of the gradients of n samples, for each parameter; and of others the sum of the gradients."""
        pairs, slots, sums = self.tapped.derivatives(arrays, samples, others)
        return {leaf: form.hold(self.tapped.uses, pairs, slots, self.dtype) for leaf, form in self.forms.items()}, sums


def plan(problem: Problem, params: PyTree, wanted: Sequence[LegGram], dtype: jnp.dtype) -> Plan:
    """Read the loss and decide how each parameter's gradient is held, and how many samples at once."""
    arrays, _ = split(params)
    leaves = sorted({leg.index for leg, _ in wanted})
    tapped = tap(problem, params, leaves)
    forms = {leaf: leaf_form(tapped, leaf, arrays[leaf].shape, wanted) for leaf in leaves}
    used = {leaf: form for leaf, form in forms.items() if form.parts}
    count = problem.num_samples
    activations, extra = _bytes(tapped, used, wanted, arrays, count, dtype)
    most = samples_in(extra, count, activations)
    return Plan(tapped, used, wanted, dtype, count, most, most * (activations + extra))


def gradient_grams(
    problem: Problem,
    params: PyTree,
    wanted: Sequence[LegGram],
    dtype: jnp.dtype,
    double: bool = False,
    all_sums: bool = False,
) -> tuple[list[Any], list[Array], Silence]:
    """E[gram(g)] for each wanted leg; for each parameter Σ g; and what the loss does not depend on.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree.
        wanted: the Grams.
        dtype: of the results, and of the arithmetic after the backward pass.
        double: whether Grams of matrix symmetries are summed and returned in double precision.
        all_sums: whether Σ g is wanted of every parameter; if not, it is zero where no leg is.

    Returns:
        Grams with the block axis in front; sums of gradients shaped like the parameters, for the caller to divide where
        it costs least; and what the loss does not depend on.
    """
    arrays, _ = split(params)
    made = plan(problem, params, wanted, dtype)
    count = made.total
    used = {place: one for place, one in enumerate(wanted) if one.leg.index in made.forms}
    others = [leaf for leaf in range(len(arrays)) if leaf not in made.forms] if all_sums else []

    def of_leg(one: LegGram, factors: Any) -> Any:
        def gram(factors: Any) -> Array:
            return made.forms[one.leg.index].gram(one, factors) / count

        return in_double(gram, factors, keep=True) if double and one.rank == 2 else gram(factors)

    def sums(samples: PyTree) -> tuple[dict[int, Any], dict[int, Array]]:
        factors, totals = made.factors(arrays, samples, others)
        grams = {place: of_leg(one, factors[one.leg.index]) for place, one in used.items()}
        return grams, totals | {leaf: form.total(factors[leaf]) for leaf, form in made.forms.items()}

    grams, totals = sum_over_samples(sums, problem.data, count, made.most)
    seconds = [grams[place] if place in grams else jnp.zeros(one.shape, dtype) for place, one in enumerate(wanted)]
    gradients = [
        totals[leaf].astype(dtype) if leaf in totals else jnp.zeros(array.shape, dtype)
        for leaf, array in enumerate(arrays)
    ]
    return seconds, gradients, made.silence


def _bytes(
    tapped: TappedLoss,
    forms: dict[int, LeafForm],
    wanted: Sequence[LegGram],
    arrays: Sequence[Array],
    count: int,
    dtype: jnp.dtype,
) -> tuple[int, int]:
    """Bytes per sample of the activations, and of what else one pass holds."""
    inputs = range(len(tapped.reading.program.jaxpr.invars))
    depends = [SAMPLE if i >= len(arrays) else ESCAPED if i in tapped.escaped else FIXED for i in inputs]
    activations, escaped, _ = bytes_per_sample(tapped.reading.program.jaxpr, depends)
    if tapped.escaped:  # one parameter per sample, and so all that is made of it
        escaped += sum(arrays[leaf].nbytes for leaf in tapped.escaped)
    again = tapped.reading.computed_again
    numbers = sum(_beyond_activations(tapped, form, again) for form in forms.values())
    intermediates = [
        gram.largest()
        for one in wanted
        if one.leg.index in forms
        for _, _, gram in forms[one.leg.index].grams(one, count)
    ]
    # Twice what escapes, forward and backward; of the Grams the largest intermediate alone, since they come in turn.
    return activations, 2 * escaped + (numbers + max(intermediates, default=0) // count) * dtype.itemsize


def _beyond_activations(tapped: TappedLoss, form: LeafForm, again: Set[int]) -> int:
    """How many numbers per sample the factors of a gradient are, where a gradient of the loss does not keep them."""
    numbers, known = 0, list(tapped.reading.uses)
    for part in form.parts:
        if part.is_dense:
            numbers += math.prod(part.shape)
        elif any(known[place] in again for place in part.uses):
            # As they leave the backward pass, with the turns of a loop in front, and once more as Grams take them.
            numbers += 2 * part.numbers_per_sample()
        for use in (tapped.uses[place] for place in part.uses):
            if use.kind == "convolution":
                numbers += part.numbers_per_sample()
            if use.kind == "rows":
                numbers += part.positions * (part.positions + (part.shape[use.other[-1]] if part.rows is None else 0))
    return numbers + (form.joint.numbers_per_sample() if form.joint is not None else 0)
