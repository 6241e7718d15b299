"""Derivatives of the data loss: slopes, products with the Hessian, and slopes of curvatures."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._parameters import flatten
from .._problem import Problem

Vector = Float[Array, " P"]
ROWS = 32  # of the Hessian at once: each holds the activations of a backward pass over all samples


class Curvature(NamedTuple):
    """The data loss L around a point, without decay.

    Attributes:
        theta: the point.
        slope: θ ↦ ∇L(θ).
        product: v ↦ ∇²L v.
        bend: (a, b) ↦ ∇(aᵀ∇²L b), the third derivative in two directions.
    """

    theta: Vector
    slope: Callable[[Vector], Vector]
    product: Callable[[Vector], Vector]
    bend: Callable[[Vector, Vector], Vector]


def curvature_of(problem: Problem, params: PyTree) -> Curvature:
    """The derivatives of L at params, by forward over reverse: none takes more memory than a few gradients."""
    theta, unflatten = flatten(params)

    def loss(theta: Vector) -> Float[Array, ""]:
        return jnp.mean(jax.vmap(problem.sample_loss, in_axes=(None, 0))(unflatten(theta), problem.data))

    slope = jax.grad(loss)

    def along(theta: Vector, direction: Vector) -> Vector:
        return jax.jvp(slope, (theta,), (direction,))[1]

    def bend(first: Vector, second: Vector) -> Vector:
        return jax.jvp(lambda theta: along(theta, first), (theta,), (second,))[1]

    return Curvature(theta, slope, lambda direction: along(theta, direction), bend)


def hessian(curvature: Curvature) -> Float[Array, "P P"]:
    """∇²L, symmetric to the last bit."""
    size, dtype = len(curvature.theta), curvature.theta.dtype
    rows = jax.lax.map(
        lambda place: curvature.product(jnp.zeros(size, dtype).at[place].set(1)),
        jnp.arange(size),
        batch_size=min(ROWS, size),
    )
    return (rows + rows.T) / 2


def bend_of(curvature: Curvature, covariance: Float[Array, "P P"]) -> Vector:
    """∇Tr[∇²L C] with a symmetric C held fixed: the sum of ∇(e_iᵀ∇²L C_i) over its columns."""
    size, dtype = len(curvature.theta), curvature.theta.dtype

    def of_column(place: Array) -> Vector:
        return curvature.bend(jnp.zeros(size, dtype).at[place].set(1), covariance[place])

    return jnp.sum(jax.lax.map(of_column, jnp.arange(size), batch_size=min(ROWS, size)), axis=0)
