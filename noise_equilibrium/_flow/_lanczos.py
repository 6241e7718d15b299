"""The smallest non-zero eigenvalue of an operator that is known by its products alone.

Lanczos' method with full orthogonalisation and thick restarts (Wu and Simon 2000). Started in the range of the operator
a Krylov space stays there: of a null space, however large, it sees nothing, and its smallest Ritz value falls to the
smallest eigenvalue that is not zero. What rounding brings in of the null space grows, after many products, to a Ritz
value near 0, which a threshold tells apart; its vector is kept, so that the others stay orthogonal to it.

Libraries do not serve here. The tridiagonalisation of `matfree` takes a fixed number of products, keeps every vector,
cannot tell a Ritz value on its way to 0 from a converged one, and returns noise where the range is exhausted. JAX's
`lobpcg_standard` minimises a Rayleigh quotient, and so falls into the null space.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._linalg import eigh

Vector = Float[Array, " n"]

# How many vectors are held. More save products, but cost memory, orthogonalisation, and BASIS³ at every restart. Where
# vectors are so long that they do not fit into BASIS_BYTES, fewer; but not fewer than restarts need to make headway.
BASIS, LEAST_BASIS, BASIS_BYTES = 96, 16, 2**30
# As many products as the whole Hessian of 4096 parameters takes.
MOST_PRODUCTS = 4096
# The residual, relative to the Ritz value, at which it is good enough: the value is right to that, and mostly to its
# square. Rounding allows no less in single precision, where values are as small as 1e-3 of the largest.
ACCURACY = 3e-3


class Ritz(NamedTuple):
    """An approximate eigenpair.

    Attributes:
        value: its Rayleigh quotient; +inf if the operator is 0.
        residual: ‖Av − value·v‖ for its vector v of length 1: some eigenvalue lies within it of the value.
        products: how many products were taken.
    """

    value: Float[Array, ""]
    residual: Float[Array, ""]
    products: Int[Array, ""]


class _Search(NamedTuple):
    """Where the search stands at a restart.

    Attributes:
        basis: rows = m + 1 orthonormal vectors, or zeros from where the range is exhausted.
        projected: the operator in the first m of them, known for those that were kept.
        kept: how many were kept.
        vector: the Ritz vector of the smallest Ritz value that is not zero.
        largest: the largest Ritz value so far.
        products: how many products were taken.
        done: whether to stop.
    """

    basis: Float[Array, "rows n"]
    projected: Float[Array, "m m"]
    kept: Int[Array, ""]
    vector: Vector
    largest: Float[Array, ""]
    products: Int[Array, ""]
    done: Bool[Array, ""]


def smallest_nonzero(operator: Callable[[Vector], Vector], seed: Vector, threshold: float) -> Ritz:
    """The smallest eigenvalue of a symmetric operator above a threshold.

    Args:
        operator: v ↦ Av, symmetric; it may close over numbers that are being differentiated.
        seed: any vector; the search starts from its image.
        threshold: eigenvalues below this share of the largest are zero.

    Returns:
        A Ritz pair. The value has the right first derivatives where the eigenvalue is simple and the vector exact; the
        residual has none.
    """
    # The search is a constant for derivatives, whatever the operator closes over; the value below has them.
    pure, numbers = jax.closure_convert(operator, seed)
    numbers, seed = jax.lax.stop_gradient((numbers, seed))
    vector, products = _search(lambda v: pure(v, *numbers), seed, threshold)
    # With the vector held fixed, for dλ = vᵀ(dA)v at an eigenvector of length 1 (Hellmann and Feynman).
    vector = jax.lax.stop_gradient(vector)
    image = operator(vector)
    value = jnp.vdot(vector, image)
    residual = jnp.linalg.norm(jax.lax.stop_gradient(image - value * vector))
    return Ritz(jnp.where(jnp.any(vector != 0), value, jnp.inf), residual, products + 1)


def basis_size(length: int, itemsize: int) -> int:
    """How many vectors of a length are held at once."""
    return min(BASIS, max(LEAST_BASIS, BASIS_BYTES // (length * itemsize)), length)


def _search(operator: Callable[[Vector], Vector], seed: Vector, threshold: float) -> tuple[Vector, Int[Array, ""]]:
    """The Ritz vector, 0 if the operator is 0, and the number of products."""
    size, dtype = len(seed), seed.dtype
    most = basis_size(size, dtype.itemsize)
    count = most // 2  # of the vectors that a restart keeps

    def cycle(state: _Search) -> _Search:
        basis, projected, beyond = _extended(operator, state)
        values, turns = eigh(projected)
        largest = jnp.maximum(state.largest, values[-1])
        nonzero = values > threshold * largest
        place = jnp.argmax(nonzero)
        residual = beyond * jnp.abs(turns[-1, place])
        products = state.products + most - state.kept
        # Kept are the wanted pair, those above it, from which it must be told apart, and some below, which are zero.
        first = jnp.clip(place - count // 4, 0, most - count)
        turned = jax.lax.dynamic_slice(turns, (0, first), (most, count))
        among = jnp.arange(count)
        return _Search(
            basis=jnp.zeros_like(basis).at[:count].set(turned.T @ basis[:most]).at[count].set(basis[most]),
            # Of the kept vectors only their Ritz values are put in: how they couple to the next vector comes out again
            # when its image is made orthogonal to all of them.
            projected=jnp.zeros_like(projected).at[among, among].set(jax.lax.dynamic_slice(values, (first,), (count,))),
            kept=jnp.asarray(count),
            vector=jnp.where(jnp.any(nonzero), turns[:, place], 0) @ basis[:most],
            largest=largest,
            products=products,
            # Where nothing is left beyond the basis, its Ritz values are eigenvalues.
            done=(residual <= ACCURACY * values[place]) | (beyond == 0) | (products >= MOST_PRODUCTS) | (most == size),
        )

    image = operator(seed)
    length = jnp.linalg.norm(image)
    start = image / jnp.where(length > 0, length, 1)
    state = _Search(
        basis=jnp.zeros((most + 1, size), dtype).at[0].set(start),
        projected=jnp.zeros((most, most), dtype),
        kept=jnp.asarray(0),
        vector=start,
        largest=jnp.zeros((), dtype),
        products=jnp.asarray(1),
        done=jnp.asarray(False),
    )
    end = jax.lax.while_loop(lambda state: ~state.done, cycle, state)
    return end.vector, end.products


def _extended(
    operator: Callable[[Vector], Vector], state: _Search
) -> tuple[Float[Array, "rows n"], Float[Array, "m m"], Float[Array, ""]]:
    """The basis filled up, the operator in it, and the length of what leads out of it at the last vector."""
    most = len(state.projected)
    eps = jnp.finfo(state.basis.dtype).eps

    def step(place: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        basis, projected, _ = carry
        image = operator(basis[place])
        inside = basis @ image
        image = image - inside @ basis
        again = basis @ image  # once more: the first time leaves rounding of the size of the image
        image = image - again @ basis
        projected = projected.at[:, place].set((inside + again)[:most])
        beyond = jnp.linalg.norm(image)
        # What is left of an image in the span of the basis is rounding, of the size of the operator; divided by its
        # length it would pass for a direction.
        exhausted = beyond <= 2 * eps * jnp.max(jnp.abs(projected))
        beyond = jnp.where(exhausted, 0, beyond)
        following = jnp.where(exhausted, 0, image / jnp.where(exhausted, 1, beyond))
        return basis.at[place + 1].set(following), projected, beyond

    carry = (state.basis, state.projected, jnp.zeros((), state.basis.dtype))
    basis, projected, beyond = jax.lax.fori_loop(state.kept, most, step, carry)
    upper = jnp.triu(projected)  # a column is known as far as the vectors were when it was made
    return basis, upper + jnp.triu(projected, 1).T, beyond


def krylov(
    operator: Callable[[Vector], Vector], start: Vector, most: int
) -> tuple[Float[Array, "rows n"], Float[Array, "m m"], Float[Array, ""]]:
    """An orthonormal basis of the Krylov space of a vector and one more row, the operator in it, and the last length.

    Args:
        operator: v ↦ Av, symmetric.
        start: the first vector, of any length.
        most: m, the dimension; where the space is smaller the other rows are 0.
    """
    length = jnp.linalg.norm(start)
    first = start / jnp.where(length > 0, length, 1)
    nothing = jnp.zeros((), start.dtype)
    state = _Search(
        basis=jnp.zeros((most + 1, len(start)), start.dtype).at[0].set(first),
        projected=jnp.zeros((most, most), start.dtype),
        kept=jnp.asarray(0),
        vector=first,
        largest=nothing,
        products=jnp.asarray(0),
        done=jnp.asarray(False),
    )
    return _extended(operator, state)
