"""What a family allows beyond separate scalings, and whether the loss is unchanged under its finite transformations."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import PyTree

from .._problem import Problem
from ._derivatives import Arrays, blame, gradient, losses, on_host, perturbed
from ._family import Family

PROBES = 10  # entries of which the couplings to all others are looked at
# Fresh parameters and samples. A ReLU unit that is inactive at all of them couples to nothing and would seem free; in a
# small network it is inactive half of the time. In large ones many positions share a unit, and gradients take room.
POINTS, FEW_POINTS = 16, 4
LARGE = 10**6
DRAWS = 3  # finite transformations, each at other parameters, for the same reason
# Couplings that vanish, relative to the slopes that vanish: rounding errors of both are alike.
COUPLED = 100.0
REACH = 0.3  # size of a random element
ROUNDINGS = 64.0  # of the losses, in units of their last place
# Powers of two leave no rounding errors behind, and what is compared with squares of activations, such as the ε of a
# normalisation, counts 4⁶ times as much once these are scaled by 2⁻⁶: it shows though it is below rounding.
DOUBLINGS, MOST_DOUBLINGS = 6, 12

Move = tuple[Family, np.ndarray]  # a family and an element of its group


def fresh_gradients(
    problem: Problem, params: PyTree, samples: PyTree, frozen: frozenset[int], random: np.random.Generator
) -> list[tuple[Arrays, Arrays]]:
    """Perturbed parameters and the gradients of held-out samples at them."""
    host, rebuild = on_host(params)
    count = jax.tree_util.tree_leaves(samples)[0].shape[0]
    found = []
    for _ in range(POINTS if sum(array.size for array in host) <= LARGE else FEW_POINTS):
        point, chosen = perturbed(host, random, frozen), int(random.integers(count))
        sample = jax.tree_util.tree_map(lambda leaf: leaf[chosen], samples)  # noqa: B023
        slopes = gradient(problem, rebuild(point), sample)
        if not all(np.all(np.isfinite(np.asarray(slope, np.float64))) for slope in slopes):
            blame(problem, params, jax.tree_util.tree_map(lambda leaf: leaf[None], sample), host, point)
        found.append(([_wide(array) for array in point], [_wide(np.asarray(slope)) for slope in slopes]))
    return found


def couplings(family: Family, points: Sequence[tuple[Arrays, Arrays]], probes: np.ndarray) -> np.ndarray:
    """|Σ_p w_p (T_p + T_pᵀ)_ij| for probes i and all j, relative to its terms.

    T_p = θ_p g_pᵀ, contracted over everything but the d entries of part p.
    """
    total = gross = np.zeros((len(probes), family.length))
    for arrays, slopes in points:
        sums, squares = 0.0, 0.0
        for part, weight in family.parts:
            theta, slope = part.gather(arrays[part.leaf]), part.gather(slopes[part.leaf])
            sums = sums + weight * (theta[probes] @ slope.T + slope[probes] @ theta.T)
            squares = squares + weight**2 * ((theta**2)[probes] @ (slope**2).T + (slope**2)[probes] @ (theta**2).T)
        total = total + np.square(sums, dtype=np.float64)
        gross = gross + np.asarray(squares, np.float64)
    return np.sqrt(total / np.where(gross > 0, gross, 1))


def with_algebra(
    family: Family, points: Sequence[tuple[Arrays, Arrays]], random: np.random.Generator
) -> tuple[Family, float]:
    """The family with the largest blocks on which any symmetric matrix may act, and its violation on fresh points."""
    probes = np.sort(random.choice(family.length, min(PROBES, family.length), replace=False))
    ratios = couplings(family, points, probes)
    own = float(np.sqrt(np.mean(ratios[np.arange(len(probes)), probes] ** 2)))
    if family.length == 1 or len({abs(weight) for _, weight in family.parts}) > 1:
        return family, own
    threshold = COUPLED * max(own, float(np.finfo(points[0][0][0].dtype).eps))
    alike = [np.flatnonzero(row <= threshold) for row in ratios]
    size, inner = _blocks(alike, probes, family.length)
    return replace(family, size=size, inner=inner), own


def _blocks(alike: Sequence[np.ndarray], probes: np.ndarray, length: int) -> tuple[int, int]:
    """k and B, if the entries alike to each probe are those of one block of a reading (A, k, B); else 1 and 1."""
    size = len(alike[0])
    if size < 2 or length % size:
        return 1, 1
    inner = int(alike[0][1] - alike[0][0])
    if length % (size * inner):
        return 1, 1
    for probe, entries in zip(probes, alike, strict=True):
        first = probe // (size * inner) * (size * inner) + probe % inner
        if not np.array_equal(entries, first + inner * np.arange(size)):
            return 1, 1
    return size, inner


def transformed(family: Family, arrays: Arrays, element: np.ndarray, legs: Sequence[int] | None = None) -> Arrays:
    """Parameters after e^{element}, element of shape (A, k, k, B), or (d,) if the family is diagonal."""
    moved = list(arrays)
    for place, (part, weight) in enumerate(family.parts):
        if legs is not None and place not in legs:
            continue
        rows = part.gather(moved[part.leaf])
        if family.size == 1:
            new = np.exp(weight * element)[:, None].astype(rows.dtype) * rows
        else:
            sign = float(np.sign(weight))
            values, vectors = np.linalg.eigh(np.moveaxis(element, -1, 1))  # (A, B, k, k)
            factor = np.einsum("abij,abj,abkj->abik", vectors, np.exp(sign * values), vectors).astype(rows.dtype)
            split_rows = rows.reshape(-1, family.size, family.inner, rows.shape[1])
            new = np.einsum("abik,akbm->aibm", factor, split_rows, optimize=True).reshape(rows.shape)
        moved[part.leaf] = part.scatter(moved[part.leaf], new)
    return moved


def random_element(family: Family, random: np.random.Generator) -> np.ndarray:
    if family.size == 1:
        return REACH * random.standard_normal(family.length)
    half = random.standard_normal(_element_shape(family)) * REACH / np.sqrt(family.size)
    return (half + np.swapaxes(half, 1, 2)) / np.sqrt(2)


def doublings(family: Family, sign: int) -> np.ndarray:
    """The element that scales all entries alike, by 2⁶ or 2⁻⁶; by less where powers are high."""
    highest = max(abs(weight) for _, weight in family.parts)
    size = sign * np.log(2) * min(DOUBLINGS, MOST_DOUBLINGS / highest)
    if family.size == 1:
        return np.full(family.length, size)
    return size * np.broadcast_to(np.eye(family.size)[:, :, None], _element_shape(family))


def _element_shape(family: Family) -> tuple[int, int, int, int]:
    return family.length // family.size // family.inner, family.size, family.size, family.inner


class Invariance:
    """Changes of the loss of held-out samples under finite transformations, at one perturbed θ."""

    def __init__(
        self,
        problem: Problem,
        params: PyTree,
        samples: PyTree,
        frozen: frozenset[int],
        random: np.random.Generator,
    ):
        arrays, rebuild = on_host(params)
        self.random = random
        self.arrays = perturbed(arrays, random, frozen)
        self.value: Callable[[Arrays], np.ndarray] = lambda arrays: np.asarray(
            losses(problem, rebuild(arrays), samples),
            np.float64,
        )
        self.before = self.value(self.arrays)
        if not np.all(np.isfinite(self.before)):
            blame(problem, params, samples, arrays, self.arrays)
        widest = max(array.dtype.itemsize for array in self.arrays)
        self.eps = float(np.finfo(np.float64 if widest > 4 else np.float32).eps)

    def violations(self, families: Sequence[Family]) -> list[float]:
        """For each family the change of the loss, relative to that under one leg alone; 0 if it is rounding."""
        moves = [(family, random_element(family, self.random)) for family in families]
        changes = self._changes(moves)
        return [
            0.0 if change is None else self._violation(*move, change)
            for move, change in zip(moves, changes, strict=True)
        ]

    def last(self, families: Sequence[Family]) -> list[bool]:
        """Whether the loss stays the same, up to rounding, if a family scales by 2⁶ and by 2⁻⁶, for each family."""
        up, down = (self._changes([(family, doublings(family, sign)) for family in families]) for sign in (1, -1))
        return [larger is None and smaller is None for larger, smaller in zip(up, down, strict=True)]

    def _changes(self, moves: Sequence[Move]) -> list[np.ndarray | None]:
        """For each move the change of the losses, or None if it is rounding: all are tried at once, then halves."""
        if not moves:
            return []
        moved = self.arrays
        for family, element in moves:
            moved = transformed(family, moved, element)
        change = self.value(moved) - self.before
        if self._is_rounding(change, 1 + len(moves)):
            return [None] * len(moves)
        half = len(moves) // 2
        return [change] if len(moves) == 1 else self._changes(moves[:half]) + self._changes(moves[half:])

    def _violation(self, family: Family, element: np.ndarray, change: np.ndarray) -> float:
        alone = [
            self.value(transformed(family, self.arrays, element, [leg])) - self.before
            for leg in range(len(family.parts))
        ]
        size = max(float(np.abs(one).max()) for one in alone)
        if len(family.parts) == 1:
            size = float(np.abs(self.before).max())
        return float(np.abs(change).max()) / max(size, 1e-300)

    def _is_rounding(self, change: np.ndarray, steps: int) -> bool:
        size = np.abs(self.before) + np.abs(self.before).mean()
        return bool(np.all(np.abs(change) <= ROUNDINGS * np.sqrt(steps) * self.eps * size))


def _wide(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.itemsize >= 4 else array.astype(np.float32)
