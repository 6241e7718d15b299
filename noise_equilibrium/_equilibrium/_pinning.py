"""Who wins along the orbit of a symmetry that is not exact: the noise, which balances, or the loss, which pins."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._budget import at_once
from .._flow import AbstractLaw, ChargeLaw, as_law
from .._group import AbstractGroup
from .._noise import AbstractMoments, Measurement, measured, or_measurement
from .._numbers import cast, jit
from .._parameters import split, widest_dtype
from .._problem import Problem
from .._symmetry import AbstractSymmetry

CHUNK = 16  # the most directions at once


class Pinning(eqx.Module):
    """How strongly noise and loss act along each direction of an orbit, of the charge's shape.

    A matrix charge has the directions B = E_kl + E_lk at [k, l], and E_kk on the diagonal.

    Attributes:
        number: Π_B = noise/loss. Far above 1 the noise balances the charge, far below 1 the loss holds it. +∞ where the
            loss does not resist; below 0 where it is concave along the orbit, as at a saddle; 0 without noise.
        noise: κ_noise, the rate at which noise takes the charge to its equilibrium, per unit of time η × steps.
        loss: κ_loss, the rate at which the loss takes it to its own; 0 to rounding under an exact symmetry.
    """

    number: Array
    noise: Array
    loss: Array


@or_measurement
def pinning(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, law: Any) -> Pinning:
    """Π_B = 2σ²Tr[A_B²Σ]/(d²L/dλ² along e^{λA_B}θ), for every direction B of a symmetry that may be broken.

    At a minimum d²L/dλ² = ⟨A_Bθ, H A_Bθ⟩, H = ∇²L of the data loss. Elsewhere it has ⟨∇L, A_B²θ⟩ besides, so that under
    an exact symmetry it vanishes everywhere. Divided by ‖A_Bθ‖² both are rates, `noise` and `loss`.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: a minimum of the risk, as a rule at or near the noise equilibrium; any pytree.
        symmetry: the candidate.
        law: σ² = η/(2S) > 0 or dynamics, whose scale and share of the noise take the place of σ² and Σ; of
            `Preconditioned` d±Σ± too.

    Returns:
        `Pinning`.

    Raises:
        ValueError: on a Stream; for a bad law; if a leg does not fit params; for a matrix-free generator.

    Cost: one evaluation of the moments, and one Hessian–vector product of all data for each direction, 16 at once:
    d of a diagonal symmetry, d(d+1)/2 of a symmetric one.

    Assumed: a curvature below ε^{3/4} of that of a random direction of the same size is one of rounding.

    Not checked: that params is a minimum. Directions are asked one by one, all others at rest: where A_Bθ and other
    soft directions share a curvature, the loss resists less than Π_B says.

    Source: theory, "Pinning".

    Examples:
        A rescaling that a penalty (w − 1)²/2 breaks, at the minimum u = 2, w = 1 of (uw − z)²/2:

        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(
        ...     lambda p, z: (p["u"] * p["w"] - z) ** 2 / 2 + 0.5 * (p["w"] - 1) ** 2, jnp.array([1.0, 3.0])
        ... )
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(1.0)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> round(float(ne.pinning(problem, params, symmetry, 0.01).number), 6)  # 2σ² (w² + u²) Var z / w²
        0.1
    """
    law = as_law(law)
    measurement = measured(problem, params, symmetry, "pinning")
    measurement.require_problem("pinning")
    law.charge_law(measurement.source)  # raises for bad numbers, which cannot be seen once they are traced
    return _pinning(measurement, law)


@jit
def _pinning(measurement: Measurement, law: AbstractLaw) -> Pinning:
    group, problem = measurement.symmetry, measurement.require_problem("pinning")
    arrays, rebuild = split(measurement.params)

    def strengths(moments: AbstractMoments, law: ChargeLaw) -> tuple[Array, Array]:
        """2σ²Tr[A²Σ] and ‖Aθ‖² of every element of the basis."""
        sides = dataclasses.replace(law, mean=0.0).gradients(moments, 2), law.weights(moments, 2)
        on_basis = [group.on_basis((plus + minus).reshape(group.shape), squared=True) for plus, minus in sides]
        return 2 * cast(law.scale, on_basis[0]) * on_basis[0], on_basis[1]

    noise, square = group.in_own_precision(strengths, *law.acting(measurement))
    curvature, resolution = _curvatures(group, problem, arrays, rebuild)
    curvature, resolution = curvature.astype(noise.dtype), resolution.astype(noise.dtype)
    loss = jnp.where(jnp.abs(curvature) > resolution, curvature, 0)
    number = jnp.where(loss == 0, jnp.inf, noise / jnp.where(loss == 0, 1, loss))
    moved = jnp.where(square > 0, square, 1)
    values = jnp.where(noise > 0, number, jnp.where(jnp.isnan(noise), noise, 0)), noise / moved, loss / moved
    return Pinning(*(_in_shape(group, value) for value in values))


def _curvatures(group: AbstractGroup, problem: Problem, arrays: list[Array], rebuild: Any) -> tuple[Array, Array]:
    """d²L/dλ² along every element of the basis, and what is rounding in it."""
    dtype = widest_dtype(arrays)

    def loss(arrays: list[Array]) -> Array:
        return jnp.mean(jax.vmap(problem.sample_loss, (None, 0))(rebuild(arrays), problem.data))

    def product(vectors: list[Array]) -> tuple[list[Array], list[Array]]:
        return jax.jvp(jax.grad(loss), (arrays,), (vectors,))

    leaves = group.leaves(len(arrays))
    signs = [
        jax.random.rademacher(jax.random.fold_in(jax.random.key(0), place), array.shape, array.dtype)
        if place in leaves
        else jnp.zeros_like(array)
        for place, array in enumerate(arrays)
    ]
    with jax.default_matmul_precision("highest"):
        stiffness = jnp.sqrt(_dot(*[product(signs)[1]] * 2) / _dot(signs, signs))

        def along(place: Array) -> tuple[Array, Array]:
            element = group.element_of(_sizes(group, dtype) * (jnp.arange(group.dimension) == place).astype(dtype))
            velocity = group.tangent(arrays, element)
            slope, bent = product(velocity)
            turning = _dot(slope, group.tangent(velocity, element))
            scale = stiffness * _dot(velocity, velocity) + jnp.abs(turning)
            return _dot(velocity, bent) + turning, scale * float(jnp.finfo(dtype).eps) ** 0.75

        each = 8 * sum(array.size for array in arrays) * dtype.itemsize
        chunk = at_once(each, min(CHUNK, group.dimension))
        return jax.lax.map(along, jnp.arange(group.dimension), batch_size=chunk)


def _dot(left: list[Array], right: list[Array]) -> Array:
    parts = [jnp.vdot(a, b) for a, b in zip(left, right, strict=True)]
    widest = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    return sum((part.astype(widest) for part in parts), jnp.zeros((), widest))


def _sizes(group: AbstractGroup, dtype: Any) -> Array:
    """How long the elements of the basis of `on_basis` are, against those of `coordinates`."""
    ones = jnp.ones(group.shape, dtype)
    return group.on_basis(ones) / group.coordinates(ones)


def _in_shape(group: AbstractGroup, values: Array) -> Array:
    return group.public(group.element_of(values * _sizes(group, values.dtype)))
