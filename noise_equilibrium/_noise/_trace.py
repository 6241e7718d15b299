"""Traces of the gradient noise with a generator, and the charge rate of every sample, without forming Σ."""

import functools
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._numbers import cast, jit
from .._parameters import accumulation_dtype, flatten, split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, Bound, BoundExponential, BoundSymmetry, bind, scaling
from ._batch import batch_factor
from ._chunks import map_over_samples, samples_in
from ._finite import require_finite_gradients
from ._moments import bound_moments
from ._pass import plan


def noise_trace(
    problem: Problem,
    params: PyTree,
    symmetry: AbstractSymmetry | None = None,
    *,
    batch_size: int = 1,
    replacement: bool = True,
) -> Array:
    """Tr[ΣA], what the noise does to a charge, or Tr Σ: exactly, and without forming Σ.

    For a leg symmetry this is M₊ − M₋, of the charge's shape: Tr[ΣA] = Tr[B (M₊ − M₋)] for the element B.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        symmetry: any symmetry, of a matrix-free generator too; Tr Σ over all parameters if there is none.
        batch_size: S; Σ is that of a minibatch gradient, Σ/S.
        replacement: whether the samples of a batch are independent draws; if not, Σ/S × (N − S)/(N − 1).

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
    factor = batch_factor(problem.num_samples, batch_size, replacement)
    with warnings.catch_warnings():
        if symmetry is None:  # all parameters are meant, those without noise too
            warnings.filterwarnings("ignore", message="the loss does not depend on params", category=UserWarning)
        bound = bind(scaling() if symmetry is None else symmetry, params)
        (moments,) = bound_moments(problem, params, (bound,))
    trace = moments.noise_plus - moments.noise_minus
    require_finite_gradients(problem, params, trace)
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
        ValueError: on a population; if the loss is not a real scalar; if the symmetry does not fit params.

    Source: theory, "Discrete time"; Appendix D.
    """
    problem.require_finite("charge_rates")
    return _charge_rates(problem, params, bind(symmetry, params))


@functools.partial(jit, rows_of=lambda problem, params, symmetry: problem.data)
def _charge_rates(problem: Problem, params: PyTree, symmetry: Bound) -> Array:
    with jax.default_matmul_precision("highest"):
        if isinstance(symmetry, BoundExponential):
            return _along_matrix(problem, params, symmetry)
        return _along_legs(problem, params, symmetry)


def _along_legs(problem: Problem, params: PyTree, symmetry: BoundSymmetry) -> Array:
    arrays, _ = split(params)
    wanted = [(leg, symmetry) for leg in symmetry.legs]
    made = plan(problem, params, wanted, accumulation_dtype([arrays[leg.index] for leg in symmetry.legs]))

    def rates(samples: PyTree) -> Array:
        count = len(jax.tree_util.tree_leaves(samples)[0])
        factors = made.factors(arrays, samples)
        total = jnp.zeros((count, *symmetry.shape), made.dtype)
        for leg in symmetry.legs:
            if leg.index in made.forms:
                gram = made.forms[leg.index].gram(leg, symmetry, factors[leg.index], per_sample=True)
                total = total + cast(leg.power, gram) * gram
        return jax.vmap(symmetry.public)(total)

    return map_over_samples(rates, problem.data, made.total, made.most)


def _along_matrix(problem: Problem, params: PyTree, symmetry: BoundExponential) -> Array:
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)

    def rate(sample: PyTree) -> Array:
        slopes = jax.grad(lambda arrays: problem.sample_loss(rebuild(arrays), sample))(arrays)
        gradient = flatten(slopes)[0].astype(dtype)
        return jnp.vdot(gradient, symmetry.apply(gradient), precision=jax.lax.Precision.HIGHEST)

    size = sum(array.size for array in arrays)
    most = samples_in(4 * size * dtype.itemsize, problem.num_samples)
    return map_over_samples(jax.vmap(rate), problem.data, problem.num_samples, most)
