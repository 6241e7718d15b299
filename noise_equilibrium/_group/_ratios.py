"""Ratios M/N of the noise of a charge to its weight, of which relaxation rates are made: theory, "Time scales"."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._linalg import eigh


def quotient(noise: Array, weight: Array) -> Array:
    """M/N entry by entry, +inf where N is 0."""
    empty = weight == 0
    return jnp.where(empty, jnp.inf, noise / jnp.where(empty, 1, weight))


def _present(values: Float[Array, " d"]) -> Array:
    """Which eigenvalues of a Gram are not zero to rounding."""
    return values > 8 * len(values) * jnp.finfo(values.dtype).eps * values[-1]


class Extremes(NamedTuple):
    """The smallest and the largest ratio M/N of the directions that are not empty, (2,), and the directions, (2, …)."""

    ratios: Array
    directions: tuple[Array, Array]
    active: Array


def extremes(noise: Float[Array, "d d"], weight: Float[Array, "d d"]) -> Extremes:
    """The extreme eigenvalues of Mf = ρNf and their f of length 1, with the null space of N dropped."""
    values, basis = eigh(jax.lax.stop_gradient(weight))
    present = _present(values)
    active = jnp.sum(present)
    whiten = basis * jnp.where(present, jax.lax.rsqrt(jnp.where(present, values, 1)), 0)
    whitened = whiten.T @ jax.lax.stop_gradient(noise) @ whiten
    # M is positive semidefinite up to rounding: at −1 on the scale of its trace the dropped directions stand first.
    scale = jnp.trace(whitened)
    whitened = whitened / jnp.where(scale > 0, scale, 1)
    dropped = -jnp.diag((~present).astype(values.dtype))
    _, vectors = eigh(jnp.where(present[:, None] & present[None, :], whitened, dropped))
    # The smallest of the others stands behind the dropped directions. Where all are dropped there is no such place.
    places = jnp.stack([jnp.minimum(len(values) - active, len(values) - 1), len(values) - 1])
    directions = (whiten @ vectors[:, places]).T
    lengths = jnp.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / jnp.where(lengths > 0, lengths, 1)
    # Rayleigh quotients at fixed eigenvectors have the right first derivatives and need none of the eigenvectors'.
    directions = jax.lax.stop_gradient(directions)
    above, below = (jnp.einsum("af,fg,ag->a", directions, gram, directions) for gram in (noise, weight))
    ratios = jnp.where(active == 0, jnp.inf, above / jnp.where(active == 0, 1, below))
    ratios = jnp.where(jnp.isfinite(values[-1]), ratios, jnp.nan)  # what is not a number is not empty
    return Extremes(ratios, (directions[0], directions[1]), active)


def extreme_entries(noise: Array, weight: Array, axes: int) -> Extremes:
    """The same for one number per entry: along the last axis if there is one."""
    noise, weight = (gram[..., None] if axes == 0 else gram for gram in (noise, weight))
    present = weight != 0
    ratios = noise / jnp.where(present, weight, 1)
    places = (
        jnp.argmin(jnp.where(present, ratios, jnp.inf), axis=-1),
        jnp.argmax(jnp.where(present, ratios, -jnp.inf), axis=-1),
    )
    active = jnp.sum(present, axis=-1)
    chosen = [jnp.take_along_axis(ratios, place[..., None], axis=-1)[..., 0] for place in places]
    extremes = jnp.where((active > 0)[..., None], jnp.stack(chosen, axis=-1), jnp.inf)
    some = (active > 0)[..., None]
    first, last = (jnp.where(some, jax.nn.one_hot(place, noise.shape[-1], dtype=noise.dtype), 0) for place in places)
    directions = (first[..., 0], last[..., 0]) if axes == 0 else (first, last)
    return Extremes(extremes, directions, active)


def all_ratios(noise: Float[Array, "d d"], weight: Float[Array, "d d"]) -> Float[Array, " d*(d+1)//2"]:
    """Ascending eigenvalues of {B, M} = ρ {B, N}, with the null space of B ↦ {B, N} dropped (its ratios +inf)."""
    d = len(weight)
    values, basis = eigh(jax.lax.stop_gradient(weight))
    full = _present(values)
    # NumPy's are constants; those of newer versions of JAX are an operation that a program in double cannot hold.
    rows, columns = np.triu_indices(d)
    # In the eigenbasis of N, B_ij + B_ji is scaled by n_i + n_j; whiten by it, on an orthonormal basis of the B.
    units = jnp.zeros((len(rows), d, d), values.dtype).at[jnp.arange(len(rows)), rows, columns].set(1)
    units = (units + units.mT) * jnp.where(rows == columns, 0.5, jnp.sqrt(0.5)).astype(values.dtype)[:, None, None]
    present = full[rows] | full[columns]
    scale = jnp.where(present, jax.lax.rsqrt(jnp.where(present, values[rows] + values[columns], 1)), 0)
    units = basis @ (units * scale[:, None, None]) @ basis.T
    anticommutators = units @ jax.lax.stop_gradient(noise)
    operator = 2 * jnp.einsum("aij,bij->ab", units, anticommutators)
    # Both sides are positive semidefinite: at −1 the dropped directions mix with no others.
    both_present = present[:, None] & present[None, :]
    ratios, vectors = eigh(jnp.where(both_present, operator, -jnp.diag((~present).astype(operator.dtype))))
    # Rayleigh quotients at fixed eigenvectors have the right derivatives and need none of the eigenvectors'.
    modes = jnp.einsum("ab,aij->bij", jax.lax.stop_gradient(vectors), units)
    squares = modes @ modes
    norm = jnp.einsum("bij,ij->b", squares, weight)
    dropped = ratios < -0.5
    rates = jnp.einsum("bij,ij->b", squares, noise) / jnp.where(dropped, 1, norm)
    rates = jnp.sort(jnp.where(dropped, jnp.inf, rates))
    return jnp.where(jnp.isfinite(values[-1]), rates, jnp.nan)  # what is not a number is not empty
