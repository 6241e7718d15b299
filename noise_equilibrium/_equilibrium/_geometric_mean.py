"""Matrix symmetries: X = P² is the geometric mean R⁻¹ # T, the solution of X R X = T, with every singular case.

R lowers the charge and T raises it. The d directions split into a *core* of k, where both act and P is finite; 𝓑 =
ran R ∩ ker T, where P → 0; 𝓒 = ker R ∩ ran T, where P → ∞; and *free* ones, where nothing acts (theory, "The singular
case"). With S the k proper singular values of R_fᵀT_f, R = R_f R_fᵀ, T = T_f T_fᵀ, the core has bases E, F with

    R E = F G,    T F = E G,    FᵀE = I,    G = EᵀRE = FᵀTF,

from which + legs move by E Oᵀ and − legs by F Oᵀ. A ridge is never added: it would be right only to ε^{1/4}.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
        """d − rank R − rank T + k."""
        return d - self.lowers - self.raises + self.core


class Parts(NamedTuple):
    """How the axis splits, without derivatives.

    Attributes:
        ranks: of R, of T and of the core.
        core: E and F.
        to_zero: the projector on 𝓑, where P → 0.
        to_infinity: the projector on 𝓒, where P → ∞.
        ranges: the projectors on ran R and ran T.
    """

    ranks: Ranks
    core: Core
    to_zero: Matrix
    to_infinity: Matrix
    ranges: tuple[Matrix, Matrix]


def floors(resolution: tuple[Matrix, Matrix]) -> tuple[Array, Array]:
    """The eigenvalues of R and T below which they are zero to rounding, from R and T without centring."""
    lowers, raises = (_psd.largest(jax.lax.stop_gradient(matrix)) for matrix in resolution)
    tolerance = 8 * len(resolution[0]) * jnp.finfo(resolution[0].dtype).eps
    return tolerance * lowers, tolerance * raises


def split(lowers: Matrix, raises: Matrix, floors: tuple[Array, Array]) -> Parts:
    """The parts of the axis, by the relative tolerances of theory, "The singular case".

    Args:
        lowers: R.
        raises: T.
        floors: the eigenvalues below which they are zero.
    """
    lowers, raises = jax.lax.stop_gradient((lowers, raises))
    d, eps = len(lowers), jnp.finfo(lowers.dtype).eps
    (rank_lowers, root_lowers, range_lowers), (rank_raises, root_raises, range_raises) = (
        _rooted(matrix, floor) for matrix, floor in zip((lowers, raises), floors, strict=True)
    )
    left, singular, right = jnp.linalg.svd(root_lowers.T @ root_raises)
    norms = [jnp.sqrt(jnp.max(jnp.sum(root**2, axis=0))) for root in (root_lowers, root_raises)]
    is_core = singular > 64 * d * eps * norms[0] * norms[1]
    ranks = Ranks(rank_lowers, rank_raises, jnp.sum(is_core))
    # The first k columns of these span the core; the others 𝓑 and 𝓒.
    turned_lowers, turned_raises = root_lowers @ left, root_raises @ right.T
    scale = jnp.where(is_core, jax.lax.rsqrt(jnp.where(is_core, singular, 1)), 0)

    def span(columns: Matrix, rank: Int[Array, ""]) -> Matrix:
        def projector() -> Matrix:
            left, _, _ = jnp.linalg.svd(jnp.where(is_core, 0, columns))
            inside = jnp.where(jnp.arange(d) < rank, left, 0)
            return inside @ inside.T

        return where_needed(rank > 0, projector, jnp.zeros_like(columns))

    return Parts(
        ranks=ranks,
        core=Core(e=turned_raises * scale, f=turned_lowers * scale),
        to_zero=span(turned_lowers, rank_lowers - ranks.core),
        to_infinity=span(turned_raises, rank_raises - ranks.core),
        ranges=(range_lowers, range_raises),
    )


def where_needed(needed: Array, function: Callable[[], Any], otherwise: Any) -> Any:
    """`function()` if needed, else `otherwise`: a `cond` that under `vmap` computes nothing that no one needs."""

    def once(_: tuple[Array, Any]) -> tuple[Array, Any]:
        return jnp.zeros_like(needed), function()

    return jax.lax.while_loop(lambda state: state[0], once, (needed, otherwise))[1]


def occupied(gram: Matrix) -> Matrix:
    """The projector on the directions in which a leg is not empty, from its relative Gram on a subspace."""
    values, vectors = jnp.linalg.eigh(gram)
    d, eps = len(values), jnp.finfo(values.dtype).eps
    # √ of this is the relative error of the loss made by calling a direction empty.
    basis = jnp.where(values > d * eps**1.25, vectors, 0)
    return basis @ basis.T


def balance_matrices(
    lowers: Matrix, raises: Matrix, floors: tuple[Array, Array], parts: Parts, stuck: tuple[Matrix, Matrix]
) -> Balance:
    """The motion of the legs to the point of the orbit where R and T balance.

    Args:
        lowers: R.
        raises: T.
        floors: the eigenvalues below which they are zero.
        parts: `split` of these.
        stuck: the projectors on what has no finite limit: the part of 𝓑 on which − legs hold something, and of 𝓒 on
            which + legs do.
    """
    # A direction without a finite limit is taken out of the balance; with nothing acting in it, it stays where it is.
    keep = jnp.eye(len(lowers), dtype=lowers.dtype) - stuck[0] - stuck[1]
    diverges = jnp.trace(stuck[0] + stuck[1]) > 0.5
    to_zero, to_infinity = parts.to_zero, parts.to_infinity
    lowers, raises = keep @ lowers @ keep, keep @ raises @ keep
    parts = where_needed(diverges, lambda: split(lowers, raises, floors), parts)
    plus, minus, element = motion(lowers, raises, parts)
    idle = (parts.ranks.lowers + parts.ranks.raises == 0) & ~diverges
    dies = to_zero - stuck[0], to_infinity - stuck[1]
    return Balance({1: plus, -1: minus}, element, to_zero, to_infinity, dies, diverges, idle)


@jax.custom_jvp
def motion(lowers: Matrix, raises: Matrix, parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    """E Oᵀ, F Oᵀ and log P from the bases of the core and their completion on the free directions."""
    d = len(lowers)
    eye = jnp.eye(d, dtype=lowers.dtype)
    free = parts.ranks.free(d)

    def completion() -> Core:
        free_e = eye - parts.ranges[0] - parts.to_infinity
        free_f = eye - parts.ranges[1] - parts.to_zero
        left, cosines, right = jnp.linalg.svd(free_f @ free_e)
        is_free = jnp.arange(d) < free
        stretch = jnp.where(is_free, jax.lax.rsqrt(jnp.where(is_free, cosines, 1)), 0)
        bases = Core(e=right.T * stretch, f=left * stretch)
        # Into the columns that the core leaves empty.
        return jax.tree_util.tree_map(lambda basis, new: basis + jnp.roll(new, parts.ranks.core, 1), parts.core, bases)

    e, f = where_needed(free > 0, completion, parts.core)
    finite = eye - parts.to_zero - parts.to_infinity
    left, _, right = jnp.linalg.svd(finite @ (e + f))
    is_finite = jnp.arange(d) < parts.ranks.core + free
    rotation = jnp.where(is_finite, left, 0) @ right
    plus, minus = e @ rotation.T, f @ rotation.T
    return plus, minus, _psd.log(finite @ plus + eye - finite)


@motion.defjvp
def _motion_jvp(primals, tangents):
    (lowers, raises, parts), (d_lowers, d_raises, _) = primals, tangents
    value = motion(lowers, raises, parts)
    _, tangent = jax.jvp(lambda r, t: _smooth_motion(r, t, parts), (lowers, raises), (d_lowers, d_raises))
    return value, tangent


def _smooth_motion(lowers: Matrix, raises: Matrix, parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    """`motion` through products, pseudo-inverses and square roots alone: the same function, for its derivatives.

    With X = E Eᵀ, X̃ = F Fᵀ, J = E Fᵀ (free directions included), E Oᵀ = (X + J) Π_H [Π_H (X + X̃ + J + Jᵀ) Π_H]^{-1/2}.
    """
    d, ranks = len(lowers), parts.ranks
    eye = jnp.eye(d, dtype=lowers.dtype)
    e, f = core(lowers, raises, parts)
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
def core(lowers: Matrix, raises: Matrix, parts: Parts) -> Core:
    """E = T_f V S^{-1/2}, F = R_f L S^{-1/2} from the SVD R_fᵀT_f = L S Vᵀ, cut at rank k."""
    return parts.core


@core.defjvp
def _core_jvp(primals, tangents):
    """Differentiate R E = F G, T F = E G, FᵀE = I in the gauge where Fᵀ dE is symmetric."""
    (lowers, raises, parts), (d_lowers, d_raises, _) = primals, tangents
    e, f = core(lowers, raises, parts)
    balance = e.T @ lowers @ e
    inverse = _psd.pinv(balance, parts.ranks.core)
    only_lowers, only_raises = lowers - f @ balance @ f.T, raises - e @ balance @ e.T
    outside = jnp.eye(len(lowers), dtype=lowers.dtype) - e @ f.T
    turn = _psd.lyapunov(balance, f.T @ d_raises @ f - e.T @ d_lowers @ e) / 2
    out_e = (outside @ d_raises @ f @ balance + only_raises @ d_lowers @ e) @ inverse @ inverse
    out_f = (outside.T @ d_lowers @ e @ balance + only_lowers @ d_raises @ f) @ inverse @ inverse
    return Core(e, f), Core(e @ turn + out_e, out_f - f @ turn)


def _rooted(matrix: Matrix, floor: Array) -> tuple[Int[Array, ""], Matrix, Matrix]:
    """The rank above a floor, the compact square root (with rank non-zero columns), and the projector on the range."""
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    inside = values > floor
    basis = jnp.where(inside, vectors, 0)
    return jnp.sum(inside), basis * jnp.sqrt(jnp.where(inside, values, 0)), basis @ basis.T
