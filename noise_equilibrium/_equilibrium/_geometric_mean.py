"""Matrix symmetries: X = P² is the geometric mean R⁻¹ # T, the solution of X R X = T, with every singular case.

R lowers the charge and T raises it. The d directions split into a *core* of k, where both act and P is finite; 𝓑 =
ran R ∩ ker T, where P → 0; 𝓒 = ker R ∩ ran T, where P → ∞; and *free* ones, where nothing acts (theory, "The singular
case"). With S the k proper singular values of R_fᵀT_f, R = R_f R_fᵀ, T = T_f T_fᵀ, the core has bases E, F with

    R E = F G,    T F = E G,    FᵀE = I,    G = EᵀRE = FᵀTF,

from which + legs move by E Oᵀ and − legs by F Oᵀ. A ridge is never added: it would be right only to ε^{1/4}.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from . import _psd
from ._elementwise import Balance

Matrix = Float[Array, "d d"]


class Core(NamedTuple):
    """Bases of the core, padded with zero columns to d × d."""

    e: Matrix
    f: Matrix


class Ranks(NamedTuple):
    """Dimensions of the parts, as traced integers."""

    lowers: Int[Array, ""]
    raises: Int[Array, ""]
    core: Int[Array, ""]

    def free(self, d: int) -> Int[Array, ""]:
        """D − rank R − rank T + k."""
        return d - self.lowers - self.raises + self.core


def limit_directions(lowers: Matrix, raises: Matrix, resolution: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
    """The projectors on 𝓑, where P → 0, and on 𝓒, where P → ∞; without derivatives.

    Args:
        lowers: R.
        raises: T.
        resolution: R and T without centring; what is smaller than their rounding error is zero.
    """
    lowers, raises, resolution = jax.lax.stop_gradient((lowers, raises, resolution))
    return _limits(lowers, raises, _ranks(lowers, raises, _floors(resolution)))


def balance_matrices(
    lowers: Matrix,
    raises: Matrix,
    resolution: tuple[Matrix, Matrix],
    limits: tuple[Matrix, Matrix],
    blown_up: tuple[Matrix, Matrix],
) -> Balance:
    """The motion of the legs to the point of the orbit where R and T balance.

    Args:
        lowers: R.
        raises: T.
        resolution: R and T without centring.
        limits: `limit_directions` of these.
        blown_up: the Gram, relative to the whole leg, of what the legs hold where they would be blown up: − legs on 𝓑,
            + legs on 𝓒.
    """
    floors = _floors(resolution)
    to_zero, to_infinity = limits
    stuck_directions = [_occupied(gram) for gram in blown_up]
    stuck = sum(stuck_directions)
    # A direction without a finite limit is taken out of the balance; with nothing acting in it, it stays where it is.
    keep = jnp.eye(len(lowers), dtype=lowers.dtype) - stuck
    diverges = jnp.trace(jnp.asarray(stuck)) > 0.5
    lowers, raises = keep @ lowers @ keep, keep @ raises @ keep
    ranks = _ranks(lowers, raises, floors)
    plus, minus, element = motion(lowers, raises, ranks)
    idle = (ranks.lowers + ranks.raises == 0) & ~diverges
    dies = to_zero - stuck_directions[0], to_infinity - stuck_directions[1]
    return Balance({1: plus, -1: minus}, element, to_zero, to_infinity, dies, diverges, idle)


@jax.custom_jvp
def motion(lowers: Matrix, raises: Matrix, ranks: Ranks) -> tuple[Matrix, Matrix, Matrix]:
    """E Oᵀ, F Oᵀ and log P from the bases of the core and their completion on the free directions."""
    d = len(lowers)
    eye = jnp.eye(d, dtype=lowers.dtype)
    bases = core(lowers, raises, ranks)
    to_zero, to_infinity = _limits(lowers, raises, ranks)
    free_e = eye - _range(lowers, ranks.lowers) - to_infinity
    free_f = eye - _range(raises, ranks.raises) - to_zero
    left, cosines, right = jnp.linalg.svd(free_f @ free_e)
    is_free = jnp.arange(d) < ranks.free(d)
    stretch = jnp.where(is_free, jax.lax.rsqrt(jnp.where(is_free, cosines, 1)), 0)
    e = jnp.concatenate([bases.e, right.T * stretch], axis=1)
    f = jnp.concatenate([bases.f, left * stretch], axis=1)
    finite = eye - to_zero - to_infinity
    left, _, right = jnp.linalg.svd(finite @ (e + f), full_matrices=False)
    is_finite = jnp.arange(d) < ranks.core + ranks.free(d)
    rotation = jnp.where(is_finite, left, 0) @ right
    plus, minus = e @ rotation.T, f @ rotation.T
    return plus, minus, _psd.log(finite @ plus + eye - finite)


@motion.defjvp
def _motion_jvp(primals, tangents):
    (lowers, raises, ranks), (d_lowers, d_raises, _) = primals, tangents
    value = motion(lowers, raises, ranks)
    _, tangent = jax.jvp(lambda r, t: _smooth_motion(r, t, ranks), (lowers, raises), (d_lowers, d_raises))
    return value, tangent


def _smooth_motion(lowers: Matrix, raises: Matrix, ranks: Ranks) -> tuple[Matrix, Matrix, Matrix]:
    """`motion` through products, pseudo-inverses and square roots alone: the same function, for its derivatives.

    With X = E Eᵀ, X̃ = F Fᵀ, J = E Fᵀ (free directions included), E Oᵀ = (X + J) Π_H [Π_H (X + X̃ + J + Jᵀ) Π_H]^{-1/2}.
    """
    d = len(lowers)
    eye = jnp.eye(d, dtype=lowers.dtype)
    e, f = core(lowers, raises, ranks)
    balance = e.T @ lowers @ e
    only_lowers, only_raises = lowers - f @ balance @ f.T, raises - e @ balance @ e.T

    def span(matrix: Matrix, rank: Int[Array, ""]) -> Matrix:
        return matrix @ _psd.pinv(matrix, rank)

    finite = eye - span(only_lowers, ranks.lowers - ranks.core) - span(only_raises, ranks.raises - ranks.core)
    free_e = eye - span(lowers + only_raises, d - ranks.free(d))
    free_f = eye - span(raises + only_lowers, d - ranks.free(d))

    def inverse_root(matrix: Matrix, rank: Int[Array, ""]) -> Matrix:
        return _psd.pinv(_psd.sqrt(matrix, rank), rank)

    free = ranks.free(d)
    crossed = free_e @ free_f @ free_e
    x = e @ e.T + inverse_root(crossed, free)
    x_tilde = f @ f.T + inverse_root(free_f @ free_e @ free_f, free)
    joint = e @ f.T + _psd.pinv(crossed, free) @ free_e @ free_f
    root = inverse_root(finite @ (x + x_tilde + joint + joint.T) @ finite, ranks.core + free)
    plus, minus = (x + joint) @ finite @ root, (x_tilde + joint.T) @ finite @ root
    inside = finite @ plus
    return plus, minus, _psd.log((inside + inside.T) / 2 + eye - finite)


@jax.custom_jvp
def core(lowers: Matrix, raises: Matrix, ranks: Ranks) -> Core:
    """E = T_f V S^{-1/2}, F = R_f L S^{-1/2} from the SVD R_fᵀT_f = L S Vᵀ, cut at rank k."""
    turned_lowers, turned_raises, singular = _turned_roots(lowers, raises, ranks)
    is_core = jnp.arange(len(singular)) < ranks.core
    scale = jnp.where(is_core, jax.lax.rsqrt(jnp.where(is_core, singular, 1)), 0)
    return Core(e=turned_raises * scale, f=turned_lowers * scale)


@core.defjvp
def _core_jvp(primals, tangents):
    """Differentiate R E = F G, T F = E G, FᵀE = I in the gauge where Fᵀ dE is symmetric."""
    (lowers, raises, ranks), (d_lowers, d_raises, _) = primals, tangents
    e, f = core(lowers, raises, ranks)
    balance = e.T @ lowers @ e
    inverse = _psd.pinv(balance, ranks.core)
    only_lowers, only_raises = lowers - f @ balance @ f.T, raises - e @ balance @ e.T
    outside = jnp.eye(len(lowers), dtype=lowers.dtype) - e @ f.T
    turn = _psd.lyapunov(balance, f.T @ d_raises @ f - e.T @ d_lowers @ e) / 2
    out_e = (outside @ d_raises @ f @ balance + only_raises @ d_lowers @ e) @ inverse @ inverse
    out_f = (outside.T @ d_lowers @ e @ balance + only_lowers @ d_raises @ f) @ inverse @ inverse
    return Core(e, f), Core(e @ turn + out_e, out_f - f @ turn)


def _floors(resolution: tuple[Matrix, Matrix]) -> tuple[Array, Array]:
    """The eigenvalues of R and T below which they are zero to rounding."""
    eps = jnp.finfo(resolution[0].dtype).eps
    largest = [jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix))[-1] for matrix in resolution]
    return 8 * len(resolution[0]) * eps * largest[0], 8 * len(resolution[1]) * eps * largest[1]


def _ranks(lowers: Matrix, raises: Matrix, floors: tuple[Array, Array]) -> Ranks:
    """Rank R, rank T and k, by the relative tolerances of theory, "The singular case"."""
    lowers, raises = jax.lax.stop_gradient((lowers, raises))
    d, eps = len(lowers), jnp.finfo(lowers.dtype).eps
    rank_lowers, rank_raises = (
        jnp.sum(jnp.linalg.eigvalsh(matrix) > floor) for matrix, floor in zip((lowers, raises), floors, strict=True)
    )
    root_lowers, root_raises = _root(lowers, rank_lowers), _root(raises, rank_raises)
    norms = jnp.linalg.norm(root_lowers, 2) * jnp.linalg.norm(root_raises, 2)
    singular = jnp.linalg.svd(root_lowers.T @ root_raises, compute_uv=False)
    return Ranks(rank_lowers, rank_raises, jnp.sum(singular > 64 * d * eps * norms))


def _root(matrix: Matrix, rank: Int[Array, ""]) -> Matrix:
    """The compact square root: M = root rootᵀ with rank non-zero columns."""
    values, vectors = _psd.spectrum(matrix, rank)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


def _turned_roots(lowers: Matrix, raises: Matrix, ranks: Ranks) -> tuple[Matrix, Matrix, Float[Array, " d"]]:
    """R_f L, T_f V and S of the SVD R_fᵀT_f = L S Vᵀ: the first k columns span the core, the others 𝓑 and 𝓒."""
    root_lowers, root_raises = _root(lowers, ranks.lowers), _root(raises, ranks.raises)
    left, singular, right = jnp.linalg.svd(root_lowers.T @ root_raises)
    return root_lowers @ left, root_raises @ right.T, singular


def _limits(lowers: Matrix, raises: Matrix, ranks: Ranks) -> tuple[Matrix, Matrix]:
    """The projectors on 𝓑, where P → 0, and on 𝓒, where P → ∞."""
    turned_lowers, turned_raises, singular = _turned_roots(lowers, raises, ranks)
    is_limit = jnp.arange(len(singular)) >= ranks.core

    def span(columns: Matrix, rank: Int[Array, ""]) -> Matrix:
        left, _, _ = jnp.linalg.svd(jnp.where(is_limit, columns, 0))
        inside = jnp.where(jnp.arange(len(left)) < rank, left, 0)
        return inside @ inside.T

    return span(turned_lowers, ranks.lowers - ranks.core), span(turned_raises, ranks.raises - ranks.core)


def _range(matrix: Matrix, rank: Int[Array, ""]) -> Matrix:
    """The projector on the range of a positive semidefinite matrix of this rank."""
    values, vectors = _psd.spectrum(matrix, rank)
    inside = jnp.arange(len(values)) >= len(values) - rank
    inside = jnp.where(inside, vectors, 0)
    return inside @ inside.T


def _occupied(gram: Matrix) -> Matrix:
    """The projector on the directions in which a leg is not empty, from its relative Gram on a subspace."""
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(gram))
    d, eps = len(values), jnp.finfo(values.dtype).eps
    # √ of this is the relative error of the loss made by calling a direction empty.
    occupied = values > d * eps**1.25
    basis = jnp.where(occupied, vectors, 0)
    return basis @ basis.T
