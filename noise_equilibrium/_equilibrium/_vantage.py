"""Where to measure a matrix symmetry: at a point of the orbit from which no direction is hidden behind another.

A loss sees the product of its factors, and the noise of one factor in a direction is as strong as the other factor.
What is weak by s in one of them and strong in the other shows as s² in a Gram; where both are equally strong it shows
as s in either. The equilibrium does not depend on where the moments are taken, only its precision does.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._double import in_double
from .._flow import ChargeLaw
from .._noise import AbstractMoments, bound_moments
from .._problem import Problem
from .._symmetry import BoundSymmetry
from ._balance import Motion, balance, legs_only, move, precision_of, sides_of, weights_of
from ._geometric_mean import Resolution, balance_matrices, regular_core, resolution, split, where_needed
from ._group import compose

Rebuild = Callable[[list[Array]], PyTree]


def vantage(
    problem: Problem, arrays: list[Array], rebuild: Rebuild, symmetry: BoundSymmetry, law: ChargeLaw
) -> tuple[Motion, AbstractMoments]:
    """A motion of a matrix symmetry, a constant for derivatives, and the moments behind it.

    Args:
        problem: a finite problem.
        arrays: the parameters.
        rebuild: from them to params.
        symmetry: of these parameters.
        law: the coefficients of the law of motion.
    """
    samples = problem.num_samples

    def measured(problem: Problem, arrays: list[Array], gauge: Motion) -> AbstractMoments:
        return bound_moments(problem, rebuild(move(symmetry, arrays, gauge)), (symmetry,), True)[0]

    def diverges(gauge: Motion, moments: AbstractMoments) -> Array:
        return balance(symmetry, still, moments, law, samples, gauge).diverges

    still, law = jax.lax.stop_gradient((arrays, law))
    gauge = equal_weights(symmetry, still)
    first = gauge, jax.lax.stop_gradient(measured(problem, still, gauge))
    regular, closer = _closer(symmetry, still, first[1], law, samples)

    def second_look() -> tuple[Motion, AbstractMoments]:
        nearer = compose(symmetry, gauge, closer)
        second = nearer, jax.lax.stop_gradient(measured(problem, still, nearer))
        still_diverges = diverges(*second)
        return jax.tree_util.tree_map(lambda old, new: jnp.where(still_diverges, old, new), first, second)

    # What seems to have no limit may have one that is too far to be seen. The moments tell from where it would be near.
    chosen = where_needed(~regular, lambda: where_needed(diverges(*first), second_look, first), first)
    return chosen[0], _with_derivatives(measured, chosen[1], problem, arrays, chosen[0])


def equal_weights(symmetry: BoundSymmetry, arrays: list[Array]) -> Motion:
    """The motion to where + and − legs have the same Gram; directions without such a point are left alone."""

    def of_weights(arrays: list[Array]) -> Motion:
        with jax.default_matmul_precision("highest"):
            plus, minus = jax.vmap(_same_grams)(*weights_of(symmetry, arrays))
        return {1: symmetry.public(plus), -1: symmetry.public(minus)}

    return in_double(of_weights, legs_only(symmetry, arrays), keep=True)


def _same_grams(plus: Array, minus: Array) -> tuple[Array, Array]:
    known = resolution((plus, minus), plus.dtype)
    parts = split(plus, minus, known)

    def only_the_core() -> tuple[Array, Array]:
        found = balance_matrices(plus, minus, known, parts, (parts.to_zero, parts.to_infinity))
        return found.motion[1], found.motion[-1]

    # Where all of it is core its bases serve as they are, with the rotation that they bring.
    return where_needed(parts.ranks.core < len(plus), only_the_core, tuple(parts.core))


def _closer(
    symmetry: BoundSymmetry, arrays: list[Array], moments: AbstractMoments, law: ChargeLaw, samples: int
) -> tuple[Array, Motion]:
    """Whether all is in view; and the motion to the equilibrium if what is hidden were as large as may be hidden."""
    precision = precision_of(symmetry, arrays)

    def of_block(lowers: Array, raises: Array, *whole: Array) -> tuple[Array, Array, Array]:
        known = resolution((whole[0], whole[1]), precision)
        eye = jnp.eye(len(lowers), dtype=lowers.dtype)
        regular, _ = regular_core(lowers, raises, known)
        all_seen = Resolution(*map(jnp.zeros_like, known))
        _, core = regular_core(lowers + known.lowers * eye, raises + known.raises * eye, all_seen)
        return regular, core.e, core.f

    def of_moments(moments: AbstractMoments, law: ChargeLaw) -> tuple[Array, Motion]:
        sides = sides_of(symmetry, moments, law, samples, precision)
        with jax.default_matmul_precision("highest"):
            regular, plus, minus = jax.vmap(of_block)(*sides)
        return jnp.all(regular), {1: symmetry.public(plus), -1: symmetry.public(minus)}

    return in_double(of_moments, moments, law, keep=True)


def _with_derivatives(function: Callable[..., Any], value: Any, *args: Any) -> Any:
    """A value of a function that is known already, with the derivatives of the function."""

    @eqx.filter_custom_jvp
    def known(value: Any, args: Any) -> Any:
        return value

    @known.def_jvp
    def _(primals: Any, tangents: Any) -> Any:
        value, args = primals
        return value, eqx.filter_jvp(lambda args: function(*args), (args,), (tangents[1],))[1]

    return known(value, args)
