"""A diagnosis: for every symmetry of a model who is pushed where, how fast, and how far it has to go."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._discovery import FoundSymmetry, find_symmetries
from .._equilibrium import find_equilibrium
from .._flow import as_law, relaxation_modes
from .._noise import GradientNoise, Measurement, gradient_noise_scale, measure
from .._problem import Problem
from .._symmetry import AbstractSymmetry
from ._diagnosis import Diagnosis, Row


def diagnose(
    problem: Problem,
    params: PyTree,
    dynamics: Any,
    symmetries: AbstractSymmetry | Sequence[AbstractSymmetry] | None = None,
    *,
    key: PRNGKeyArray | None = None,
) -> Diagnosis:
    """One table of all symmetries of a model: charge, flow, time to balance, distance from the noise equilibrium.

    Args:
        problem: a finite problem, such as a batch of the training data, with its weight decay.
        params: the parameters, any pytree.
        dynamics: an `SGD`, `SDE`, `GD` or other law that has steps.
        symmetries: whose charges are looked at; those of `find_symmetries` if None.
        key: for `find_symmetries`.

    Returns:
        A `Diagnosis`: `print` it, or take `.rows`, `.to_dict()` for a logger, `.to_dataframe()`.

    Raises:
        ValueError: on a population; for dynamics without steps; as `find_symmetries`, `measure` and
            `find_equilibrium`; inside `jit`, where there are no numbers to put in a table: `measure` and what takes a
            measurement work there, every few steps of a training loop.

    Cost: four passes over the data, and the search for symmetries if none are given.

    Not checked: that the loss has symmetries that are given.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(4.0), "w": jnp.array(0.25)}
        >>> found = ne.diagnose(problem, start, ne.SGD(0.01, 1), ne.rescaling(lambda p: p["u"], lambda p: p["w"]))
        >>> [round(number, 6) for number in found.rows[0].factors]  # u² = w²
        [0.25, 0.25]
        >>> found.rows[0].finding.split(";")[0]
        "noise pulls params['w'] up and params['u'] down"
    """
    problem.require_finite("diagnose")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves((problem, params, dynamics, key))):
        raise ValueError(
            "diagnose puts numbers in a table, and inside jit there are none; expected a call outside. Inside, measure "
            "and what takes a measurement (noether_flow, relaxation_rates, find_equilibrium) give them as arrays."
        )
    law = as_law(dynamics)
    if not hasattr(law, "time_step"):
        raise ValueError(
            f"dynamics is {dynamics!r}; expected an SGD, SDE or GD object, whose steps the times are counted in."
        )
    if symmetries is None:
        symmetries = find_symmetries(problem, params, key=key)
    every = [symmetries] if isinstance(symmetries, AbstractSymmetry) else list(symmetries)
    noise = gradient_noise_scale(problem, params) if problem.num_samples > 1 else None
    if not every:
        return Diagnosis((), _scale(noise))
    measured = measure(problem, params, every)
    ends, modes = _ends(problem, params, every, law), _modes(measured, law)
    rows = [
        _row(symmetry, one, law, mode, end, noise)
        for symmetry, one, mode, end in zip(every, measured, modes, ends, strict=True)
    ]
    return Diagnosis(tuple(rows), _scale(noise))


def _scale(noise: GradientNoise | None) -> float:
    return float(noise.scale) if noise is not None else float("nan")


def _ends(problem: Problem, params: PyTree, symmetries: Sequence[AbstractSymmetry], law: Any) -> list[tuple[Any, ...]]:
    """(log P, what dies, what is blown up) of each symmetry, at their joint equilibrium."""
    if law.charge_law(problem).has_numbers:  # on either side of one symmetry: each has an equilibrium by itself
        found = [find_equilibrium(problem, params, symmetry, law) for symmetry in symmetries]
        return [(one.element, one.to_zero, one.to_infinity) for one in found]
    joint = find_equilibrium(problem, params, symmetries, law)
    return list(zip(joint.element, joint.to_zero, joint.to_infinity, strict=True))


def _modes(measured: Sequence[Measurement], law: Any) -> list[Any]:
    """The slowest and the fastest rates; of symmetries that are alike, as of many layers, by one program."""
    first: dict[Any, Any] = {}
    found = []
    for one in measured:
        group = one.symmetry
        # Rates are made of the moments alone, whichever parameters these are of; a generator is one of its kind.
        alike = isinstance(group.powers, tuple) and not law.charge_law(one.source).has_numbers
        kind = (type(group), group.shape, group.public_shape, group.powers) if alike else id(group)
        found.append(relaxation_modes(dataclasses.replace(one, symmetry=first.setdefault(kind, group)), law))  # pyright: ignore[reportCallIssue]
    return found


def _row(
    symmetry: AbstractSymmetry,
    one: Measurement,
    law: Any,
    modes: Any,
    end: tuple[Any, ...],
    noise: GradientNoise | None,
) -> Row:
    (_, coefficients), moments, group = law.acting(one), one.moments, one.symmetry
    lowers, raises = (np.asarray(side, np.float64) for side in coefficients.sides(moments))
    plus, minus = (np.asarray(weight, np.float64) for weight in coefficients.weights(moments))
    step, decay = float(np.asarray(law.time_step)), float(np.asarray(coefficients.decay))
    raised, lowered, up, down = (_total(gram, group.of_matrices) for gram in (raises, lowers, plus, minus))
    acting = raised + lowered
    sides = _sides(group)
    return Row(
        name=str(symmetry) if isinstance(symmetry, FoundSymmetry) else group.name,
        plus=sides[0],
        minus=sides[1],
        kind=_kind(group),
        charge=_norm(plus - minus),
        imbalance=_ratio(_norm(plus - minus), _norm(plus + minus)),
        flow=2 * _norm(raises - lowers),
        relative_flow=_ratio(_norm(raises - lowers), _norm(raises) + _norm(lowers)),
        push=_ratio(raised - lowered, acting),
        decay_push=_ratio(2 * decay * (down - up), acting),
        noise_share=1 - _ratio(2 * decay * (down + up), acting) if acting else 0.0,
        slowest_steps=_steps(modes.slowest, step, np.min),
        fastest_steps=_steps(modes.fastest, step, np.max),
        decay_steps=_steps(4 * decay, step, np.min),
        factors=_factors(group, *end),
        noise_scale=_noise_scale(group, noise),
    )


def _norm(gram: np.ndarray) -> float:
    return float(np.linalg.norm(gram))


def _steps(rates: Any, step: float, extreme: Any) -> float:
    """1/κ of an extreme of some rates, one for each block; ∞ where nothing relaxes."""
    rates = np.asarray(rates, np.float64).ravel()
    finite = rates[np.isfinite(rates)]  # a block whose legs are empty has nothing to relax
    rate = float(extreme(finite)) if finite.size else 0.0
    return 1 / (step * rate) if rate > 0 else float("inf")


def _total(gram: np.ndarray, of_matrices: bool) -> float:
    """What a Gram is in all: the sum of its entries, or the trace of matrices."""
    return float(np.trace(gram, axis1=-2, axis2=-1).sum() if of_matrices else gram.sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _sides(group: Any) -> tuple[str, str]:
    """The parameters of the + legs and of the − legs."""
    if not group.legs:
        return group.name, ""
    names = [[leg.name for leg in group.legs if leg.power * sign > 0] for sign in (+1, -1)]
    return ", ".join(names[0]), ", ".join(names[1])


def _kind(group: Any) -> str:
    size = group.shape[-1] if len(group.shape) > 1 else 1
    blocks = f"{group.blocks} × " if group.blocks > 1 else ""
    if group.of_matrices:
        return f"{blocks}matrix {size} × {size}"
    return f"{group.size} scalings" if group.size > 1 else "1 scaling"


def _factors(group: Any, element: Any, to_zero: Any, to_infinity: Any) -> tuple[float, float]:
    """The smallest and the largest factor of + legs of power 1 on the way to the joint equilibrium."""
    element = np.asarray(element, np.float64).reshape(group.shape)
    exponents = np.linalg.eigvalsh(element) if group.of_matrices else element
    with np.errstate(over="ignore"):
        least, most = np.exp(np.min(exponents)), np.exp(np.max(exponents))
    if np.any(np.asarray(to_zero)):
        least = 0.0
    if np.any(np.asarray(to_infinity)):
        most = np.inf
    return float(least), float(most)


def _noise_scale(group: Any, noise: GradientNoise | None) -> float:
    if noise is None:
        return float("nan")
    traces, squares = (jax.tree_util.tree_leaves(part) for part in (noise.trace, noise.squared_gradient))
    leaves = group.leaves(len(traces))
    trace, square = (float(sum(part[leaf] for leaf in leaves)) for part in (traces, squares))
    return trace / square if square > 0 else float("nan")
