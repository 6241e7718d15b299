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

from .._linalg import cholesky, eigh, svd
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
        """How many directions nothing acts in: d − rank R − rank T + k."""
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


class Resolution(NamedTuple):
    """What cannot be told from zero.

    Attributes:
        lowers: the eigenvalue of R below which it is zero.
        raises: that of T.
        tilt: how far a direction of their ranges is off, if all of the eigenvalue there is needed to see it.
    """

    lowers: Float[Array, ""]
    raises: Float[Array, ""]
    tilt: Float[Array, ""]


def resolution(uncentred: tuple[Matrix, Matrix], precision: Any) -> Resolution:
    """What of R and T is rounding error.

    Args:
        uncentred: R and T without centring, against whose size the errors of centring are small.
        precision: the dtype of the gradients that R and T are sums of.
    """
    d, own = len(uncentred[0]), float(jnp.finfo(uncentred[0].dtype).eps)
    rounding = float(jnp.finfo(precision).eps)
    sums = min(rounding, float(jnp.finfo(jnp.float32).eps))
    # A gradient is right to a rounding of its own dtype and to a few of the inner products in it, and these errors
    # leave the range that it should lie in: a direction of no gradient shows the square of them (0.75ε of single
    # precision were seen at d = 256). Sums of d terms, and eigenvalues, err by dε at the most.
    tolerance = max(8 * d * own, rounding**2 + (4 * sums) ** 2)
    lowers, raises = (_psd.largest(jax.lax.stop_gradient(matrix)) for matrix in uncentred)
    return Resolution(tolerance * lowers, tolerance * raises, jnp.full_like(lowers, tolerance**0.5))


def split(lowers: Matrix, raises: Matrix, resolution: Resolution) -> Parts:
    """The parts of the axis.

    Args:
        lowers: R.
        raises: T.
        resolution: what of them is zero.
    """
    lowers, raises = jax.lax.stop_gradient((lowers, raises))
    d = len(lowers)
    regular, core = regular_core(lowers, raises, resolution)
    eye, nothing, full = jnp.eye(d, dtype=lowers.dtype), jnp.zeros_like(lowers), jnp.asarray(d, int)
    whole = Parts(Ranks(full, full, full), core, nothing, nothing, (eye, eye))
    return where_needed(~regular, lambda: _singular_parts(lowers, raises, resolution), whole)


def regular_core(lowers: Matrix, raises: Matrix, resolution: Resolution) -> tuple[Array, Core]:
    """Whether R and T are definite for certain, and E and F if they are.

    Any square roots serve for E and F. Those of Cholesky cost a tenth of the eigenvectors, which only singular matrices
    need; and the trace of an inverse bounds the least eigenvalue.
    """
    (root_lowers, inverse_lowers), (root_raises, inverse_raises) = cholesky(lowers), cholesky(raises)
    least = [1 / jnp.sum(inverse**2) for inverse in (inverse_lowers, inverse_raises)]
    regular = (least[0] > resolution.lowers) & (least[1] > resolution.raises)
    left, singular, right = svd(jnp.where(regular, root_lowers.T @ root_raises, 0))
    scale = jax.lax.rsqrt(jnp.where(singular > 0, singular, 1))
    return regular, Core(e=root_raises @ right.T * scale, f=root_lowers @ left * scale)


def _singular_parts(lowers: Matrix, raises: Matrix, resolution: Resolution) -> Parts:
    d = len(lowers)
    (rank_lowers, root_lowers, range_lowers), (rank_raises, root_raises, range_raises) = (
        _rooted(matrix, floor) for matrix, floor in ((lowers, resolution.lowers), (raises, resolution.raises))
    )
    left, singular, right = svd(root_lowers.T @ root_raises)
    core_rank = _overlap((root_lowers, root_raises), (range_lowers, range_raises), resolution)
    # Two subspaces meet in at least as many directions as do not fit into the axis otherwise.
    least, most = jnp.maximum(rank_lowers + rank_raises - d, 0), jnp.minimum(rank_lowers, rank_raises)
    is_core = (jnp.arange(d) < jnp.clip(core_rank, least, most)) & (singular > 0)
    ranks = Ranks(rank_lowers, rank_raises, jnp.sum(is_core))
    # The first k columns of these span the core; the others 𝓑 and 𝓒.
    turned_lowers, turned_raises = root_lowers @ left, root_raises @ right.T
    scale = jnp.where(is_core, jax.lax.rsqrt(jnp.where(is_core, singular, 1)), 0)

    def rest(columns: Matrix, rank: Int[Array, ""]) -> Matrix:
        columns = jnp.where(is_core, 0, columns)
        return where_needed(rank > 0, lambda: span(columns, rank), jnp.zeros_like(columns))

    return Parts(
        ranks=ranks,
        core=Core(e=turned_raises * scale, f=turned_lowers * scale),
        to_zero=rest(turned_lowers, rank_lowers - ranks.core),
        to_infinity=rest(turned_raises, rank_raises - ranks.core),
        ranges=(range_lowers, range_raises),
    )


def _overlap(roots: tuple[Matrix, Matrix], ranges: tuple[Matrix, Matrix], resolution: Resolution) -> Int[Array, ""]:
    """In how many directions ran R and ran T are not orthogonal.

    By the cosines between them, which know nothing of sizes: a core may be as weak as it likes in R and in T. An error
    of `tilt` times the largest root turns a range by that over its smallest root.
    """
    sizes = [jnp.sqrt(jnp.sum(root**2, axis=0)) for root in roots]
    spreads = [jnp.max(size) / jnp.min(jnp.where(size > 0, size, jnp.inf)) for size in sizes]
    _, cosines, _ = svd(ranges[0] @ ranges[1])
    # A quarter of what is resolved at all may be error, so that there the cosines must be large.
    return jnp.sum(cosines > jnp.minimum(4 * resolution.tilt * (spreads[0] + spreads[1]), 0.5))


def seen_from(
    gauge: tuple[Matrix, Matrix], parts: Parts, stuck: tuple[Matrix, Matrix]
) -> tuple[Parts, tuple[Matrix, Matrix]]:
    """The parts of an axis, and what of them is stuck, in the coordinates from before a motion.

    If + legs were moved by A and − legs by B = A^{-⊤}, then R = B R' Bᵀ and T = A T' Aᵀ.

    Args:
        gauge: A and B.
        parts: of R' and T'.
        stuck: projectors on a part of 𝓑 and on one of 𝓒.
    """
    plus, minus = gauge
    ranks = parts.ranks

    def carried() -> Any:
        of_lowers = [image(minus, part) for part in (parts.to_zero, parts.ranges[0], stuck[0])]
        of_raises = [image(plus, part) for part in (parts.to_infinity, parts.ranges[1], stuck[1])]
        to_zero, *others = zip(of_lowers, of_raises, strict=True)
        return (*to_zero, *others)

    same = parts.to_zero, parts.to_infinity, parts.ranges, stuck
    to_zero, to_infinity, ranges, stuck = where_needed(ranks.core < len(plus), carried, same)
    return Parts(ranks, Core(plus @ parts.core.e, minus @ parts.core.f), to_zero, to_infinity, ranges), stuck


def image(motion: Matrix, projector: Matrix) -> Matrix:
    """The projector on the image of a subspace."""
    return span(motion @ projector, jnp.round(jnp.trace(projector)).astype(int))


def span(columns: Matrix, rank: Int[Array, ""]) -> Matrix:
    """The projector on the space of this dimension that the columns span."""
    left, _, _ = svd(columns)
    inside = jnp.where(jnp.arange(len(columns)) < rank, left, 0)
    return inside @ inside.T


def where_needed(needed: Array, function: Callable[[], Any], otherwise: Any) -> Any:
    """`function()` if needed, else `otherwise`: a `cond` that under `vmap` computes nothing that no one needs."""

    def once(_: tuple[Array, Any]) -> tuple[Array, Any]:
        return jnp.zeros_like(needed), function()

    return jax.lax.while_loop(lambda state: state[0], once, (needed, otherwise))[1]


def occupied(gram: Matrix, precision: Any) -> Matrix:
    """The projector on the directions in which a leg is not empty, from its relative Gram on a subspace.

    Args:
        gram: the Gram, relative to the trace of all of the leg.
        precision: the dtype of the gradients that the subspace was found from.
    """
    values, vectors = eigh(gram)
    # √ of this is the relative error of the loss made by calling a direction empty. A subspace is found to several
    # roundings of the gradients, and an empty leg shows the square of that in it.
    own, rounding = (float(jnp.finfo(dtype).eps) for dtype in (values.dtype, precision))
    basis = jnp.where(values > max(len(values) * own**1.25, (8 * rounding) ** 2), vectors, 0)
    return basis @ basis.T


def balance_matrices(
    lowers: Matrix, raises: Matrix, resolution: Resolution, parts: Parts, stuck: tuple[Matrix, Matrix]
) -> Balance:
    """The motion of the legs to the point of the orbit where R and T balance.

    Args:
        lowers: R.
        raises: T.
        resolution: what of them is zero.
        parts: `split` of these.
        stuck: the projectors on what has no finite limit: the part of 𝓑 on which − legs hold something, and of 𝓒 on
            which + legs do.
    """
    # A direction without a finite limit is taken out of the balance; with nothing acting in it, it stays where it is.
    keep = jnp.eye(len(lowers), dtype=lowers.dtype) - stuck[0] - stuck[1]
    diverges = jnp.trace(stuck[0] + stuck[1]) > 0.5
    to_zero, to_infinity = parts.to_zero, parts.to_infinity
    lowers, raises = keep @ lowers @ keep, keep @ raises @ keep
    parts = where_needed(diverges, lambda: split(lowers, raises, resolution), parts)
    plus, minus, element = motion(lowers, raises, parts)
    idle = (parts.ranks.lowers + parts.ranks.raises == 0) & ~diverges
    dies = to_zero - stuck[0], to_infinity - stuck[1]
    return Balance({1: plus, -1: minus}, element, to_zero, to_infinity, dies, diverges, idle)


@jax.custom_jvp
def motion(lowers: Matrix, raises: Matrix, parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    """E Oᵀ, F Oᵀ and log P from the bases of the core and their completion on the free directions."""
    e, f = parts.core
    left, values, right = svd(e)  # E = P O if nothing is missing
    whole = left * values @ left.T, f @ right.T @ left.T, left * jnp.log(values) @ left.T
    return where_needed(parts.ranks.core < len(lowers), lambda: _completed_motion(parts), whole)


def _completed_motion(parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    d, dtype = len(parts.to_zero), parts.to_zero.dtype
    eye = jnp.eye(d, dtype=dtype)
    free = parts.ranks.free(d)

    def completion() -> Core:
        free_e = eye - parts.ranges[0] - parts.to_infinity
        free_f = eye - parts.ranges[1] - parts.to_zero
        left, cosines, right = svd(free_f @ free_e)
        is_free = jnp.arange(d) < free
        stretch = jnp.where(is_free, jax.lax.rsqrt(jnp.where(is_free, cosines, 1)), 0)
        bases = Core(e=right.T * stretch, f=left * stretch)
        # Into the columns that the core leaves empty.
        return jax.tree_util.tree_map(lambda basis, new: basis + jnp.roll(new, parts.ranks.core, 1), parts.core, bases)

    e, f = where_needed(free > 0, completion, parts.core)
    finite = eye - parts.to_zero - parts.to_infinity
    left, _, right = svd(finite @ (e + f))
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

    def range_of(matrix: Matrix, rank: Int[Array, ""]) -> Matrix:
        return matrix @ _psd.pinv(matrix, rank)

    finite = eye - range_of(only_lowers, ranks.lowers - ranks.core) - range_of(only_raises, ranks.raises - ranks.core)
    free_e = eye - range_of(lowers + only_raises, d - ranks.free(d))
    free_f = eye - range_of(raises + only_lowers, d - ranks.free(d))

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
    values, vectors = eigh(matrix)
    inside = values > floor
    basis = jnp.where(inside, vectors, 0)
    return jnp.sum(inside), basis * jnp.sqrt(jnp.where(inside, values, 0)), basis @ basis.T
