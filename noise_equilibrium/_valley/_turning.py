"""The drift along an orbit of minima: its symmetric part B, which moves Grams, and its antisymmetric Ω, which turns.

Along the orbit H and Σ transform as gradients do, H(e^Aθ) = e^{−Aᵀ} H e^{−A} and Σ alike. With H = CCᵀ, and S such that
Σ = CSCᵀ, C alone moves, and Cov = CYCᵀ with GY + YG = S, G = CᵀC, which is regular: one evaluation of H and Σ serves
the whole orbit, and derivatives along it need no eigenvectors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._double import in_double
from .._flow import ChargeLaw
from .._group import AbstractGroup, Groups, lyapunov
from .._linalg import eigh, expm, least_norm_solution
from .._numbers import cast
from ._stationary import kinds_of

Matrix = Float[Array, "P P"]


class Ground(NamedTuple):
    """What is known of the loss at one point of an orbit of minima.

    Attributes:
        arrays: the parameters.
        root: C, with columns of zeros where H has no curvature.
        noise: S, 0 there.
        spread: a root of the noise of the law, in columns.
        unused: the columns of zeros.
    """

    arrays: list[Array]
    root: Matrix
    noise: Matrix
    spread: Matrix
    unused: Float[Array, " P"]


class Forces(NamedTuple):
    """The motion along the orbit, for every symmetry.

    Attributes:
        flows: ½{B, N}, in coordinates: where nothing turns half of the flow of the charge; B N for numbers.
        sizes: ‖R + T‖, of what lowers and what raises the charge.
        turnings: Ω, of the element's shape; 0 for numbers.
    """

    flows: list[Array]
    sizes: list[Array]
    turnings: list[Array]


def ground(arrays: list[Array], matrix: Matrix, sigma: Matrix, floor: Float[Array, " 2"]) -> Ground:
    """What is known at a point, from H and the Σ that the law sees there."""
    values, vectors = eigh(matrix)
    kinds = kinds_of(values, floor)
    lengths = jnp.sqrt(kinds.values)
    inverse = vectors * jnp.where(kinds.across, 1 / jnp.where(kinds.across, lengths, 1), 0)
    noise = inverse.T @ sigma @ inverse
    sizes, turns = eigh(sigma)
    return Ground(
        arrays=arrays,
        root=vectors * lengths,
        noise=noise,
        spread=turns * jnp.sqrt(jnp.maximum(sizes, 0)),
        unused=jnp.where(kinds.across, 0, 1).astype(matrix.dtype),
    )


class Step(NamedTuple):
    """The factors of a motion of one symmetry by an element of its algebra, and those of the way back."""

    motion: Any
    back: Any


def step_by(group: AbstractGroup, element: Array) -> Step:
    """e^{element}."""
    if not group.of_matrices:
        return Step(group.exponential(element), group.exponential(-element))

    def both(element: Array) -> tuple[Array, Array]:
        return expm(element), expm(-element)

    plus, minus = in_double(both, element, keep=True)
    return Step({1: plus, -1: minus}, {1: minus, -1: plus})


def small_step(group: AbstractGroup, element: Array) -> Step:
    """e^{element} to first order."""
    motion = group.near_identity(element)
    return Step(motion, {1: motion[-1], -1: motion[1]} if group.of_matrices else group.near_identity(-element))


def along(ground: Ground, symmetries: Groups, steps: Sequence[Step]) -> Ground:
    """The same at another point of the orbit. Gradients, and so the columns of C and of a root of Σ, go back."""
    arrays, root, spread = ground.arrays, ground.root, ground.spread
    for group, step in zip(symmetries, steps, strict=True):
        arrays = group.multiply(arrays, step.motion)
        root, spread = (_columns(arrays, one, lambda parts: group.multiply(parts, step.back)) for one in (root, spread))  # noqa: B023
    return ground._replace(arrays=arrays, root=root, spread=spread)


def forces_on(ground: Ground, symmetries: Groups, law: ChargeLaw) -> Forces:
    """`forces` at a point of an orbit."""
    root, spread = ground.root, ground.spread
    gram = root.T @ root
    inside = lyapunov(gram + jnp.diag(ground.unused), ground.noise, cut=0.0)
    return forces(ground.arrays, symmetries, law, (spread, spread), (root @ (inside @ gram), root))


def forces(
    arrays: list[Array], symmetries: Groups, law: ChargeLaw, noise: tuple[Matrix, Matrix], spin: tuple[Matrix, Matrix]
) -> Forces:
    """The motion along the orbit at a point: least squares for the drift ⟨A_Zθ, v⟩ against all directions Z.

    For one matrix symmetry these are Q₊Z + ZQ₋ = D with Z = B + Ω, the two coupled equations for B and Ω.

    Args:
        arrays: the parameters.
        symmetries: of the orbit.
        law: the coefficients of the law.
        noise: X, Y with XYᵀ = Σ.
        spin: X, Y with XYᵀ = Cov H.
    """
    scale, decay = cast(law.scale, noise[0]), cast(law.decay, noise[0])
    fields, pushes, sizes, weights = [], [], [], []
    for group in symmetries:
        weight, shaken = group.gram(arrays), _sum_of_products(group, arrays, *noise)
        push = scale * group.weighted(shaken) - 2 * decay * group.weighted(weight)
        sizes.append(_size(group, jax.tree_util.tree_map(lambda q, m: scale * m + 2 * decay * q, weight, shaken)))
        weights.append(group.weighted(weight, 2))
        if group.of_matrices:
            crossed = _sum_of_products(group, arrays, *spin)
            whole = crossed.get(1, 0) - jnp.swapaxes(crossed[-1], -1, -2) if -1 in crossed else crossed[1]
            push = push + scale * (whole - jnp.swapaxes(whole, -1, -2))
        pushes.append(push.ravel())
        fields.append(_fields(group, arrays))
    field = jnp.concatenate(fields)
    motion = least_norm_solution(field @ field.T, jnp.concatenate(pushes))
    flows, turnings, start = [], [], 0
    for group, weight in zip(symmetries, weights, strict=True):
        part = motion[start : start + group.size].reshape(group.shape)
        start += group.size
        if group.of_matrices:
            back = jnp.swapaxes(part, -1, -2)
            still, turning = (part + back) / 2, (part - back) / 2
            flows.append(group.coordinates((still @ weight + weight @ still) / 2))
            turnings.append(turning)
        else:
            flows.append(group.coordinates(part * weight))
            turnings.append(jnp.zeros_like(part))
    return Forces(flows, sizes, turnings)


def _size(group: AbstractGroup, values: Any) -> Array:
    """The norm of what raises and lowers the charge together: legs count with the size of their power."""
    if isinstance(group.powers, tuple):
        return _norm(sum(abs(power) * value for power, value in values.items()))  # pyright: ignore[reportArgumentType]
    return _norm(jnp.tensordot(jnp.abs(cast(group.powers, values)), values, axes=1))


def _norm(array: Array) -> Array:
    square = jnp.sum(array**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _fields(group: AbstractGroup, arrays: list[Array]) -> Float[Array, "n P"]:
    """A_Zθ for every entry of Z: θZ on + legs and −θZᵀ on − legs; for numbers the generators."""
    units = jnp.eye(group.size, dtype=arrays[0].dtype).reshape(group.size, *group.shape)

    def field(unit: Array) -> Array:
        if group.of_matrices:
            # Beside a leg that is a part of a parameter nothing moves: its entries count as zero.
            moved = group.multiply(group.only(arrays), {1: unit, -1: -jnp.swapaxes(unit, -1, -2)})
            parts = [jnp.zeros_like(array) if part is None else part for part, array in zip(moved, arrays, strict=True)]
        else:
            parts = group.tangent(arrays, unit)
        return jnp.concatenate([part.ravel() for part in parts])

    return jax.vmap(field)(units)


def _sum_of_products(group: AbstractGroup, arrays: list[Array], left: Matrix, right: Matrix) -> Any:
    """Σ_i leftᵀright over the columns of two matrices, for every power."""
    products = jax.vmap(lambda a, b: group.product(_parts(arrays, a), _parts(arrays, b)), (1, 1))(left, right)
    return jax.tree_util.tree_map(lambda product: jnp.sum(product, axis=0), products)


def _columns(arrays: list[Array], matrix: Matrix, function: Any) -> Matrix:
    """A function of arrays like the parameters on every column of a matrix."""

    def of_column(column: Array) -> Array:
        return jnp.concatenate([part.ravel() for part in function(_parts(arrays, column))])

    return jax.vmap(of_column, 1, 1)(matrix)


def _parts(arrays: list[Array], vector: Array) -> list[Array]:
    """A vector in the order of `flatten` as arrays like the parameters."""
    ends, parts = 0, []
    for array in arrays:
        parts.append(vector[ends : ends + array.size].reshape(array.shape))
        ends += array.size
    return parts
