"""The search for parts of parameters that are scaled together, from long ones to short ones."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ._derivatives import Marginals, Place
from ._family import Family, disjoint, merged, whole_of
from ._known import Relations
from ._null_space import MARGIN, ROWS_A_COLUMN, NullSpace, null_space, pivots, rational, sparser, sparsest, tall
from ._part import Part, Shape, divisors, parts_of, readings

MOST_COLUMNS = 900  # of one null space; its decomposition takes a second or two
FEW = 0.2  # of the entries of a part may have no gradient (units that were never active); others belong to another part
LEAST_ROWS = 24  # pairs of parameters and sample that every null space sees
MOST_NUMBERS = 5_000_000  # of a matrix, beyond the rows that its null space needs
MOST_READ = 100_000_000  # slopes of one length, in all readings of their axes
MOST_DRAWN = 20_000_000  # of random slopes at once
SPARE = 16  # rows beyond the number of columns
TINY = 1e-16  # of the slope without cancellation: no slope is sharper, nor its measured noise smaller
SILENT = 0.03  # slopes whose rounding error is larger than this, of their size without cancellation, are nothing else
# Which readings of axes are tried, the most first, and whether only of axes that no symmetry moves yet.
MENUS = (("all", False), ("simple", False), ("ends", False), ("all", True), ("simple", True), ("ends", True))


@dataclass
class Search:
    """What has been found so far, level by level.

    Attributes:
        shapes: of the parameters.
        marginals: the measured slopes.
        skipped: parameters that are no legs.
        random: the source of random numbers.
        families: what has been found.
        ignored: parameters whose gradient is zero.
        crowded: lengths at which not every part could be looked at.
        silent: entries of axes along which the gradient is zero.
        relations: what is known.
        tables: sizes of parts, kept.
        squares: mean squares over rows, kept.
    """

    shapes: Sequence[tuple[int, ...]]
    marginals: Marginals
    skipped: frozenset[int]
    random: np.random.Generator
    families: list[Family] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    crowded: list[int] = field(default_factory=list)
    silent: dict[Place, np.ndarray] = field(init=False)
    relations: Relations = field(init=False)
    tables: dict[tuple, tuple[np.ndarray, ...]] = field(default_factory=dict)
    squares: dict[Place, tuple[np.ndarray, ...]] = field(default_factory=dict)

    def run(self) -> None:
        """Look at every length, the largest first."""
        moving = [leaf for leaf in range(len(self.shapes)) if leaf not in self.skipped]
        self.ignored = [leaf for leaf in moving if self._is_silent(whole_of(leaf))]
        places = self.places()
        self.silent = {place: self._silent_entries(place) for place in places}
        self.relations = Relations(self.shapes, places, self.silent)
        for d in self._lengths():
            self._find_invariant(d)
            self._find_related(d)

    def _add(self, family: Family) -> None:
        self.families.append(family)
        self.relations.add_family(family.parts)

    # --- what there is to look at ---

    def places(self) -> list[Place]:
        left_out = self.skipped | set(self.ignored)
        return [(leaf, axes) for leaf, axes in self.marginals.slope if leaf not in left_out]

    def _has_axes(self, leaf: int) -> bool:
        """Whether a parameter has slopes along an axis: no numbers and no axes that are too long."""
        return any((leaf, (axis,)) in self.marginals.slope for axis in range(len(self.shapes[leaf])))

    def axis_lengths(self, place: Place) -> tuple[int, ...]:
        return tuple(self.shapes[place[0]][axis] for axis in place[1])

    def _lengths(self) -> list[int]:
        found = {1}
        for place in self.places():
            lengths = self.axis_lengths(place)
            total = math.prod(lengths)
            found |= set(divisors(total)) if len(lengths) == 1 else {total}
        return sorted(found, reverse=True)

    def _columns(self, d: int) -> list[Part]:
        """The parts of length d, as many kinds of them as one null space can take."""
        most = self._most(d)
        explained = self.explained()
        for style, only_unexplained in MENUS:
            places = [place for place in self.places() if not (only_unexplained and place in explained)]
            places = [place for place in places if d > 1 or len(place[1]) == 1 or not self._has_axes(place[0])]
            if self._count(places, d, style) > most or self._work(places, d, style) > MOST_READ:
                continue
            # Of parts that amount to the same, those of few axes are kept: they come first.
            places.sort(key=lambda place: (len(place[1]), place))
            columns = [part for place in places for part in parts_of(*place, self.axis_lengths(place), d, style)]
            return columns
        self.crowded.append(d)
        if d == 1:
            columns = [
                whole_of(leaf) for leaf in range(len(self.shapes)) if leaf not in self.skipped | set(self.ignored)
            ]
        else:
            places = [place for place in self.places() if place not in explained]
            columns = [part for p in places for part in parts_of(*p, self.axis_lengths(p), d, "pooled")]
        return columns

    def _most(self, d: int) -> int:
        """How many columns of length d have a null space that means something, and can be had."""
        rows = len(next(iter(self.marginals.slope.values()))) * d
        return min(MOST_COLUMNS, rows - SPARE)

    def _count(self, places: Iterable[Place], d: int, style: str) -> int:
        """How many columns there are, without building them."""
        lengths = [self.axis_lengths(place) for place in places]
        return sum(math.prod(one) // d * len(readings(one, d, style)) for one in lengths)

    def _work(self, places: Iterable[Place], d: int, style: str) -> int:
        """How many slopes are read if these are looked at in every way."""
        rows = len(next(iter(self.marginals.slope.values())))
        lengths = [self.axis_lengths(place) for place in places]
        return rows * sum(math.prod(one) * len(readings(one, d, style)) for one in lengths)

    def explained(self) -> set[Place]:
        """Axes whose every entry is in some family."""
        seen: dict[Place, list[np.ndarray]] = defaultdict(list)
        for family in self.families:
            for part, _ in family.parts:
                for axes, indices in _projections(part, self.shapes[part.leaf]):
                    seen[part.leaf, axes].append(indices)
        return {
            place
            for place, found in seen.items()
            if len(np.unique(np.concatenate(found))) == math.prod(self.axis_lengths(place))
        }

    # --- numbers of parts ---

    def sizes(self, part: Part) -> tuple[float, float, float]:
        """Root mean squares of the slope of a part, of its slope without cancellation, and of its noise."""
        full = tuple(bounds == (0, part.shape[place]) for place, bounds in zip((0, 2, 4), part.ranges, strict=True))
        if any(not whole and stop - start > 1 for whole, (start, stop) in zip(full, part.ranges, strict=True)):
            raise ValueError(f"{part} is neither a slice nor all of them along a factor.")
        at = tuple(0 if whole else start for whole, (start, _) in zip(full, part.ranges, strict=True))
        slope, gross, noise = self._tables((part.leaf, part.axes), part.shape, full)
        return float(slope[at]), float(gross[at]), float(noise[at])

    def _tables(self, place: Place, shape: Shape, pooled: tuple[bool, ...]) -> tuple[np.ndarray, ...]:
        """`sizes` for every index of the shared factors of a reading, all indices of some of them together."""
        key = (place, shape, pooled)
        if key not in self.tables:
            together = tuple(axis for axis, pool in zip((1, 3, 5), pooled, strict=True) if pool)
            slope_square, gross_square, noise_square = self._squares(place)

            def mean_square(marginal: np.ndarray, square: np.ndarray) -> np.ndarray:
                if not together:
                    return np.mean(square.reshape(shape), axis=(1, 3))
                split = marginal.reshape(len(marginal), *shape).sum(axis=together, keepdims=True)
                return np.mean(split**2, axis=(0, 2, 4))

            summed = tuple(axis - 1 for axis in together)
            gross = np.sqrt(np.mean(gross_square.reshape(shape).sum(axis=summed, keepdims=True), axis=(1, 3)))
            slope = np.sqrt(mean_square(self.marginals.slope[place], slope_square))
            noise = np.maximum(np.sqrt(mean_square(self.marginals.noise[place], noise_square)), TINY * gross)
            self.tables[key] = (slope, gross, noise)
        return self.tables[key]

    def _squares(self, place: Place) -> tuple[np.ndarray, ...]:
        """Mean squares over rows of slope, gross slope and noise, for every entry of the axes."""
        if place not in self.squares:
            measured = (self.marginals.slope, self.marginals.gross, self.marginals.noise)
            self.squares[place] = tuple(np.mean(of[place] ** 2, axis=0) for of in measured)
        return self.squares[place]

    def _is_silent(self, part: Part) -> bool:
        """Whether its gradient is zero, up to rounding."""
        _, gross, noise = self.sizes(part)
        return gross == 0 or noise > SILENT * gross

    def _silent_entries(self, place: Place) -> np.ndarray:
        _, gross, noise = self._squares(place)
        return np.flatnonzero(noise >= SILENT**2 * gross)

    # --- scale invariance ---

    def _find_invariant(self, d: int) -> None:
        """Parts of which every entry can be scaled by itself."""
        for place in self.places():
            if not self.shapes[place[0]] or (d == 1 and place[1]):
                continue
            for part in self._invariant_parts(place, d):
                if not self.is_known(part):
                    slope, gross, noise = self.sizes(part)
                    simple = part.simplified(self.shapes[part.leaf])
                    self._add(Family(((simple, 1.0),), slope / gross, gross / noise))

    def _invariant_parts(self, place: Place, d: int) -> list[Part]:
        """Parts of length d whose slopes vanish and whose gradients do not, the smaller ones first."""
        found = []
        style = "simple" if self._work([place], d, "simple") <= MOST_READ / 10 else "ends"
        for shape in readings(self.axis_lengths(place), d, style):
            counts = (shape[0], shape[2], shape[4])
            for pooled in itertools.product(*((False,) if count == 1 else (False, True) for count in counts)):
                slope, gross, noise = self._tables(place, shape, pooled)
                vanishing = (gross > 0) & (noise <= SILENT * gross) & (slope <= MARGIN * noise)
                for at in np.argwhere(vanishing.reshape([1 if p else c for p, c in zip(pooled, counts, strict=True)])):
                    ranges = [
                        (0, c) if pool else (int(i), int(i) + 1) for i, c, pool in zip(at, counts, pooled, strict=True)
                    ]
                    found.append(Part(*place, shape, (ranges[0], ranges[1], ranges[2])))
        return sorted(found, key=lambda part: part.count)

    def is_known(self, part: Part) -> bool:
        """Whether the invariance of a part follows from what is known already."""
        drawn = self.relations.samples(self.random)[part.leaf, part.axes]
        return _rms(part.column(drawn)) <= 1e-6 * math.sqrt(part.count)

    def follows(self, family: Family) -> bool:
        """Whether a family follows from what is known already."""
        drawn = self.relations.samples(self.random)
        terms = [weight * part.column(drawn[part.leaf, part.axes]) for part, weight in family.parts]
        size = math.sqrt(sum(part.count * weight**2 for part, weight in family.parts))
        return _rms(np.sum(terms, axis=0)) <= 1e-6 * size

    # --- parts that compensate each other ---

    def _find_related(self, d: int) -> None:
        """Sparse null vectors of the columns of one length."""
        sized = [(part, *self.sizes(part)) for part in self._columns(d)]
        sized = [
            one
            for one in sized
            if one[1] > MARGIN * one[3] and np.isin(one[0].indices, self.silent[one[0].leaf, one[0].axes]).mean() <= FEW
        ]
        if len(sized) < 2:
            return
        columns = [part for part, *_ in sized]
        dropped, known = self._redundant(columns)
        left = [place for place in range(len(columns)) if place not in dropped]
        if not 2 <= len(left) <= self._most(d):
            return
        enough = max(LEAST_ROWS, ROWS_A_COLUMN * len(left) // d, MOST_NUMBERS // (len(sized) * d))
        rows = min(len(next(iter(self.marginals.slope.values()))), enough)
        matrix = np.stack(
            [
                part.column(self.marginals.slope[part.leaf, part.axes][:rows]).ravel() / slope
                for part, slope, *_ in sized
            ],
            1,
        )
        sizes = np.array([slope for _, slope, *_ in sized])
        noise = np.array([noise / slope for _, slope, _, noise in sized])
        space = null_space(tall(matrix[:, left], self.random), noise[left])
        # Near the limit a vector that is no symmetry may pass as one, and spoil the others: then fewer are taken.
        best: list[Family] = []
        while len(best) < len(space.vectors):
            vectors = np.zeros((len(space.vectors), len(columns)))
            vectors[:, left] = sparser(space.basis)
            is_plain = lambda vector: disjoint([columns[place] for place in np.flatnonzero(vector)])  # noqa: E731
            sparse = sparsest(vectors / sizes, known, is_plain, self.random)
            families = [self._family(columns, matrix, sizes, noise, vector, space) for vector in sparse]
            valid = [family for family in families if family is not None]
            best = max(best, valid, key=len)
            space = space.clearer()
        # Of families at one length some may follow from others in parts; those that say it simply come first.
        for family in sorted(best, key=lambda family: (family.overlaps, len(family.parts))):
            if not self.follows(family):
                self._add(family)

    def _family(
        self,
        columns: list[Part],
        matrix: np.ndarray,
        sizes: np.ndarray,
        noise: np.ndarray,
        vector: np.ndarray,
        space: NullSpace,
    ) -> Family | None:
        """The family of weights, if they are small fractions and it holds with these to rounding."""
        kept = np.flatnonzero(vector)
        weights = rational(vector[kept], 0.01)
        if weights is None:
            return None
        scaled = weights * sizes[kept]
        terms = matrix[:, kept] * scaled
        total = float(np.sqrt(np.mean(np.sum(terms**2, axis=1))))
        if total == 0:
            return None
        violation = _rms(terms.sum(axis=1)) / total
        expected = float(np.sqrt(np.sum((scaled * noise[kept]) ** 2))) / total
        if violation > min(MARGIN * expected, space.next):
            return None
        chosen = [(columns[place], float(weight)) for place, weight in zip(kept, weights, strict=True)]
        return Family(merged(chosen, self.shapes), violation, space.next / max(violation, expected))

    def _redundant(self, columns: list[Part]) -> tuple[set[int], np.ndarray]:
        """Columns without which no null vector is left that follows from what is known; and the weights of all such."""
        count = -(-(2 * len(columns) + SPARE) // columns[0].length) + 2
        each = max(1, MOST_DRAWN // self.relations.total)
        drawn = (self.relations.draw(min(each, count - done), self.random) for done in range(0, count, each))
        matrix = np.concatenate(
            [np.stack([part.column(one[part.leaf, part.axes]).ravel() for part in columns], 1) for one in drawn]
        )
        matrix = tall(matrix, self.random)
        sizes = np.sqrt(np.mean(matrix**2, axis=0))
        zero = [place for place, size in enumerate(sizes) if size <= 1e-6]
        left = [place for place, size in enumerate(sizes) if size > 1e-6]
        known = np.zeros((len(zero), len(columns)))
        known[np.arange(len(zero)), zero] = 1
        if len(left) < 2:
            return set(zero), known
        basis = null_space(matrix[:, left] / sizes[left], np.full(len(left), 1e-10)).basis
        related = np.zeros((len(basis), len(columns)))
        related[:, left] = basis / sizes[left]
        return {*zero, *(left[place] for place in pivots(basis))}, np.concatenate([known, related])


def _projections(part: Part, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The axes of a part, each with the entries of it that the part touches, and all together."""
    found = [(part.axes, part.indices.ravel())]
    if len(part.axes) > 1:
        each = np.unravel_index(part.indices.ravel(), [shape[axis] for axis in part.axes])
        found += [((axis,), np.unique(entries)) for axis, entries in zip(part.axes, each, strict=True)]
    return found


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0
