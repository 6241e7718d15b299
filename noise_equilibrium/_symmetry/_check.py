"""Does a loss have a symmetry? Equation (3), sample by sample."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._budget import at_once
from .._group import AbstractGroup
from .._numbers import jit
from .._parameters import split, widest_dtype
from .._problem import Problem
from ._bind import bind
from ._symmetry import AbstractSymmetry

CHUNK = 64  # the most samples at once


class SymmetryError(ValueError):
    """The loss does not have the symmetry it is said to have."""


class Violation(NamedTuple):
    """The worst |⟨Aθ, g⟩| / (‖Aθ‖ ‖g‖) of each sample, and the basis element it belongs to."""

    size: Float[Array, " N"]
    element: Int[Array, " N"]


def symmetry_violation(problem: Problem, params: PyTree, symmetry: AbstractSymmetry) -> Float[Array, ""]:
    """How far a loss is from having a symmetry, J·∇ℓ(θ, z) = 0 for every z, Eq. (3).

    Args:
        problem: a finite problem.
        params: the parameters, any pytree.
        symmetry: the symmetry in question.

    Returns:
        The maximum over samples and over a basis of elements of |⟨Aθ, g⟩| / (‖Aθ‖ ‖g‖), norms over the
        legs, between 0 and 1; 0 where Aθ or g vanishes. About the rounding error of the dtype if the loss has the
        symmetry at θ.

    Raises:
        ValueError: on a Stream; if the loss is not a real scalar; if a leg does not fit params.

    Not checked: other parameters than these. A random point that is no minimum is the best place to ask.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] ** 2 - z) ** 2, jnp.array([1.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(3.0)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> bool(ne.symmetry_violation(problem, params, symmetry) > 0.1)  # u w² is not invariant, u²w² would be
        True
    """
    problem.require_finite("symmetry_violation")
    return jnp.max(_violations(problem, params, bind(symmetry, params)).size)


def check_symmetry(problem: Problem, params: PyTree, symmetry: AbstractSymmetry) -> None:
    """Raise an error unless the loss has the symmetry at θ to rounding: `symmetry_violation` ≤ √ε of the dtype.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree; known numbers, so not inside `jit`.
        symmetry: the symmetry in question.

    Raises:
        SymmetryError: names the sample, the element, the size of the violation and the threshold.
        ValueError: as `symmetry_violation`.
    """
    problem.require_finite("check_symmetry")
    bound = bind(symmetry, params)
    size, element = _violations(problem, params, bound)
    # Half of the digits: a gradient adds up many roundings.
    threshold = float(jnp.sqrt(jnp.finfo(size.dtype).eps))
    # A NaN is the worst of all.
    worst = int(jnp.argmax(jnp.where(jnp.isnan(size), jnp.inf, size)))
    if not float(size[worst]) <= threshold:
        raise SymmetryError(
            f"the loss lacks the symmetry: at sample {worst}, |⟨Aθ, g⟩| is {float(size[worst]):.3g} of ‖Aθ‖ ‖g‖ "
            f"for the element {bound.name_of(int(element[worst]))}; expected at most {threshold:.3g}. "
            "Check the legs, their axes and their powers, and that nothing else in the loss depends on them."
        )


@jit
def _violations(problem: Problem, params: PyTree, symmetry: AbstractGroup) -> Violation:
    arrays, rebuild = split(params)
    gradient = jax.grad(lambda arrays, sample: problem.sample_loss(rebuild(arrays), sample))
    lengths = symmetry.lengths(arrays)

    def ratios(slopes: list[Array]) -> Float[Array, " basis"]:
        """|⟨Aθ, g⟩| / (‖Aθ‖ ‖g‖) for every element of a basis; norms over what is moved."""
        inside = [slope for slope in symmetry.only(slopes) if slope is not None]
        products = symmetry.on_basis(symmetry.weighted(symmetry.product(arrays, slopes)))
        size = jnp.sqrt(functools.reduce(jnp.add, [jnp.sum(slope**2) for slope in inside])) * lengths
        # Where Aθ or g vanishes there is nothing to violate.
        return jnp.abs(products) / jnp.where(size > 0, size, 1)

    def worst(sample: PyTree) -> Violation:
        sizes = ratios(gradient(arrays, sample))
        place = jnp.argmax(sizes)
        return Violation(sizes[place], place)

    # Of every sample the gradient, its products with the legs, and their entries.
    numbers = sum(array.size for array in arrays) + 2 * symmetry.size
    each = 4 * numbers * widest_dtype(arrays).itemsize
    return jax.lax.map(worst, problem.data, batch_size=at_once(each, min(CHUNK, problem.num_samples)))
