"""Traces of the gradient noise with a generator, and the charge rate of every sample, without forming Σ."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._budget import require_room
from .._group import AbstractGroup
from .._minibatch import Minibatches, Replacement
from .._numbers import cast, jit
from .._parameters import accumulation_dtype, split
from .._per_sample import LegGram, Silence, map_over_samples, plan, samples_in
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, bind, scaling
from ._finite import require_finite_gradients
from ._moments import measured_moments


def noise_trace(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | None = None,
    *,
    batch_size: int = 1,
    replacement: Replacement = True,
) -> Array:
    """Tr[ΣA], what the noise does to a charge, or Tr Σ: exactly, and without forming Σ.

    For a leg symmetry this is M₊ − M₋, of the charge's shape: Tr[ΣA] = Tr[B (M₊ − M₋)] for the element B.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        symmetry: any symmetry, of a matrix-free generator too; Tr Σ over all parameters if there is none.
        batch_size: S; Σ is that of a minibatch gradient, Σ/S.
        replacement: how the samples of a batch are chosen. True: independent draws. False: no sample twice in a batch,
            Σ/S × (N − S)/(N − 1). "epoch": the same, for a batch of a shuffled epoch taken by itself.

    Returns:
        A scalar, or an array of the charge's shape.

    Raises:
        ValueError: on a population; if the loss is not a real scalar, or not finite for some sample; if the symmetry
            does not fit params; for a batch that does not fit the data.

    Source: Eq. (7); theory, "Closed form".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: jnp.dot(p, z), jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> float(ne.noise_trace(problem, jnp.zeros(2))), float(ne.noise_trace(problem, jnp.zeros(2), batch_size=2))
        (1.0, 0.5)
    """
    problem.require_finite("noise_trace")
    factor = Minibatches(batch_size, replacement).noise_ratio(problem.num_samples)
    bound = bind(scaling() if symmetry is None else symmetry, params)
    (moments,), silence = measured_moments(problem, params, (bound,))
    trace = moments.noise_plus - moments.noise_minus
    require_finite_gradients(problem, params, trace)
    silence.warn(of_parameters=symmetry is not None)
    return cast(factor, trace) * trace


def charge_rates(problem: Problem, params: PyTree, symmetry: AbstractSymmetry) -> Array:
    """gᵀAg of every sample: what one step of SGD with that sample alone adds to the charge, divided by η².

    At batch size 1 the charge moves as C' = (1 − 2ηγ)² C + η² gᵀAg, exactly; the mean over samples is
    Tr[ΣA] + ḡᵀAḡ. As an observable of `simulate`: `lambda params: charge_rates(problem, params, symmetry)`.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        symmetry: any symmetry, of a matrix-free generator too.

    Returns:
        An array of shape (N, …), … that of the charge.

    Raises:
        ValueError: on a population; if the loss is not a real scalar; if the symmetry does not fit params; for N
            charges of more than 2 GiB together.

    Source: theory, "Discrete time"; Appendix D.
    """
    problem.require_finite("charge_rates")
    bound = bind(symmetry, params)
    require_room(
        f"charge_rates of {problem.num_samples} samples with a charge of {bound.size} numbers each",
        problem.num_samples * bound.size,
        accumulation_dtype(split(params)[0]),
        "Use noise_trace for the mean over the samples, fewer samples at a time, or a diagonal or scalar symmetry.",
    )
    rates, silence = _charge_rates(problem, params, bound)
    silence.warn()
    return rates


@functools.partial(jit, rows_of=lambda problem, params, symmetry: problem.data)
def _charge_rates(problem: Problem, params: PyTree, symmetry: AbstractGroup) -> tuple[Array, Silence]:
    with jax.default_matmul_precision("highest"):
        if isinstance(symmetry, BoundSymmetry):
            return _along_legs(problem, params, symmetry)
        return _in_full(problem, params, symmetry), Silence()


def _along_legs(problem: Problem, params: PyTree, symmetry: BoundSymmetry) -> tuple[Array, Silence]:
    arrays, _ = split(params)
    wanted = [LegGram(leg, symmetry.algebra.rank) for leg in symmetry.legs]
    made = plan(problem, params, wanted, accumulation_dtype([arrays[leg.index] for leg in symmetry.legs]))

    def rates(samples: PyTree) -> Array:
        count = len(jax.tree_util.tree_leaves(samples)[0])
        factors, _ = made.factors(arrays, samples)
        total = jnp.zeros((count, *symmetry.shape), made.dtype)
        for leg, one in zip(symmetry.legs, wanted, strict=True):
            if leg.index in made.forms:
                gram = made.forms[leg.index].gram(one, factors[leg.index], per_sample=True)
                total = total + cast(leg.power, gram) * gram
        return jax.vmap(symmetry.public)(total)

    return map_over_samples(rates, problem.data, made.total, made.most), made.silence


def _in_full(problem: Problem, params: PyTree, symmetry: AbstractGroup) -> Array:
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)

    def rate(sample: PyTree) -> Array:
        slopes = jax.grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays)
        return symmetry.public(symmetry.charge([slope.astype(dtype) for slope in slopes]))

    size = sum(array.size for array in arrays)
    most = samples_in(4 * size * dtype.itemsize, problem.num_samples)
    return map_over_samples(jax.vmap(rate), problem.data, problem.num_samples, most)
