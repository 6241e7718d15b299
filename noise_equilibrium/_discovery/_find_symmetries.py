"""The symmetries of a loss nobody told us about."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.core
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._keys import as_key
from .._parameters import is_parameter, split
from .._problem import Problem
from .._symmetry import Leg
from ._apart import legs_apart
from ._confirm import DRAWS, Invariance, fresh_gradients, with_algebra
from ._derivatives import LONGEST_AXIS, axis_sets, keystr, leaf_names, losses, measure
from ._describe import LeafAt, LegText, leg_texts, words
from ._family import Family
from ._found import FoundSymmetry, Symmetries
from ._near import near_misses
from ._search import Search

MOST_ROWS, LEAST_ROWS = 400, 48  # pairs of parameters and sample; small models get more of them, they are cheap
WORK = 2e8  # numbers in all gradients together, beyond the least rows
SLOPES = 2e7  # slopes along the axes, likewise: they are kept
JITTERED = 16  # rows that are measured twice, for their rounding errors
FRESH = 30.0  # on fresh parameters and samples a violation may be this many times larger
FEW_SAMPLES = 8  # fewer are all looked at, and confirm what is found at other parameters only
SAMPLES = 64  # held-out samples whose losses are compared

Select = Callable[[PyTree], Any]


def find_symmetries(
    problem: Problem,
    params: PyTree,
    *,
    key: PRNGKeyArray | None = None,
    frozen: Select | Sequence[Select] | None = None,
) -> Symmetries:
    """The scalings of slices of parameters, and the matrices on axes, that leave the loss of every sample unchanged.

    By number, whatever the program of the loss: at perturbed parameters the slopes t_s(z) of every sample's loss along
    "scale slice s of an axis" are measured; Σ_s w_s t_s(z) = 0 for every z and θ is a symmetry with powers w. Slices of
    one length d are looked at together, entry by entry, from the largest length down; what follows from a symmetry
    found before is no news. Each is then asked whether matrices may act in place of numbers, on the whole axis or in
    blocks, and is confirmed on held-out samples (if there are eight or more) at other parameters: by its slope, by
    finite transformations of the loss, and by scaling 64 times up and down. Source: theory, "Finding the symmetries of
    a loss nobody told us about".

    Costs some 50 gradients of single samples for large models and up to 500 for small ones, and the memory of a few
    gradients, whatever P is.

    Args:
        problem: a finite problem with at least two samples.
        params: the parameters, any pytree. The result holds around them, not for one point: every entry is perturbed
            by a good part of the size of its array.
        key: of the perturbations; jax.random.key(0) if None, so that results repeat.
        frozen: a function that selects parameters which may not be perturbed and are no legs, such as a variance or a
            mask, or a list of such functions.

    Returns:
        A list of symmetries in the order of their first parameters in the tree, each a `Symmetry` that works
        everywhere, with `description` (also its `str`), `violation` and `gap`. The list has `broken` (scalings that
        nearly are symmetries, with their violation), `beyond` (in words, symmetries that no `Symmetry` can hold),
        `ignored` (parameters with no gradient) and `reason()`, which says what was found and what was not.

    Raises:
        ValueError: on a population or a single sample; if params holds no floating-point array, or one in half
            precision; if the loss is not finite at params, or at perturbed ones, with the parameter that made it so; if
            it ignores all parameters; inside `jit`, where no numbers are known.

    Assumed and not checked: that samples differ enough to tell a symmetry of the loss from one of the data, such as a
    feature that is zero in all of them. In single precision a symmetry is one to rounding, at these parameters and at
    64 times larger and smaller ones: what breaks one by less everywhere is not seen; a loss that computes in less
    (bfloat16 inside) hides everything. Symmetries that are no scalings of parts of axes, such as shifts and rotations,
    are not looked for; slices are regular ones (contiguous, strided, or a few of them nested), and very large models
    are not searched for the shortest.

    Examples:
        >>> import jax, jax.numpy as jnp, noise_equilibrium as ne
        >>> x = jax.random.normal(jax.random.key(1), (20, 3))
        >>> params = {"u": jnp.ones((1, 4)), "w": jnp.ones((4, 3))}
        >>> loss = lambda p, x: (p["u"] @ jax.nn.relu(p["w"] @ x) - 1.0)[0] ** 2
        >>> print(ne.find_symmetries(ne.Problem(loss, x), params))
        ['u'] columns ↔ ['w'] rows: 4 scalings
    """
    problem.require_finite("find_symmetries")
    count = problem.num_samples
    if count < 2:
        raise ValueError(
            f"find_symmetries got {count} sample; expected at least 2: with one a symmetry of the loss cannot be told "
            "from one of the sample."
        )
    arrays, _ = split(params)
    names = leaf_names(params)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves((problem, params))):
        raise ValueError("find_symmetries looks at known numbers; expected a call outside jit, grad and vmap.")
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.itemsize < 4:
            raise ValueError(
                f"{name} has dtype {array.dtype}; find_symmetries compares slopes to rounding and needs single "
                "precision. Convert for the search: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)."
            )
    held = _frozen(frozen, params) | {leaf for leaf, array in enumerate(arrays) if array.size == 0}
    key = as_key(jax.random.key(0) if key is None else key, "find_symmetries")
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order = random.permutation(count)
    cut = (count + 1) // 2
    halves = (order[:cut][:MOST_ROWS], order[cut:][:SAMPLES]) if count >= FEW_SAMPLES else (order, order)
    fitted, others = (
        jax.tree_util.tree_map(lambda leaf: leaf[np.sort(chosen)], problem.data)  # noqa: B023
        for chosen in halves
    )
    for half, chosen in zip((fitted, others), halves, strict=True):
        _require_finite_loss(problem, params, half, np.sort(chosen))
    size = sum(array.size for array in arrays)
    slopes = sum(math.prod(array.shape[axis] for axis in axes) for array in arrays for axes in axis_sets(array.shape))
    rows = int(np.clip(min(WORK / max(size, 1), SLOPES / max(slopes, 1)), LEAST_ROWS, MOST_ROWS))
    measured = measure(problem, params, fitted, rows, held, random, JITTERED)
    search = Search([array.shape for array in arrays], measured, held, random)
    search.run()
    if len(search.ignored) + len(held) == len(arrays):
        raise ValueError(
            "the loss does not depend on any of the parameters that may move; expected a loss of params. "
            f"Their gradients vanish: {', '.join(names[leaf] for leaf in search.ignored)}."
        )
    kept, failed = _confirmed(problem, params, others, held, random, search)
    describe = _Describer(params, search)
    broken = [*failed, *near_misses(search)]
    looked = (
        f"looked at {size} numbers in {len(arrays)} parameters, with {rows} gradients of single samples at perturbed "
        "parameters"
    )
    long = [name for name, array in zip(names, arrays, strict=True) if max(array.shape, default=0) > LONGEST_AXIS]
    if long:
        looked += f"; not along the axes of more than {LONGEST_AXIS} entries, of {', '.join(long)}"
    if search.crowded:
        looked += f"; not every slice of length {', '.join(map(str, search.crowded))}"
    found, beyond = describe.all_of(sorted(kept, key=_tree_order))
    return Symmetries(
        found,
        describe.all_of(sorted(broken, key=lambda family: family.violation))[0],
        beyond,
        [names[leaf] for leaf in search.ignored],
        looked,
    )


def _confirmed(
    problem: Problem,
    params: PyTree,
    samples: PyTree,
    frozen: frozenset[int],
    random: np.random.Generator,
    search: Search,
) -> tuple[list[Family], list[Family]]:
    """The families that hold on held-out samples at other parameters, with their algebras; and those that do not."""
    points = fresh_gradients(problem, params, samples, frozen, random)
    eps = max(float(np.finfo(array.dtype).eps) for array in points[0][0])
    asked, failed = [], []
    for family in search.families:
        algebra, own = with_algebra(family, points, random)
        if own <= FRESH * max(family.violation, eps):
            asked.append(algebra)
        else:
            failed.append(replace(family, violation=own, gap=1.0))
    draws = [Invariance(problem, params, samples, frozen, random) for _ in range(DRAWS)]
    # What is no symmetry of matrices may be one of numbers.
    asked = [
        family if violation <= np.sqrt(eps) else replace(family, size=1, inner=1)
        for family, violation in zip(asked, _worst(draws, asked), strict=True)
    ]
    near, far = _worst(draws, asked), draws[0].last(asked)
    kept = [family for family, change, lasts in zip(asked, near, far, strict=True) if change <= np.sqrt(eps) and lasts]
    for family, change, lasts in zip(asked, near, far, strict=True):
        if change > np.sqrt(eps):
            failed.append(replace(family, violation=change, gap=1.0))
        elif not lasts:
            failed.append(replace(family, gap=1.0))
    return kept, failed


def _worst(draws: Sequence[Invariance], families: Sequence[Family]) -> list[float]:
    """The largest change of the loss under finite transformations, for each family."""
    return [max(each) for each in zip(*(draw.violations(families) for draw in draws), strict=True)]


class _Describer:
    """Turns families into symmetries of these parameters."""

    def __init__(self, params: PyTree, search: Search):
        with_paths, _ = jax.tree_util.tree_flatten_with_path(params)
        places = [(place, keystr(path)) for place, (path, leaf) in enumerate(with_paths) if is_parameter(leaf)]
        self.leaves = [LeafAt(place, name) for place, name in places]
        self.shapes = search.shapes
        self.params = params

    def all_of(self, families: Sequence[Family]) -> tuple[list[FoundSymmetry], list[str]]:
        """The symmetries, and the descriptions of those that no `Symmetry` can hold: an entry would be in two legs."""
        found, beyond = [], []
        for family in families:
            one = self._symmetry(family)
            if one is None:
                names = ", ".join(dict.fromkeys(self.leaves[part.leaf].path for part, _ in family.parts))
                beyond.append(f"{names}: {family.length} scalings of slices that no pattern writes")
            elif family.overlaps:
                apart = self._apart(family, str(one))
                found += apart
                if family.size > 1 or not apart:
                    beyond.append(str(one))
            else:
                one.bind(self.params)
                found.append(one)
        return found, beyond

    def _symmetry(self, family: Family) -> FoundSymmetry | None:
        texts = leg_texts(family, self.shapes)
        if texts is None and family.size > 1:
            family = replace(family, size=1, inner=1)
            texts = leg_texts(family, self.shapes)
        if texts is None:
            return None
        algebra = "scalar" if family.length == 1 else "diagonal" if family.size == 1 else "symmetric"
        plain = [leg.whole_axis for leg in texts]
        named = any(blocks > 1 for at in plain if at for _, blocks in [at]) or any(at is None for at in plain)
        as_patterns = named and (any(at is None for at in plain) or len({at[1] for at in plain if at}) > 1)
        legs = [self._leg(leg, as_patterns) for leg in texts]
        return FoundSymmetry(
            legs, algebra, words(family, texts, [leaf.path for leaf in self.leaves]), family.violation, family.gap
        )

    def _apart(self, family: Family, text: str) -> list[FoundSymmetry]:
        """A scalar symmetry for each number of a family that moves entries twice; none if they are too many."""
        what, _, _ = text.rpartition(": ")
        return [
            FoundSymmetry(
                [self._leg(leg, False) for leg in legs],
                "scalar",
                f"entry {number} of {what}: one scaling" if family.length > 1 else text,
                family.violation,
                family.gap,
            )
            for number, legs in enumerate(legs_apart(family, self.shapes) or [])
        ]

    def _leg(self, leg: LegText, as_pattern: bool) -> Leg:
        where, at = self.leaves[leg.leaf], leg.whole_axis
        power = int(leg.power) if leg.power == int(leg.power) else leg.power
        if at is not None and at[0] < 0:
            return Leg(where, None, power)
        if at is None or (as_pattern and at[1] > 1):
            return Leg(where, leg.pattern, power)  # pyright: ignore[reportArgumentType]
        return Leg(where, at[0], power, at[1])


def _tree_order(family: Family) -> tuple[Any, ...]:
    first = family.parts[0][0]
    return first.leaf, first.axes, first.ranges, -family.length


def _frozen(frozen: Select | Sequence[Select] | None, params: PyTree) -> frozenset[int]:
    """The positions of the parameters that stay."""
    if frozen is None:
        return frozenset()
    selects = [frozen] if callable(frozen) else frozen
    if not isinstance(selects, Sequence) or not all(callable(select) for select in selects):
        raise ValueError(f"frozen is {frozen!r}; expected a function that selects parameters, or a list of them.")
    leaves, treedef = jax.tree_util.tree_flatten(params)
    place_of = {place: number for number, place in enumerate(p for p, leaf in enumerate(leaves) if is_parameter(leaf))}
    stand_ins = jax.tree_util.tree_unflatten(treedef, [_Place(place) for place in range(len(leaves))])
    chosen = set()
    for select in selects:
        try:
            selected = jax.tree_util.tree_leaves(select(stand_ins))
        except Exception as error:
            raise ValueError(
                f"frozen failed on params ({type(error).__name__}: {error}); expected a function that selects "
                "parameters and computes nothing, such as lambda params: params['variance']."
            ) from error
        found = {leaf.place for leaf in selected if isinstance(leaf, _Place)}
        if not found & place_of.keys():
            raise ValueError("frozen selects no floating-point array of params; expected at least one.")
        chosen |= {place_of[place] for place in found if place in place_of}
    if len(chosen) == len(place_of):
        raise ValueError("frozen selects every parameter; expected some that may move.")
    return frozenset(chosen)


class _Place:
    """Stands for a leaf while `frozen` selects it."""

    def __init__(self, place: int):
        self.place = place


def _require_finite_loss(problem: Problem, params: PyTree, samples: PyTree, places: np.ndarray) -> None:
    """Raise a ValueError that names a sample, by its place among the data, of which the loss is not finite."""
    values = np.asarray(losses(problem, params, samples), np.float64)
    if not np.all(np.isfinite(values)):
        sample = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"the loss is {values[sample]} at params for sample {places[sample]}; expected finite losses. Check params "
            "and data for NaN, and start from parameters at which the loss is defined."
        )
