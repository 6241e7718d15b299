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
from ._abstract import Balance

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


class Side(NamedTuple):
    """R or T, with its directions in units in which none is hidden by another, and what of it is rounding error.

    Attributes:
        matrix: D⁻¹ R D⁻¹.
        units: the diagonal of D; 0 in directions where there is nothing for certain.
        floor: the eigenvalue of `matrix` below which it is zero.
        tilt: how far a range of it is off, relative to its largest root.
    """

    matrix: Matrix
    units: Float[Array, " d"]
    floor: Float[Array, ""]
    tilt: Float[Array, ""]


def side(
    matrix: Matrix,
    uncentred: Matrix,
    precision: Any,
    length: float = 0,
    weights: Matrix | None = None,
    summed: Any = None,
) -> Side:
    """R or T as a `Side`.

    Args:
        matrix: R or T.
        uncentred: the same without centring, against whose size the errors of centring are small.
        precision: the dtype of the gradients that it is a sum of.
        length: the number of terms of the inner products that the gradients come from.
        weights: the Gram of the legs whose size the gradients have, of + legs for R. Where these are graded along the
            axis, so are the gradients, and their errors with them.
        summed: the dtype that R or T was summed in, if it is not its own.
    """
    d, own = len(matrix), float(jnp.finfo(summed or matrix.dtype).eps)
    rounding = float(jnp.finfo(precision).eps)
    # Inner products are summed at least in single precision, whatever the gradients are.
    sums = min(rounding, float(jnp.finfo(jnp.float32).eps))
    # A gradient is right to a rounding of its own dtype and to those of the inner products in it, and these errors
    # leave the range that it should lie in: a direction of no gradient shows the square of them. In single precision
    # nε²/200 was seen for products of length n = 128; this leaves room. Eigenvalues of sums err by a few √dε.
    tolerance = max(16 * d**0.5 * own, rounding**2 + (4 + length / 32) * sums**2)
    squares = jnp.ones(d, matrix.dtype) if weights is None else jax.lax.stop_gradient(jnp.diagonal(weights))
    # The diagonal of a Gram is cut where its eigenvalues are, at 8dε of the largest.
    present = squares > 8 * d * own * jnp.max(squares)
    units = jnp.where(present, jnp.sqrt(jnp.where(present, squares, 1)), 0)
    inverse = jnp.where(present, 1 / jnp.where(present, units, 1), 0)
    matrix, uncentred = (inverse[:, None] * m * inverse for m in (matrix, jax.lax.stop_gradient(uncentred)))
    # An upper bound within d^{1/8} that needs no eigenvectors, which are left to singular matrices.
    size = _psd.largest(uncentred)
    # The roots of eigenvalues that are right to `tolerance` are right to its root.
    return Side(matrix, units, tolerance * size, jnp.full_like(size, tolerance**0.5))


def split(lowers: Side, raises: Side) -> Parts:
    """The parts of the axis, from R and T."""
    lowers, raises = jax.lax.stop_gradient((lowers, raises))
    d = len(lowers.matrix)
    regular, core = _regular_core(lowers, raises)
    eye, nothing, full = jnp.eye(d, dtype=core.e.dtype), jnp.zeros_like(core.e), jnp.asarray(d, int)
    whole = Parts(Ranks(full, full, full), core, nothing, nothing, (eye, eye))
    return where_needed(~regular, lambda: _singular_parts(lowers, raises), whole)


def _regular_core(lowers: Side, raises: Side) -> tuple[Array, Core]:
    """Whether R and T are definite for certain, and E and F if they are.

    Any square roots serve for E and F. Those of Cholesky cost a tenth of the eigenvectors, which only singular matrices
    need; and the trace of an inverse bounds the least eigenvalue.
    """
    roots, regular = [], jnp.asarray(True)
    for one in (lowers, raises):
        root, inverse = cholesky(one.matrix)
        # The NaN of a decomposition that failed compares as not definite.
        regular &= jnp.all(one.units > 0) & (1 / jnp.sum(inverse**2) > one.floor)
        roots.append(one.units[:, None] * root)
    left, singular, right = svd(jnp.where(regular, roots[0].T @ roots[1], 0))
    scale = jax.lax.rsqrt(jnp.where(singular > 0, singular, 1))
    return regular, Core(e=roots[1] @ right.T * scale, f=roots[0] @ left * scale)


def _singular_parts(lowers: Side, raises: Side) -> Parts:
    """The parts of any R and T, from their eigenvectors and the angles between their ranges."""
    d = len(lowers.matrix)
    (rank_lowers, root_lowers), (rank_raises, root_raises) = _rooted(lowers), _rooted(raises)
    ranges = span(root_lowers, rank_lowers), span(root_raises, rank_raises)
    left, singular, right = svd(root_lowers.T @ root_raises)
    core_rank = _overlap((root_lowers, root_raises), ranges, lowers.tilt)
    # Two subspaces meet in at least as many directions as do not fit into the axis otherwise.
    least, most = jnp.maximum(rank_lowers + rank_raises - d, 0), jnp.minimum(rank_lowers, rank_raises)
    # Singular values descend, so the core comes first; it is divided by their roots, which must not be 0.
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
        ranges=ranges,
    )


def _rooted(one: Side) -> tuple[Int[Array, ""], Matrix]:
    """The rank, and the compact square root: with rank columns that are not zero."""
    values, vectors = eigh(one.matrix)
    inside = values > one.floor
    roots = jnp.where(inside, vectors, 0) * jnp.sqrt(jnp.where(inside, values, 0))
    return jnp.sum(inside), one.units[:, None] * roots


def _overlap(roots: tuple[Matrix, Matrix], ranges: tuple[Matrix, Matrix], tilt: Float[Array, ""]) -> Int[Array, ""]:
    """In how many directions ran R and ran T are not orthogonal.

    By the cosines between them, which know nothing of sizes: a core may be as weak as it likes in R and in T. An error
    of `tilt` times the largest root turns a range by that over its smallest root.
    """
    sizes = [jnp.sqrt(jnp.sum(root**2, axis=0)) for root in roots]
    spreads = [jnp.max(size) / jnp.min(jnp.where(size > 0, size, jnp.inf)) for size in sizes]
    _, cosines, _ = svd(ranges[0] @ ranges[1])
    # A quarter of what is resolved at all may be error, so that there the cosines must be large.
    return jnp.sum(cosines > jnp.minimum(4 * tilt * (spreads[0] + spreads[1]), 0.5))


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
    # If all directions are core, no subspace has to be carried.
    to_zero, to_infinity, ranges, stuck = where_needed(ranks.core < len(plus), carried, same)
    return Parts(ranks, Core(plus @ parts.core.e, minus @ parts.core.f), to_zero, to_infinity, ranges), stuck


def image(motion: Matrix, projector: Matrix) -> Matrix:
    """The projector on the image of a subspace."""
    return span(motion @ projector, rank_of(projector))


def rank_of(projector: Matrix) -> Int[Array, ""]:
    """The dimension of a subspace."""
    # The trace of a projector is a whole number but for rounding.
    return jnp.round(jnp.trace(projector)).astype(int)


def span(columns: Matrix, rank: Int[Array, ""]) -> Matrix:
    """The projector on the space of this dimension that the columns span."""
    left, _, _ = svd(columns)
    inside = jnp.where(jnp.arange(len(columns)) < rank, left, 0)
    return inside @ inside.T


def where_needed(needed: Array, function: Callable[[], Any], otherwise: Any) -> Any:
    """`function()` if needed, else `otherwise`: a `cond` that under `vmap` computes nothing that no one needs."""
    pure, numbers = jax.closure_convert(function)

    def once(state: tuple[Array, Any]) -> tuple[Array, Any]:
        # The choice is always the first. Without it nothing here depends on the state of the loop, and the compiler
        # moves decompositions out of a loop that is seldom entered, to where they are always computed.
        chosen = [jnp.where(state[0], number, 1) for number in numbers]
        return jnp.zeros_like(needed), pure(*chosen)

    return jax.lax.while_loop(lambda state: state[0], once, (needed, otherwise))[1]


def occupied(gram: Matrix, subspace: Matrix, precision: Any) -> Matrix:
    """The projector on the directions of a subspace in which a leg is not empty.

    Args:
        gram: the Gram of the leg on the subspace, relative to the trace of that of all of the leg.
        subspace: the projector on it.
        precision: the dtype of the gradients that the subspace was found from.
    """
    values, vectors = eigh(gram)
    d = len(values)
    # √ of this is the relative error of the loss made by calling a direction empty. A subspace is found to several
    # roundings of the gradients, and an empty leg shows the square of that in it.
    own, rounding = (float(jnp.finfo(dtype).eps) for dtype in (values.dtype, precision))
    inside = (values > max(d * own**1.25, (8 * rounding) ** 2)) & (jnp.arange(d) >= d - rank_of(subspace))
    basis = jnp.where(inside, vectors, 0)
    return basis @ basis.T


def balance_matrices(lowers: Matrix, raises: Matrix, parts: Parts, stuck: tuple[Matrix, Matrix]) -> Balance:
    """The motion of the legs to the point of the orbit where R and T balance.

    Args:
        lowers: R.
        raises: T.
        parts: how they split the axis.
        stuck: the projectors on what has no finite limit: the part of 𝓑 on which − legs hold something, and of 𝓒 on
            which + legs do. It is taken out of the balance; with nothing acting in it, it stays where it is.
    """
    keep = jnp.eye(len(lowers), dtype=lowers.dtype) - stuck[0] - stuck[1]
    rest = _without(parts, stuck)
    plus, minus, element = motion(keep @ lowers @ keep, keep @ raises @ keep, rest)
    # The trace of projectors is 0 or at least 1.
    diverges = jnp.trace(stuck[0] + stuck[1]) > 0.5
    idle = (rest.ranks.lowers + rest.ranks.raises == 0) & ~diverges
    dies = rest.to_zero, rest.to_infinity
    return Balance({1: plus, -1: minus}, element, parts.to_zero, parts.to_infinity, dies, diverges, idle)


def _without(parts: Parts, stuck: tuple[Matrix, Matrix]) -> Parts:
    """The parts of R and T without a part of 𝓑 and one of 𝓒.

    The former is orthogonal to ran T: R_fᵀT_f and E do not change, and F loses what it has in it; and vice versa.
    """
    to_zero, to_infinity = stuck
    ranks = parts.ranks
    return Parts(
        ranks=ranks._replace(lowers=ranks.lowers - rank_of(to_zero), raises=ranks.raises - rank_of(to_infinity)),
        core=Core(parts.core.e - to_infinity @ parts.core.e, parts.core.f - to_zero @ parts.core.f),
        to_zero=parts.to_zero - to_zero,
        to_infinity=parts.to_infinity - to_infinity,
        ranges=(parts.ranges[0] - to_zero, parts.ranges[1] - to_infinity),
    )


# Derivatives through the decompositions would divide by the gaps of singular values, and by those that are 0.
@jax.custom_jvp
def motion(lowers: Matrix, raises: Matrix, parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    """E Oᵀ, F Oᵀ and log P from the bases of the core and their completion on the free directions."""
    e, f = parts.core
    left, values, right = svd(e)  # E = P O if nothing is missing
    whole = left * values @ left.T, f @ right.T @ left.T, left * jnp.log(values) @ left.T
    return where_needed(parts.ranks.core < len(lowers), lambda: _completed_motion(parts), whole)


def _completed_motion(parts: Parts) -> tuple[Matrix, Matrix, Matrix]:
    """The motion where some direction is not core: theory, "The singular case"."""
    eye = jnp.eye(len(parts.to_zero), dtype=parts.to_zero.dtype)
    e, f = _completed(parts)
    finite = eye - parts.to_zero - parts.to_infinity
    left, _, right = svd(finite @ (e + f))
    is_finite = jnp.arange(len(eye)) < parts.ranks.core + parts.ranks.free(len(eye))
    rotation = jnp.where(is_finite, left, 0) @ right
    plus, minus = e @ rotation.T, f @ rotation.T
    # With 1 outside of H, where log P is then 0.
    return plus, minus, _psd.log(finite @ plus + eye - finite)


def only_core(parts: Parts) -> Core:
    """The bases of the core, completed as if nothing acted in any other direction."""
    k, nothing = parts.ranks.core, jnp.zeros_like(parts.to_zero)
    ranges = span(parts.core.f, k), span(parts.core.e, k)
    return _completed(Parts(Ranks(k, k, k), parts.core, nothing, nothing, ranges))


def _completed(parts: Parts) -> Core:
    """The bases of the core with the free directions in the columns that it leaves empty."""
    eye = jnp.eye(len(parts.to_zero), dtype=parts.to_zero.dtype)
    free = parts.ranks.free(len(eye))

    def completion() -> Core:
        free_e = eye - parts.ranges[0] - parts.to_infinity
        free_f = eye - parts.ranges[1] - parts.to_zero
        left, cosines, right = svd(free_f @ free_e)
        is_free = jnp.arange(len(eye)) < free
        stretch = jnp.where(is_free, jax.lax.rsqrt(jnp.where(is_free, cosines, 1)), 0)
        # FᵀE = I holds in the new columns as in those of the core: between the two bases of the free directions there
        # are the cosines, and each gets the inverse root of them. They come first, and move to behind the k columns of
        # the core.
        bases = Core(e=right.T * stretch, f=left * stretch)
        return jax.tree_util.tree_map(lambda basis, new: basis + jnp.roll(new, parts.ranks.core, 1), parts.core, bases)

    return where_needed(free > 0, completion, parts.core)


@motion.defjvp
def _motion_jvp(primals, tangents):
    """The derivative of `_smooth_motion`, which is the same function."""
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
    # Symmetric but for rounding, and `log` solves for its derivative as if it were exactly so.
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
    # In what follows H = FᵀdE: both EᵀdR E + HG + GH and FᵀdT F − HG − GH are dG, so 2(HG + GH) is their difference.
    # Outside of the core dE G = (I − EFᵀ)dT F + T_𝓒 dF and dF G = (I − FEᵀ)dR E + R_𝓑 dE, with T_𝓒 and R_𝓑 what of T
    # and R is not core; T_𝓒 R_𝓑 = 0 ends the substitution of one into the other.
    outside = jnp.eye(len(lowers), dtype=lowers.dtype) - e @ f.T
    turn = _psd.lyapunov(balance, f.T @ d_raises @ f - e.T @ d_lowers @ e) / 2
    out_e = (outside @ d_raises @ f @ balance + only_raises @ d_lowers @ e) @ inverse @ inverse
    out_f = (outside.T @ d_lowers @ e @ balance + only_lowers @ d_raises @ f) @ inverse @ inverse
    return Core(e, f), Core(e @ turn + out_e, out_f - f @ turn)
