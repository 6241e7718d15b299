"""Decompositions of matrices: the one door to LAPACK for all rooms, which on a CPU passes one matrix at a time.

On a CPU jaxlib cuts a batch of matrices into pieces for the threads of XLA's pool, and the thread that runs the
operation waits for them. Operations that do not depend on each other run at once, each on a thread of the same pool:
with two cores and two batches each waits for a thread that the other holds, for ever. A single matrix is decomposed on
the spot and waits for nobody. So a stack of matrices, and what `vmap` makes of one matrix, is taken matrix by matrix on
a CPU; other devices get the batch.

Functions take a matrix or a stack of any shape, and are differentiable as those of `jax.numpy.linalg`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Matrix = Float[Array, "... d d"]


def _one_by_one(decompose: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """A function of one matrix for stacks of them: in a loop on a CPU, at once elsewhere."""

    # Not `sequential_vmap`, which would take matrices one by one on every device. A function with a rule for `vmap` has
    # no derivative in reverse: hence the rules below, which are made of products and call no decomposition but the
    # value's.
    @jax.custom_batching.custom_vmap
    def of_stack(stack: Array) -> Any:
        *outer, rows, columns = stack.shape
        if math.prod(outer) == 1:
            results = decompose(stack.reshape(rows, columns))
            return jax.tree_util.tree_map(lambda x: x.reshape(*outer, *x.shape), results)
        # Chosen when the program is lowered: what is traced here may yet run on another device than the default one.
        results = jax.lax.platform_dependent(
            stack.reshape(-1, rows, columns), cpu=partial(jax.lax.map, decompose), default=jax.vmap(decompose)
        )
        return jax.tree_util.tree_map(lambda x: x.reshape(*outer, *x.shape[1:]), results)

    @of_stack.def_vmap
    def _(axis_size: int, in_batched: list[bool], stack: Array) -> tuple[Any, Any]:
        # The new axis stands in front, and so a batch of stacks is a stack.
        results = of_stack(stack)
        return results, jax.tree_util.tree_map(lambda _: True, results)

    return of_stack


_eigh = _one_by_one(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
_svd = _one_by_one(lambda matrix: tuple(jnp.linalg.svd(matrix, full_matrices=False)))
_inv = _one_by_one(jnp.linalg.inv)
_cholesky = _one_by_one(jnp.linalg.cholesky)
_inverse_triangle = _one_by_one(
    lambda matrix: jax.scipy.linalg.solve_triangular(matrix, jnp.eye(len(matrix), dtype=matrix.dtype), lower=True)
)


@jax.custom_jvp
def eigh(matrix: Matrix) -> tuple[Float[Array, "... d"], Matrix]:
    """Ascending eigenvalues of the symmetric part of a matrix, and its eigenvectors in columns.

    First derivatives of eigenvalues are right where they are distinct, those of eigenvectors too.
    """
    return _eigh(matrix)


@eigh.defjvp
def _eigh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """dλ_i = N_ii and dV = V K with N = Vᵀ dM V and K_ij = N_ij/(λ_j − λ_i)."""
    values, vectors = eigh(*primals)
    (change,) = tangents
    inside = _product(vectors.mT, (change + change.mT) / 2, vectors)
    eye = jnp.eye(values.shape[-1], dtype=values.dtype)
    # The 1 on the diagonal is divided by and then taken out.
    gaps = values[..., None, :] - values[..., :, None] + eye
    turn = inside / gaps * (1 - eye)  # not finite where eigenvalues are equal, rather than wrong
    return (values, vectors), (jnp.diagonal(inside, axis1=-2, axis2=-1), _product(vectors, turn))


@jax.custom_jvp
def svd(matrix: Float[Array, "... m n"]) -> tuple[Array, Array, Array]:
    """U, S, Vᵀ with matrix = U diag(S) Vᵀ, S descending, as many as the shorter side has.

    First derivatives are right where singular values are distinct and not 0.
    """
    return _svd(matrix)


@svd.defjvp
def _svd_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """With N = Uᵀ dM V: dσ_i = N_ii, and the turns of U and V from (N_ij σ_j + N_ji σ_i)/(σ_j² − σ_i²) and its like."""
    left, singular, right = svd(*primals)
    (change,) = tangents
    inside = _product(left.mT, change, right.mT)
    # σ_j² − σ_i² is taken as a product, which keeps its digits where the two are close.
    columns, rows = singular[..., None, :], singular[..., :, None]
    eye = jnp.eye(singular.shape[-1], dtype=singular.dtype)
    gaps = (1 - eye) / ((columns - rows) * (columns + rows) + eye)  # not finite where two are equal, rather than wrong
    turn_left = gaps * (inside * columns + inside.mT * rows)
    turn_right = gaps * (rows * inside + columns * inside.mT)
    d_left, d_right = _product(left, turn_left), _product(turn_right.mT, right)
    # What the shorter side does not span: the part of the change outside of the singular vectors.
    if left.shape[-2] > left.shape[-1]:
        outside = _product(change, right.mT) - _product(left, inside)
        d_left = d_left + outside / columns
    if right.shape[-1] > right.shape[-2]:
        outside = _product(left.mT, change) - _product(inside, right)
        d_right = d_right + outside / rows
    return (left, singular, right), (d_left, jnp.diagonal(inside, axis1=-2, axis2=-1), d_right)


@jax.custom_jvp
def inv(matrix: Matrix) -> Matrix:
    """The inverse."""
    return _inv(matrix)


@inv.defjvp
def _inv_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """d(M⁻¹) = −M⁻¹ dM M⁻¹."""
    inverse = inv(*primals)
    return inverse, -_product(inverse, tangents[0], inverse)


def cholesky(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """The lower triangular L with LLᵀ = matrix and L⁻¹, NaN if it is not positive definite; without derivatives."""
    root = _cholesky(jax.lax.stop_gradient(matrix))
    return root, _inverse_triangle(root)


# ‖M‖ ≤ ½ after at most so many halvings, or e^M overflows; then 14 terms are right to 2e-17.
HALVINGS, TERMS = 16, 14


def expm(matrix: Matrix) -> Matrix:
    """e^M by products alone, which are batched and differentiated as they stand: a series for M/2ˢ, squared s times.

    Source: Higham, Functions of Matrices, Section 10.3.
    """
    size = jnp.max(jnp.sum(jnp.abs(jax.lax.stop_gradient(matrix)), axis=-1), axis=-1)[..., None, None]
    # One more than makes ‖M‖ ≤ 1.
    halvings = jnp.clip(jnp.ceil(jnp.log2(jnp.where(size > 0, size, 1))) + 1, 0, HALVINGS)
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    scaled, power = matrix / 2**halvings, eye
    # Horner's scheme: a product a term.
    for term in range(TERMS, 0, -1):
        power = eye + _product(scaled, power) / term

    def square(power: Matrix, done: Array) -> tuple[Matrix, None]:
        return jnp.where(done < halvings, _product(power, power), power), None

    # A fixed number of turns, of which the last change nothing: a loop with a traced number has no derivative in
    # reverse.
    return jax.lax.scan(square, power, jnp.arange(HALVINGS, dtype=matrix.dtype))[0]


def _product(*factors: Array) -> Array:
    product = factors[0]
    for factor in factors[1:]:
        product = jnp.matmul(product, factor, precision=jax.lax.Precision.HIGHEST)
    return product


def least_norm_solution(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution of least norm of a symmetric positive semidefinite system."""
    # The decomposition is a means to solve; derivatives come from the linear equation, and need no gaps of eigenvalues.
    values, vectors = eigh(jax.lax.stop_gradient(matrix))
    # Eigenvalues err by some nε of the largest, and by more from the moments that the entries are made of.
    known = values > 64 * len(values) * jnp.finfo(values.dtype).eps * values[-1]
    inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)

    def solve(_: Callable[[Array], Array], right: Array) -> Array:
        return vectors @ (inverse * (vectors.T @ right))

    # The matrix is symmetric here, where the flow vanishes, but its change need not be.
    return jax.lax.custom_linear_solve(lambda x: matrix @ x, right, solve, transpose_solve=solve)
