"""One pass over the data: the Grams of per-sample gradients, and the mean gradient, in chunks of bounded memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._parameters import split
from .._problem import Problem
from .._symmetry import BoundSymmetry
from .._symmetry._leg import BoundLeg
from ._chunks import samples_in, sum_over_samples
from ._gradients import GradientForm, gradient_form, gram, hold, total_gradient
from ._taps import TappedLoss, tap

Wanted = Sequence[tuple[BoundLeg, BoundSymmetry]]


def gradient_grams(
    problem: Problem, params: PyTree, wanted: Wanted, dtype: jnp.dtype
) -> tuple[list[Array], list[Array]]:
    """E[gram(g)] for each wanted leg, and for each parameter ḡ, zero where no leg wants it.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree.
        wanted: legs, each with the symmetry whose algebra says what of a Gram is needed.
        dtype: of the results, and of the arithmetic after the backward pass.

    Returns:
        Grams of the internal shape, with the block axis in front, and mean gradients shaped like the parameters.
    """
    arrays, _ = split(params)
    leaves = sorted({leg.index for leg, _ in wanted})
    tapped = tap(problem, params, leaves)
    forms = {leaf: _form(tapped, leaf, arrays[leaf].shape) for leaf in leaves}
    used = {leaf for leaf, form in forms.items() if form is not None}  # the loss depends on these

    def sums(samples: PyTree) -> tuple[dict[int, Array], dict[int, Array]]:
        n = jax.tree_util.tree_leaves(samples)[0].shape[0]
        pairs, slots = jax.vmap(lambda sample: tapped.derivatives(arrays, sample))(samples)
        factors = {}
        for leaf, form in forms.items():
            if leaf in tapped.escaped:
                factors[leaf] = [slots[tapped.escaped.index(leaf)][:, None].astype(dtype)]
            elif form is not None:
                uses, mine = [tapped.uses[i] for i in form.uses], [pairs[i] for i in form.uses]
                factors[leaf] = hold(form, uses, mine, dtype)
        grams = {
            place: gram(form, leg, symmetry, n)(factors[leg.index])
            for place, (leg, symmetry) in enumerate(wanted)
            if (form := forms[leg.index]) is not None
        }
        return grams, {leaf: total_gradient(form, factors[leaf]) for leaf, form in forms.items() if form is not None}

    count = problem.num_samples
    grams, gradients = sum_over_samples(sums, problem.data, count, _chunk(forms, wanted, arrays, count, dtype))
    seconds = [
        grams[place] / count if leg.index in used else jnp.zeros(symmetry.algebra.shape(leg.blocks, leg.size), dtype)
        for place, (leg, symmetry) in enumerate(wanted)
    ]
    means = [gradients[i] / count if i in used else jnp.zeros(a.shape, dtype) for i, a in enumerate(arrays)]
    return seconds, means


def _form(tapped: TappedLoss, leaf: int, shape: tuple[int, ...]) -> GradientForm | None:
    """How to hold the gradient of a parameter; None if the loss does not depend on it."""
    places = [place for place, use in enumerate(tapped.uses) if use.leaf == leaf]
    if not places and leaf not in tapped.escaped:
        return None
    return gradient_form(shape, [tapped.uses[place] for place in places], places)


def _chunk(
    forms: dict[int, GradientForm | None], wanted: Wanted, arrays: list[Array], count: int, dtype: jnp.dtype
) -> int:
    """How many samples to take at once so that what is not an activation stays below CHUNK_BYTES."""
    dense = sum(
        count * arrays[leaf].size * dtype.itemsize for leaf, form in forms.items() if form is not None and form.is_dense
    )
    intermediates = [
        gram(form, leg, symmetry, count).largest() * dtype.itemsize
        for leg, symmetry in wanted
        if (form := forms[leg.index]) is not None
    ]
    return samples_in(max(dense, *intermediates) // count, count)
