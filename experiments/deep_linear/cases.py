"""The networks of the study, their data, where they start, and what theory says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from noise_equilibrium.models.deep_linear import Params, init

SIZE = 5
VALUES = (2.0, 1.6, 1.3, 1.0, 0.7)  # singular values of V
COV_X, COV_NOISE = np.diag(np.linspace(0.5, 1.5, SIZE)), np.diag(np.linspace(0.2, 0.8, SIZE))


@dataclass(frozen=True)
class Case:
    """One network on one task.

    Attributes:
        name: for tables.
        widths: hidden widths.
        scales: of Σ_x and Σ_ε.
    """

    name: str
    widths: tuple[int, ...]
    scales: tuple[float, float] = (1.0, 1.0)

    @property
    def depth(self) -> int:
        """D."""
        return len(self.widths) + 1

    @property
    def covariances(self) -> tuple[np.ndarray, np.ndarray]:
        """Σ_x and Σ_ε."""
        return self.scales[0] * COV_X, self.scales[1] * COV_NOISE


CASES = (
    Case("D = 3", (5, 5)),
    Case("D = 4", (5, 5, 5)),
    Case("D = 5", (5, 5, 5, 5)),
    Case("[8, 10]", (8, 10)),
    Case("[8, 6, 10]", (8, 6, 10)),
    Case("traces 2 and 5", (5, 5), (0.4, 2.0)),
)


def teacher(key: Array) -> np.ndarray:
    """V with random singular vectors."""
    left, right = (_orthogonal(one, SIZE, SIZE) for one in jax.random.split(key))
    return np.asarray(left * jnp.asarray(VALUES) @ right.T, np.float64)


def standard_start(key: Array, widths: Sequence[int]) -> Params:
    """Independent normal weights of variance 1/fan-in."""
    return init(key, SIZE, widths, SIZE)


def aligned_start(key: Array, widths: Sequence[int], V: np.ndarray) -> Params:
    """W_i = O_i S_i O_{i−1}ᵀ with random orthonormal O_i, those of V at both ends.

    Neighbouring layers are aligned, and with the task, but not balanced: the values lie evenly in [0.4, 1.6],
    in random order.
    """
    left, _, right = np.linalg.svd(V)
    keys = jax.random.split(key, 2 * len(widths) + 1)
    bases = [jnp.asarray(right.T), *(_orthogonal(one, width, SIZE) for one, width in zip(keys, widths, strict=False))]
    bases.append(jnp.asarray(left))
    values = [jax.random.permutation(one, jnp.linspace(0.4, 1.6, SIZE)) for one in keys[len(widths) :]]
    return [
        (upper * size @ lower.T).astype(jnp.float32)
        for lower, upper, size in zip(bases[:-1], bases[1:], values, strict=True)
    ]


def _orthogonal(key: Array, rows: int, columns: int) -> Array:
    return jnp.linalg.qr(jax.random.normal(key, (rows, columns)))[0]


def grams(params: Params) -> list[Array]:
    """(W_i ⋯ W_1)ᵀ(W_i ⋯ W_1) and (W_D ⋯ W_{i+1})(W_D ⋯ W_{i+1})ᵀ for i = 1 … D − 1: no rotation changes them."""
    prefix, suffix, found = params[0], params[-1], []
    for lower, upper in zip(params[1:], params[-2::-1], strict=True):
        found += [prefix.T @ prefix, suffix @ suffix.T]
        prefix, suffix = lower @ prefix, suffix @ upper
    return found


def core_values(params: Params) -> Array:
    """The singular values of W_2, …, W_{D−1} on the image of the layers below, (D − 2, d), without what is inert."""
    prefix, values = params[0], []
    for weight in params[1:-1]:
        basis, _ = jnp.linalg.qr(prefix)
        values.append(jnp.linalg.svd(weight @ basis, compute_uv=False))
        prefix = weight @ prefix
    return jnp.stack(values)


def equilibrium(case: Case, V: np.ndarray) -> Params:
    """Theorem 5.4 in its general form."""
    return ne.exact.deep_linear_equilibrium(V, *case.covariances, case.widths)


def printed_grams(case: Case, V: np.ndarray) -> list[np.ndarray]:
    """The Grams of Theorem 5.4 as the paper prints it, right where Tr Σ_x = Tr Σ_ε = d; here for rank d.

    Σ_i = (Tr S'/d)^{1/D} I for 1 < i < D, Σ_1 = Σ_D = (d/Tr S')^{(D−2)/2D} √S'.
    """
    root_x, root_noise = (np.sqrt(cov) for cov in case.covariances)  # of diagonal matrices
    left, values, right = np.linalg.svd(root_noise @ V @ root_x)
    share = values.sum() / SIZE
    ends = share ** (-(case.depth - 2) / (2 * case.depth)) * np.sqrt(values)
    first = (ends[:, None] * right) @ np.linalg.inv(root_x)
    inner = [share ** (1 / case.depth) * np.eye(SIZE)] * (case.depth - 2)
    last = np.linalg.inv(root_noise) @ (left * ends)
    return [np.asarray(gram) for gram in grams([jnp.asarray(weight) for weight in (first, *inner, last)])]
