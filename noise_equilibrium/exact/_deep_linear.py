"""The noise equilibrium of a deep linear network: Theorem 5.4, in general."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .._validate import integer
from ..models.deep_linear import Params
from ._inputs import teacher_arrays
from ._minimum import global_minimum


def deep_linear_equilibrium(V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike, widths: Sequence[int]) -> Params:
    """The noise equilibrium of W_D ⋯ W_1 at the global minimum without weight decay: Theorem 5.4 in its general form.

    With √Σ_ε V √Σ_x = L S' Rᵀ (compact SVD), ρ = Tr Σ_ε and s = (Tr S' / √(ρ Tr Σ_x))^{1/D},

        √Σ_ε W_D = L Σ_D U_{D−1}ᵀ,    W_i = s U_i U_{i−1}ᵀ (1 < i < D),    W_1 √Σ_x = U_1 Σ_1 Rᵀ,    U_iᵀU_i = I,
        Σ_1 = s √(Tr Σ_x / Tr S') √S',    Σ_D = s √(ρ / Tr S') √S'.

    The paper prints the case Tr Σ_x = Tr Σ_ε = d = rank V; elsewhere its formula is no equilibrium. Where a layer is
    narrower than rank V, the product is the best one of that rank and ρ the risk there, which holds the unfitted part
    of x: E‖r‖² = Tr Σ_ε + Tr[ΔᵀΔΣ_x] (ours).

    Args:
        V: the teacher, (d_y, d_x), of any rank.
        cov_x: Σ_x, (d_x, d_x), positive definite.
        cov_noise: Σ_ε, (d_y, d_y), positive definite.
        widths: the hidden widths d_1, …, d_{D−1}, at least one; d_x and d_y are those of V.

    Returns:
        [W_1, …, W_D]; W_i has the shape (d_i, d_{i−1}). One representative: the U_i are the first columns of the
        identity. Others differ by rotations of the hidden layers; compare (W_i ⋯ W_1)ᵀ(W_i ⋯ W_1) and
        (W_D ⋯ W_i)(W_D ⋯ W_i)ᵀ, which do not.

    Raises:
        ValueError: for shapes that do not fit, covariances that are not positive definite, or no hidden width.

    Not checked: that x is Gaussian; with all layers at least as wide as rank V its second moments alone matter.

    Source: theory, "Deep linear network"; Theorem 5.4 and Theorem E.1.

    Examples:
        >>> import numpy as np, noise_equilibrium as ne
        >>> weights = ne.exact.deep_linear_equilibrium(8 * np.eye(1), np.eye(1), np.eye(1), [2, 3])
        >>> [round(float((weight**2).sum()) ** 0.5, 4) for weight in weights]  # 8 = 2³
        [2.0, 2.0, 2.0]
    """
    V, cov_x, cov_noise = teacher_arrays(V, cov_x, cov_noise)
    hidden = [integer(width, "a hidden width", 1) for width in widths]
    if not hidden:
        raise ValueError("widths is empty; expected the hidden widths, at least one: a single layer has no symmetry.")
    with jax.default_matmul_precision("highest"):
        there = global_minimum(V, cov_x, cov_noise, min(hidden))
        total = jnp.sum(there.values)
        scale = (total / jnp.sqrt(there.risk * there.trace_x)) ** (1 / (len(hidden) + 1))
        # At V = 0 all values are 0, and so is their root.
        root = scale * jnp.sqrt(there.values / jnp.where(total > 0, total, 1))
        first = _core((hidden[0], len(root)), root * jnp.sqrt(there.trace_x)) @ there.down
        inner = [
            _core((upper, lower), scale * there.fitted.astype(V.dtype)) for lower, upper in itertools.pairwise(hidden)
        ]
        last = there.up @ _core((len(root), hidden[-1]), root * jnp.sqrt(there.risk))
    return [first, *inner, last]


def _core(shape: tuple[int, int], values: jax.Array) -> jax.Array:
    """A matrix with these numbers at the beginning of its diagonal, and zeros."""
    place = jnp.arange(len(values))
    return jnp.zeros(shape, values.dtype).at[place, place].set(values)
