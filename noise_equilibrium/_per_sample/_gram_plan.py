"""One pass over the data: the Grams of per-sample gradients, and the mean gradient, in chunks of bounded memory."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._double import in_double
from .._parameters import split
from .._problem import Problem
from ._activation_bytes import ESCAPED, FIXED, SAMPLE, bytes_per_sample
from ._chunks import samples_in, sum_over_samples
from ._outer_products import gram
from ._parameter_gradient import LeafForm, Wanted, form_for, leaf_form
from ._silence import Silence
from ._tapped_loss import TappedLoss, tap


class Plan(NamedTuple):
    """How the Grams that some legs want are computed; static.

    Attributes:
        tapped: the loss with taps.
        forms: for each parameter that is wanted and used, how its gradient is held.
        wanted: the legs, each with the symmetry whose algebra says what of a Gram is needed.
        dtype: of the arithmetic after the backward pass.
        total: N.
        most: the largest number of samples in a chunk.
        memory: an estimate of the temporary memory of a chunk, in bytes.
    """

    tapped: TappedLoss
    forms: dict[int, LeafForm]
    wanted: Wanted
    dtype: jnp.dtype
    total: int
    most: int
    memory: int

    @property
    def silence(self) -> Silence:
        """What the loss does not depend on, of what the legs want."""
        return Silence(
            self.tapped.varies, tuple(sorted({leg.name for leg, _ in self.wanted if leg.index not in self.forms}))
        )

    def factors(self, arrays: Sequence[Array], samples: PyTree) -> dict[int, list[list[Array]]]:
        """The factors of the gradients of n samples, for each parameter."""
        pairs, slots = jax.vmap(lambda sample: self.tapped.derivatives(arrays, sample))(samples)
        return {leaf: form.hold(self.tapped.uses, pairs, slots, self.dtype) for leaf, form in self.forms.items()}


def plan(problem: Problem, params: PyTree, wanted: Wanted, dtype: jnp.dtype) -> Plan:
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
    problem: Problem, params: PyTree, wanted: Wanted, dtype: jnp.dtype, double: bool = False
) -> tuple[list[Any], list[Array], Silence]:
    """E[gram(g)] for each wanted leg; for each parameter ḡ, zero where no leg wants it; what the loss does not know.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree.
        wanted: legs, each with the symmetry whose algebra says what of a Gram is needed.
        dtype: of the results, and of the arithmetic after the backward pass.
        double: whether Grams of matrix symmetries are summed and returned in double precision.

    Returns:
        Grams of the internal shape, with the block axis in front; mean gradients shaped like the parameters; and what
        the loss does not depend on.
    """
    arrays, _ = split(params)
    made = plan(problem, params, wanted, dtype)
    count = made.total

    def of_leg(place: int, factors: Any) -> Any:
        leg, symmetry = wanted[place]

        def gram(factors: Any) -> Array:
            return made.forms[leg.index].gram(leg, symmetry, factors) / count

        return in_double(gram, factors, keep=True) if double and symmetry.algebra.rank == 2 else gram(factors)

    def sums(samples: PyTree) -> tuple[dict[int, Any], dict[int, Array]]:
        factors = made.factors(arrays, samples)
        used = [place for place, (leg, _) in enumerate(wanted) if leg.index in made.forms]
        grams = {place: of_leg(place, factors[wanted[place][0].index]) for place in used}
        return grams, {leaf: form.total(factors[leaf]) for leaf, form in made.forms.items()}

    grams, gradients = sum_over_samples(sums, problem.data, count, made.most)
    seconds = [
        grams[place] if place in grams else jnp.zeros(symmetry.algebra.shape(leg.blocks, leg.size), dtype)
        for place, (leg, symmetry) in enumerate(wanted)
    ]
    means = [gradients[i] / count if i in gradients else jnp.zeros(a.shape, dtype) for i, a in enumerate(arrays)]
    return seconds, means, made.silence


def _bytes(
    tapped: TappedLoss,
    forms: dict[int, LeafForm],
    wanted: Wanted,
    arrays: Sequence[Array],
    count: int,
    dtype: jnp.dtype,
) -> tuple[int, int]:
    """Bytes per sample of the activations, and of what else one pass holds."""
    inputs = range(len(tapped.reading.program.jaxpr.invars))
    depends = [SAMPLE if i >= len(arrays) else ESCAPED if i in tapped.escaped else FIXED for i in inputs]
    activations, escaped, _ = bytes_per_sample(tapped.reading.program.jaxpr, depends)
    if tapped.escaped:  # one parameter per sample, and so all that is made of it, forward and backward
        escaped += sum(arrays[leaf].nbytes for leaf in tapped.escaped)
    numbers = sum(_beyond_activations(tapped, form) for form in forms.values())
    intermediates = [
        max(gram(form_for(part, leg, symmetry), leg, symmetry, count).largest() for part in forms[leg.index].forms)
        for leg, symmetry in wanted
        if leg.index in forms
    ]
    return activations, 2 * escaped + (numbers + max(intermediates, default=0) // count) * dtype.itemsize


def _beyond_activations(tapped: TappedLoss, form: LeafForm) -> int:
    """How many numbers per sample the factors of a gradient are, where they are larger than activations."""
    numbers = 0
    for part in form.parts:
        uses = [tapped.uses[place] for place in part.uses]
        if part.is_dense:
            numbers += math.prod(part.shape)
        for use in uses:
            if use.kind == "convolution":
                numbers += part.numbers_per_sample()
            if use.kind == "rows":
                numbers += part.positions * (part.positions + (part.shape[use.other[-1]] if part.rows is None else 0))
    return numbers + (form.joint.numbers_per_sample() if form.joint is not None else 0)
