"""The second moments of the gradient noise along a symmetry, from one pass over the data.

    Q± = Σ_± |power| θ_legᵀθ_leg,    M± = Σ_± |power| (E[g_legᵀg_leg] − ḡ_legᵀḡ_leg),    ḡ = E[g],

with E the mean over the N samples (1/N), each leg written as a matrix with its symmetry axis last.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, overload

import jax
from jaxtyping import Array, PyTree

from .._double import in_double
from .._group import AbstractGroup, Groups
from .._numbers import jit
from .._parameters import accumulation_dtype, split
from .._per_sample import LegGram, Silence, gradient_grams, gram_of
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, ExponentialSymmetry, Symmetry, bind_each
from ._abstract import AbstractMoments, Moments, as_kept
from ._finite import require_finite_gradients
from ._spectral import SpectralMoments, dense_moments


@overload
def noise_moments(problem: Problem, params: PyTree, symmetry: Symmetry) -> Moments: ...


@overload
def noise_moments(problem: Problem, params: PyTree, symmetry: ExponentialSymmetry) -> SpectralMoments: ...


@overload
def noise_moments(
    problem: Problem, params: PyTree, symmetry: Sequence[AbstractSymmetry]
) -> tuple[AbstractMoments, ...]: ...


def noise_moments(
    problem: Problem, params: PyTree, symmetry: AbstractSymmetry | Sequence[AbstractSymmetry]
) -> AbstractMoments | tuple[AbstractMoments, ...]:
    """Q±, M± and the Grams of the mean gradient, at about the price of one gradient.

    No per-sample gradient is built where a parameter meets its input in a matrix product; a parameter used otherwise is
    differentiated per sample, in chunks of bounded memory, with the same result to rounding.

    Args:
        problem: a finite problem of N samples; its weight decay plays no part.
        params: the parameters, any pytree.
        symmetry: whose legs are measured; a sequence of symmetries is measured in the same pass.

    Returns:
        Moments, in the widest dtype of the legs' parameters, at least float32, at the highest matrix-product precision;
        a tuple of them for a sequence.

    Raises:
        ValueError: on a population; if the loss is not a real scalar, or not finite for some sample, which is named
            (outside `jit` and `vmap`, where numbers are known); for a matrix-free generator; if a leg does not fit
            params.

    Warns:
        UserWarning: if the loss does not depend on the sample, or not on a parameter of a leg: there is no noise then.
            At every call; of a program inside `jit`, when it is traced.

    Not checked: that the loss has the symmetry; that it treats samples independently.

    Source: theory, "Closed form"; Section 5 of the paper.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: p["u"] * p["w"] * z, jnp.array([1.0, -1.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(3.0)}
        >>> moments = ne.noise_moments(problem, params, ne.rescaling(lambda p: p["u"], lambda p: p["w"]))
        >>> float(moments.noise_plus), float(moments.noise_minus)  # Var(3z), Var(2z)
        (9.0, 4.0)
    """
    problem.require_finite("noise_moments")
    bound = bind_each(symmetry, params, "noise_moments")
    moments, silence = measured_moments(problem, params, bound.each)
    require_finite_gradients(problem, params, moments)
    silence.warn()
    return bound.as_given(moments)


@jit
def measured_moments(
    problem: Problem, params: PyTree, symmetries: Groups, double: bool = False
) -> tuple[tuple[AbstractMoments, ...], Silence]:
    """`noise_moments` of symmetries that know their parameters, finite or not, and what the loss does not depend on.

    Compiled once per problem, shapes and legs. Nothing is said of what the loss ignores: that is for the function that
    a user calls, at every call.

    Args:
        problem: a finite problem.
        params: the parameters.
        symmetries: of these parameters; at least one.
        double: whether the Grams of matrix symmetries are summed, and kept, in double precision.
    """
    moments, _, silence = moments_and_mean(problem, params, symmetries, double)
    return moments, silence


@jit
def moments_and_mean(
    problem: Problem,
    params: PyTree,
    symmetries: Groups,
    double: bool = False,
    gradient: bool = False,
) -> tuple[tuple[AbstractMoments, ...], list[Array], Silence]:
    """The same, and ḡ of the loss, without decay: one array per parameter, in the dtype of the moments.

    Without `gradient` it is zero where no symmetry acts. With it the backward pass, in whose activations the moments
    are found, is that of all parameters.
    """
    of_legs = [group for group in symmetries if isinstance(group, BoundSymmetry)]
    others = [group for group in symmetries if not isinstance(group, BoundSymmetry)]
    leg_moments, mean, silence = [], [], Silence()
    with jax.default_matmul_precision("highest"):
        if of_legs:
            gradient = gradient and not others  # which have all of it
            leg_moments, mean, silence = _leg_moments(problem, params, of_legs, double, gradient)
        other_moments, full_mean = dense_moments(problem, params, others) if others else ([], mean)
    legs, dense = iter(leg_moments), iter(other_moments)
    moments = [next(legs if isinstance(group, BoundSymmetry) else dense) for group in symmetries]
    return tuple(moments), full_mean, silence


def of_gradient(symmetry: AbstractGroup, arrays: Sequence[Array]) -> Any:
    """The Grams of a vector shaped like the parameters, in the form that the noise of moments has."""
    with jax.default_matmul_precision("highest"):
        return as_kept(symmetry, symmetry.gram(arrays))


def _leg_moments(
    problem: Problem, params: PyTree, symmetries: Sequence[BoundSymmetry], double: bool, gradient: bool
) -> tuple[list[Moments], list[Array], Silence]:
    arrays, _ = split(params)
    wanted = [[LegGram(leg, symmetry.algebra.rank) for leg in symmetry.legs] for symmetry in symmetries]
    every = [one for several in wanted for one in several]
    dtype = accumulation_dtype([arrays[one.leg.index] for one in every])
    seconds, sums, silence = gradient_grams(problem, params, every, dtype, double, gradient)
    values = iter(seconds)
    moments = []
    for symmetry, several in zip(symmetries, wanted, strict=True):
        legs = [arrays[one.leg.index].astype(dtype) for one in several]
        parts = [next(values) for _ in several], legs, [sums[one.leg.index] for one in several]
        function = partial(_moments, symmetry, several, problem.num_samples)
        precise = double and symmetry.of_matrices
        moments.append(in_double(function, *parts, keep=True) if precise else function(*parts))
    return moments, [total / problem.num_samples for total in sums], silence


def _moments(
    symmetry: BoundSymmetry,
    wanted: Sequence[LegGram],
    count: int,
    seconds: Sequence[Array],
    arrays: Sequence[Array],
    sums: Sequence[Array],
) -> Moments:
    """The moments from what every leg has: the second moment, the parameter and Σ g."""

    def by_power(grams: Sequence[Array]) -> dict[float, Array]:
        totals: dict[float, Array] = {}
        for one, value in zip(wanted, grams, strict=True):
            power = one.leg.power
            totals[power] = totals[power] + value if power in totals else value
        return totals

    weight = by_power([gram_of(one, array) for one, array in zip(wanted, arrays, strict=True)])
    # The Gram is divided, not the gradient, of which that would make a copy.
    mean = by_power([gram_of(one, total) / float(count) ** 2 for one, total in zip(wanted, sums, strict=True)])
    second = mean if count == 1 else by_power(seconds)  # one sample has no noise, not even that of rounding
    powers = tuple(weight)
    return Moments(
        weight=tuple(symmetry.public(weight[power]) for power in powers),
        noise=tuple(symmetry.public(second[power] - mean[power]) for power in powers),
        mean=tuple(symmetry.public(mean[power]) for power in powers),
        powers=powers,
    )
