"""Moving parameters along the orbits of symmetries to where something else than SGD would take them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from .._group import AbstractGroup, Groups
from .._linalg import eigh
from .._noise import Moments
from .._noise._abstract import as_kept
from .._numbers import all_finite, jit
from .._parameters import accumulation_dtype, flatten, split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, share_entries
from ._equalise import equalise, spread
from ._find import Equilibrium, commuting, on_orbit, status_of, tolerance
from ._numerics import relative_flow
from ._objectives import GRADIENT, NOISE, NORM
from ._predict import data_loss

OBJECTIVES = ("noise", "norm", "gradient", "largest_entry", "flattest")
# Elements up to which the inverse Hessian of an objective is kept; beyond, the last steps stand for it.
DENSE = 1024
MEMORY = 20
MAX_STEPS = 1000


def move_along(
    problem: Problem,
    params: PyTree,
    symmetries: AbstractSymmetry | Sequence[AbstractSymmetry],
    objective: str | Callable[[PyTree], Any],
) -> Equilibrium:
    """The point of an orbit where an objective is least; the function that the network computes does not change.

    Args:
        problem: a finite problem; "norm", "largest_entry" and a function of your own do not look at it.
        params: any point of the orbit; any pytree.
        symmetries: a symmetry of the loss, or a sequence of symmetries that commute.
        objective: what is least:

            - "noise": Tr Σ, the noise equilibrium without weight decay;
            - "norm": ‖θ‖², where weight decay alone leads: balanced factors, Q = 0;
            - "gradient": ‖∇L‖²;
            - "flattest": Tr ∇²L, at a minimum; P Hessian–vector products, twice;
            - "largest_entry": max |θ_ij| along every direction, as before rounding to few bits (equalisation);
            - a function of params that returns one number.

    Returns:
        As `find_equilibrium`, and likewise differentiable. `residual` is the relative flow to a point still better;
        for "largest_entry" the largest |log P| that is left, and for a function the norm of its slope along log P,
        relative to its value at the start. LIMIT and DIVERGES as there; a function that is least nowhere is
        NOT_CONVERGED.

    Raises:
        ValueError: for an unknown objective; as `find_equilibrium`; for "largest_entry" of matrices, whose rotations
            have no direction to equalise; for "flattest" of symmetries that share parameters.

    Not checked: that the loss has the symmetries; that a function of your own has a least value on the orbit (there is
    no sharpest point: along a symmetry sharpness has no upper bound).

    Closed forms are used for all that has one: the first four are sums of Grams that go along the orbit as e^{±2λ}, and
    so equilibria (theory, "Variational form"). A function is minimised over the elements by BFGS.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array(4.0), "w": jnp.array(0.25)}
        >>> moved = ne.move_along(problem, start, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), "norm")
        >>> {name: round(float(value), 6) for name, value in moved.params.items()}
        {'u': 1.0, 'w': 1.0}
    """
    if not callable(objective) and objective not in OBJECTIVES:
        raise ValueError(
            f"objective is {objective!r}; expected one of {', '.join(map(repr, OBJECTIVES))}, or a function of params."
        )
    if objective == "norm":
        return on_orbit(_without_data(problem), params, symmetries, NORM)[0]
    if objective in ("noise", "gradient"):
        problem.require_finite("move_along")
        found, _, silence = on_orbit(problem, params, symmetries, NOISE if objective == "noise" else GRADIENT)
        silence.warn()
        return found
    several = not isinstance(symmetries, AbstractSymmetry)
    groups = commuting(symmetries if several else (symmetries,), params)  # pyright: ignore[reportArgumentType]
    if objective == "flattest":
        problem.require_finite("move_along")
        found = _flattest(problem, params, _apart(groups, params))
    elif objective == "largest_entry":
        found = _equalised(params, _of_numbers(groups))
    else:
        found = _minimised(objective, params, groups)  # pyright: ignore[reportArgumentType]
    return found if several else _single(found)


def _without_data(problem: Problem) -> Problem:
    """A problem without gradients, of which nothing but the parameters is measured."""
    return Problem(jax.tree_util.Partial(_nothing), jnp.zeros((2, 1), jnp.float32), 0.0)


def _nothing(params: PyTree, sample: Array) -> Float[Array, ""]:
    return jnp.zeros((), jnp.float32)


def _single(found: Equilibrium) -> Equilibrium:
    parts = (found.element[0], found.to_zero[0], found.to_infinity[0])
    return eqx.tree_at(lambda e: (e.element, e.to_zero, e.to_infinity), found, parts)


def _of_numbers(groups: Groups) -> tuple[BoundSymmetry, ...]:
    for group in groups:
        if not isinstance(group, BoundSymmetry) or group.of_matrices:
            raise ValueError(
                f"the symmetry of {group.name} is one of matrices or of a generator; expected scalar or diagonal "
                "legs for 'largest_entry'. The rescalings of its axis are a symmetry too: ne.neuron_rescaling."
            )
    return groups  # pyright: ignore[reportReturnType]


def _apart(groups: Groups, params: PyTree) -> Groups:
    count = len(split(params)[0])
    for one, other in itertools.combinations(groups, 2):
        if share_entries(one, other, count):
            raise ValueError(
                f"{other.name} shares a parameter with another symmetry; expected symmetries that share none for "
                "'flattest'. Move along one after the other, or give a function of params."
            )
    return groups


@jit
def _equalised(params: PyTree, groups: Groups) -> Equilibrium:
    arrays, rebuild = split(params)
    moved, elements = equalise(groups, arrays)  # pyright: ignore[reportArgumentType]
    residual = spread(groups, moved)  # pyright: ignore[reportArgumentType]
    return _result(rebuild(moved), groups, elements, residual, arrays)


@jit
def _minimised(objective: Callable[[PyTree], Any], params: PyTree, groups: Groups) -> Equilibrium:
    arrays, rebuild = split(params)
    dtype = accumulation_dtype(arrays)
    ends = [sum(group.dimension for group in groups[: place + 1]) for place in range(len(groups))]

    def elements(numbers: Array) -> list[Array]:
        parts = jnp.split(numbers, ends[:-1])
        return [group.element_of(part) for group, part in zip(groups, parts, strict=True)]

    def moved(numbers: Array) -> list[Array]:
        there = arrays
        for group, element in zip(groups, elements(numbers), strict=True):
            there = group.multiply(there, group.exponential(element))
        return there

    def value(numbers: Array, _: Any) -> Float[Array, ""]:
        found = jnp.asarray(objective(rebuild(moved(numbers))))
        if found.shape != () or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"the objective returned an array of shape {found.shape} and dtype {found.dtype}; expected one real "
                "number."
            )
        return found.astype(dtype)

    start = jnp.zeros(ends[-1], dtype)
    # In units of itself: the tolerances of the search are meant for numbers of order 1.
    unit = jax.lax.stop_gradient(jnp.abs(value(start, None)))
    unit = jnp.where(unit > 0, unit, 1)
    accuracy = float(jnp.finfo(dtype).eps) ** 0.6
    if ends[-1] <= DENSE:
        method = optx.BFGS(rtol=accuracy, atol=accuracy)
    else:
        method = optx.LBFGS(rtol=accuracy, atol=accuracy, history_length=MEMORY)
    relative = lambda numbers, _: value(numbers, None) / unit  # noqa: E731
    solution = optx.minimise(relative, method, start, max_steps=MAX_STEPS, throw=False).value
    residual = jnp.linalg.norm(jax.grad(relative)(solution, None))
    # A search that compares values, each right to ε, cannot tell slopes below √ε: that of the closed forms is too much.
    return _result(rebuild(moved(solution)), groups, elements(solution), residual, arrays, power=0.4)


@jit
def _flattest(problem: Problem, params: PyTree, groups: Groups) -> Equilibrium:
    """∇²L goes along the orbit as the square of a gradient does, so that Tr ∇²L is the noise of a law."""
    arrays, rebuild = split(params)
    law = NOISE.charge_law(problem)
    moments = _curvatures(problem, params, groups)
    found = [group.balance(arrays, one, law, 1) for group, one in zip(groups, moments, strict=True)]
    moved = arrays
    for group, one in zip(groups, found, strict=True):
        moved = group.multiply(moved, one.motion)
    flows = [
        jnp.where(one.idle, 0, relative_flow(*law.sides(there)))
        for one, there in zip(found, _curvatures(problem, rebuild(moved), groups), strict=True)
    ]
    limits = [one.to_zero for one in found], [one.to_infinity for one in found]
    diverges = jnp.stack([one.diverges for one in found]).any()
    elements, idle = [one.element for one in found], jnp.stack([one.idle for one in found]).all()
    # Away from a minimum ∇²L may be negative along an axis: then no sum of squares is least anywhere.
    pairs = [(group, gram) for group, one in zip(groups, moments, strict=True) for gram in one.noise]
    negative = jnp.stack([_is_negative(*pair) for pair in pairs]).any()
    residual = jnp.where(negative, 1, jnp.max(jnp.stack(flows)))
    return _result(rebuild(moved), groups, elements, residual, arrays, limits, diverges, idle & ~negative)


def _is_negative(group: AbstractGroup, gram: Array) -> Array:
    """Whether a Gram of ∇²L is negative in some direction, by more than its rounding."""
    values = eigh(_symmetric(gram))[0] if group.of_matrices else gram
    return jnp.any(values < -(float(jnp.finfo(gram.dtype).eps) ** 0.5) * jnp.max(jnp.abs(values)))


def _curvatures(problem: Problem, params: PyTree, groups: Groups) -> list[Moments]:
    """Moments with Grams of ∇²L in place of those of the noise, a column of ∇²L at a time."""
    arrays, _ = split(params)
    theta, unflatten = flatten(params)
    gradient = jax.grad(lambda theta: data_loss(problem, unflatten(theta)))

    def grams(place: Array) -> list[Any]:
        unit = jnp.zeros_like(theta).at[place].set(1)
        left, right = (split(unflatten(vector))[0] for vector in (unit, jax.jvp(gradient, (theta,), (unit,))[1]))
        return [as_kept(group, group.product(left, right)) for group in groups]

    def add(total: list[Any], place: Array) -> tuple[list[Any], None]:
        return jax.tree_util.tree_map(jnp.add, total, grams(place)), None

    shapes = jax.eval_shape(grams, jnp.zeros((), jnp.int32))
    nothing = jax.tree_util.tree_map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    totals, _ = jax.lax.scan(add, nothing, jnp.arange(len(theta)))
    found = []
    for group, total in zip(groups, totals, strict=True):
        weight = as_kept(group, group.gram(arrays))
        noise = tuple(map(_symmetric, total)) if group.of_matrices else total
        found.append(Moments(weight, noise, jax.tree_util.tree_map(jnp.zeros_like, weight), group.powers))
    return found


def _symmetric(gram: Array) -> Array:
    """A Gram of columns that are right to rounding, without the part that a Gram cannot have."""
    return (gram + gram.mT) / 2


def _result(
    params: PyTree,
    groups: Groups,
    elements: Sequence[Any],
    residual: Array,
    start: list[Array],
    limits: Any = None,
    diverges: Array | bool = False,
    idle: Array | bool = False,
    power: float = 0.5,
) -> Equilibrium:
    finite = all_finite(start)
    nowhere = [jnp.zeros(group.shape, residual.dtype) for group in groups]
    to_zero, to_infinity = limits or (nowhere, nowhere)
    to_zero, to_infinity = (
        tuple(group.public(one) for group, one in zip(groups, limit, strict=True)) for limit in (to_zero, to_infinity)
    )
    at_limit = jnp.stack([jnp.any(limit != 0) for limit in (*to_zero, *to_infinity)]).any()
    most = tolerance(groups, start) ** (2 * power)
    return Equilibrium(
        params=params,
        element=tuple(group.public(element) for group, element in zip(groups, elements, strict=True)),
        residual=residual,
        status=status_of(finite, jnp.asarray(idle), jnp.asarray(diverges), residual, at_limit, most),
        to_zero=to_zero,
        to_infinity=to_infinity,
        sweeps=jnp.ones((), jnp.int32),
    )
