"""The second moments of the gradient noise along a symmetry, from one pass over the data.

    Q± = Σ_± |power| θ_legᵀθ_leg,    M± = Σ_± |power| (E[g_legᵀg_leg] − ḡ_legᵀḡ_leg),    ḡ = E[g],

with E the mean over the N samples (1/N), each leg written as a matrix with its symmetry axis last.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._numbers import cast, jit
from .._parameters import split
from .._problem import Problem
from .._symmetry import BoundSymmetry, Symmetry
from ._gradients import GradientForm, gradient_form, gram, hold, total_gradient
from ._taps import TappedLoss, tap

# Temporary memory for what is not an activation: per-sample gradients and large intermediates of the Grams.
CHUNK_BYTES = 2**26


class Moments(eqx.Module):
    """The weight, noise and mean-gradient Grams of the legs of a symmetry (theory, "Closed form").

    Attributes:
        powers: the distinct powers of the legs, in the order of their first leg.
        weight: for each power, Σ θ_legᵀθ_leg over its legs.
        noise: for each power, Σ (E[g_legᵀg_leg] − ḡ_legᵀḡ_leg).
        mean: for each power, Σ ḡ_legᵀḡ_leg.

    Each Gram has the shape of the charge. The properties add them up, counted with |power|, over the legs of one sign.
    """

    weight: tuple[Array, ...]
    noise: tuple[Array, ...]
    mean: tuple[Array, ...]
    powers: tuple[float, ...] = eqx.field(static=True)

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

    def total(self, grams: tuple[Array, ...], sign: int, exponent: int = 1) -> Array:
        """Σ |power|^exponent × Gram over the powers of one sign; zero if there is none."""
        total = jnp.zeros_like(grams[0])
        for power, value in zip(self.powers, grams, strict=True):
            if power * sign > 0:
                total = total + cast(abs(power) ** exponent, value) * value
        return total


def noise_moments(problem: Problem, params: PyTree, symmetry: Symmetry) -> Moments:
    """Q±, M± and the Grams of the mean gradient, at about the price of one gradient.

    No per-sample gradient is built where a parameter meets its input in a matrix product; a parameter used otherwise is
    differentiated per sample, in chunks of bounded memory, with the same result to rounding.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        symmetry: whose legs are measured.

    Returns:
        Moments, in the dtype of the parameters, computed at the highest matrix-product precision.

    Raises:
        ValueError: on a Stream; if the loss is not a real scalar; if a leg does not fit params.

    Not checked: that the loss has the symmetry; that it treats samples independently.

    Source: theory, "Closed form"; Section 5 of the paper.

    Example:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: p["u"] * p["w"] * z, jnp.array([1.0, -1.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(3.0)}
        >>> moments = ne.noise_moments(problem, params, ne.rescaling(lambda p: p["u"], lambda p: p["w"]))
        >>> float(moments.noise_plus), float(moments.noise_minus)  # Var(3z), Var(2z)
        (9.0, 4.0)
    """
    problem.require_finite("noise_moments")
    return bound_moments(problem, params, symmetry.bind(params))


@jit
def bound_moments(problem: Problem, params: PyTree, symmetry: BoundSymmetry) -> Moments:
    """`noise_moments` of a symmetry that knows its parameters; compiled once per problem, shapes and legs."""
    with jax.default_matmul_precision("highest"):
        arrays, _ = split(params)
        seconds, means = _gradient_grams(problem, params, symmetry)
        weight = symmetry.grams(arrays)
        mean = symmetry.grams(means)
        second = dict.fromkeys(weight, jnp.zeros(()))
        for leg, value in zip(symmetry.legs, seconds, strict=True):
            second[leg.power] = second[leg.power] + value
        powers = tuple(weight)
        return Moments(
            weight=tuple(symmetry.public(weight[power]) for power in powers),
            noise=tuple(symmetry.public(second[power] - mean[power]) for power in powers),
            mean=tuple(symmetry.public(mean[power]) for power in powers),
            powers=powers,
        )


def _gradient_grams(problem: Problem, params: PyTree, symmetry: BoundSymmetry) -> tuple[list[Array], list[Array]]:
    """For each leg E[gram(g)], and for each parameter of params ḡ (zero outside the legs)."""
    arrays, _ = split(params)
    tapped = tap(problem, params, [leg.index for leg in symmetry.legs])
    forms = [_form(tapped, leg.index, arrays[leg.index].shape) for leg in symmetry.legs]

    def sums(samples: PyTree) -> list[tuple[Array, Array]]:
        n = jax.tree_util.tree_leaves(samples)[0].shape[0]
        pairs, slots = jax.vmap(lambda sample: tapped.derivatives(arrays, sample))(samples)
        totals = []
        for leg, form in zip(symmetry.legs, forms, strict=True):
            array = arrays[leg.index]
            if leg.index in tapped.escaped:
                factors = [slots[tapped.escaped.index(leg.index)][:, None]]
            elif form.uses:
                factors = hold(form, [tapped.uses[i] for i in form.uses], [pairs[i] for i in form.uses], array.dtype)
            else:  # the loss does not depend on this parameter
                shape = symmetry.algebra.shape(leg.blocks, leg.size)
                totals.append((jnp.zeros(shape, array.dtype), jnp.zeros_like(array)))
                continue
            totals.append((gram(form, leg, symmetry, n)(factors), total_gradient(form, factors)))
        return totals

    count = problem.num_samples
    totals = _sum_in_chunks(sums, problem.data, count, _chunk(tapped, forms, symmetry, arrays, count))
    means = [jnp.zeros_like(array) for array in arrays]
    for leg, (_, gradient) in zip(symmetry.legs, totals, strict=True):
        means[leg.index] = gradient / count
    return [second / count for second, _ in totals], means


def _form(tapped: TappedLoss, leaf: int, shape: tuple[int, ...]) -> GradientForm:
    places = [place for place, use in enumerate(tapped.uses) if use.leaf == leaf]
    return gradient_form(shape, [tapped.uses[place] for place in places], places)


def _chunk(
    tapped: TappedLoss, forms: list[GradientForm], symmetry: BoundSymmetry, arrays: list[Array], count: int
) -> int:
    """How many samples to take at once so that what is not an activation stays below CHUNK_BYTES."""
    largest = 0
    for leg, form in zip(symmetry.legs, forms, strict=True):
        itemsize = arrays[leg.index].dtype.itemsize
        if form.is_dense:
            largest += count * arrays[leg.index].size * itemsize
        if form.uses or leg.index in tapped.escaped:
            largest = max(largest, gram(form, leg, symmetry, count).largest() * itemsize)
    return min(count, max(1, count * CHUNK_BYTES // max(largest, 1)))


def _sum_in_chunks(sums, data: PyTree, count: int, chunk: int):
    """Σ over chunks of `sums(samples)`, in a loop that holds one chunk at a time."""
    whole = count // chunk
    if whole == 1 and count == chunk:
        return sums(data)
    head = jax.tree_util.tree_map(lambda x: x[: whole * chunk].reshape(whole, chunk, *x.shape[1:]), data)
    first = jax.tree_util.tree_map(lambda x: x[0], head)
    zero = jax.tree_util.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(sums, first))

    def add(total, samples):
        return jax.tree_util.tree_map(jnp.add, total, sums(samples)), None

    total, _ = jax.lax.scan(add, zero, head)
    if whole * chunk < count:
        rest = jax.tree_util.tree_map(lambda x: x[whole * chunk :], data)
        total = jax.tree_util.tree_map(jnp.add, total, sums(rest))
    return total
