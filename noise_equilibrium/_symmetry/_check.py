"""Does a loss have a symmetry? Equation (3), sample by sample, and its derivative, for their mean."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .._budget import at_once
from .._group import AbstractGroup
from .._numbers import jit
from .._parameters import split, widest_dtype
from .._problem import Problem
from ._bind import bind
from ._symmetry import AbstractSymmetry

CHUNK = 64  # the most samples at once
# The most entries of an element for which each is asked for at second order; of more, so many random elements.
MOST_ENTRIES, RANDOM_ELEMENTS = 64, 16


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


def check_symmetry(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, *, order: int = 1) -> None:
    """Raise an error unless the loss has the symmetry at θ to rounding: `symmetry_violation` ≤ √ε of the dtype.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree; known numbers, so not inside `jit`.
        symmetry: the symmetry in question.
        order: 2 for the derivative of Eq. (3) too, of the data loss L = E ℓ with H = ∇²L: HAθ = −Aᵀ∇L for every A of
            the Lie algebra, antisymmetric matrices included. It is about how the loss changes beside θ, and finds what
            happens to have no slope at θ. It says that along the orbit L has the curvature ⟨Aθ, HAθ⟩ = −⟨A²θ, ∇L⟩:
            none at a minimum, and Aθ is then a null vector of H.

    Raises:
        SymmetryError: names the sample, the element, the size of the violation and the threshold; at second order the
            element and ‖HAθ + Aᵀ∇L‖ as a share of h‖Aθ‖ + ‖Aᵀ∇L‖, h the root mean square curvature.
        ValueError: as `symmetry_violation`; for another order than 1 or 2.

    Cost of the second order: one Hessian–vector product for every entry of an element, for 16 random elements if there
    are more than 64 entries.
    """
    problem.require_finite("check_symmetry")
    if order not in (1, 2):
        raise ValueError(f"order is {order!r}; expected 1, Eq. (3), or 2, its derivative.")
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
    if order == 2:
        _check_second_order(problem, params, bound, threshold)


def _check_second_order(problem: Problem, params: PyTree, group: AbstractGroup, threshold: float) -> None:
    sizes = _second_order(problem, params, group)
    worst = int(jnp.argmax(jnp.where(jnp.isnan(sizes), jnp.inf, sizes)))
    if not float(sizes[worst]) <= threshold:
        entry = [int(place) for place in np.unravel_index(worst, group.shape)] if group.shape else []
        if group.size > MOST_ENTRIES:
            name = "a random element"
        else:
            name = (
                f"the element with a 1 at {entry[1:] if group.blocks == 1 else entry}" if entry[1:] else "the element 1"
            )
        raise SymmetryError(
            f"the loss lacks the symmetry beside θ: ‖HAθ + Aᵀ∇L‖ is {float(sizes[worst]):.3g} of h‖Aθ‖ + ‖Aᵀ∇L‖ for "
            f"{name}; expected at most {threshold:.3g}. At θ itself Eq. (3) holds: something in the loss that depends "
            "on the legs has no slope there."
        )


@jit
def _second_order(problem: Problem, params: PyTree, group: AbstractGroup) -> Float[Array, " elements"]:
    """‖HAθ + Aᵀ∇L‖ / (h‖Aθ‖ + ‖Aᵀ∇L‖) for every entry of an element, or for some random elements."""
    arrays, rebuild = split(params)
    dtype = widest_dtype(arrays)

    def loss(arrays: list[Array]) -> Array:
        # One chunk of samples at a time; without the checkpoint a derivative would keep the activations of all.
        of_sample = jax.checkpoint(lambda sample: problem.sample_loss(rebuild(arrays), sample))
        return jnp.mean(jax.lax.map(of_sample, problem.data, batch_size=min(CHUNK, problem.num_samples)))

    slope = jax.grad(loss)

    def bent(vector: list[Array]) -> list[Array]:
        return jax.jvp(slope, (arrays,), (vector,))[1]

    def length(vector: list[Array]) -> Array:
        return jnp.sqrt(functools.reduce(jnp.add, [jnp.sum(part.astype(dtype) ** 2) for part in vector]))

    keys = jax.random.split(jax.random.key(0), len(arrays) + 1)
    probe = [jax.random.normal(keys[place], array.shape, array.dtype) for place, array in enumerate(arrays)]
    curvature = length(bent(probe)) / length(probe)
    here = slope(arrays)
    if group.size <= MOST_ENTRIES:
        elements = jnp.eye(group.size, dtype=dtype)
    else:
        elements = jax.random.normal(keys[-1], (RANDOM_ELEMENTS, group.size), dtype)

    def size(element: Array) -> Array:
        element = element.reshape(group.shape)
        moved, pulled = _acted(group, arrays, element), _acted(group, here, element, transposed=True)
        rest = length([one + other for one, other in zip(bent(moved), pulled, strict=True)])
        scale = curvature * length(moved) + length(pulled)
        return rest / jnp.where(scale > 0, scale, 1)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(size, elements)


def _acted(group: AbstractGroup, arrays: list[Array], element: Array, transposed: bool = False) -> list[Array]:
    """AΘ, or AᵀΘ, for any matrix Z: ΘZ on + legs and −ΘZᵀ on − legs; numbers have symmetric A."""
    if not group.of_matrices:
        return group.tangent(arrays, element)
    matrix = jnp.swapaxes(element, -1, -2) if transposed else element
    moved = group.multiply(group.only(arrays), {1: matrix, -1: -jnp.swapaxes(matrix, -1, -2)})
    return [jnp.zeros_like(array) if part is None else part for part, array in zip(moved, arrays, strict=True)]


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
