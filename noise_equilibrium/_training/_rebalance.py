"""Rebalancing: an optax transformation that moves parameters along the orbits of symmetries while they are trained."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .._dynamics import optax_promotion
from .._equilibrium import OBJECTIVES, Equilibrium, find_equilibrium, move_along
from .._parameters import is_parameter
from .._problem import Problem
from .._symmetry import AbstractSymmetry, bind, check_symmetry
from .._validate import integer
from ._optimizer_state import along_with

# Samples of the first batch that say whether the loss has the symmetries: one is enough unless its gradient vanishes.
CHECKED = 8


class RebalanceState(NamedTuple):
    """The state of `rebalance`.

    Attributes:
        updates: how many updates there were.
        status: the `Status` of the last motion; −1 before the first.
        inner: the state of the wrapped optimiser; () if there is none.
    """

    updates: Int[Array, ""]
    status: Int[Array, ""]
    inner: Any


def rebalance(
    loss: Callable[[PyTree, PyTree], Any],
    symmetries: AbstractSymmetry | Sequence[AbstractSymmetry],
    *,
    every: int,
    to: str | Callable[[PyTree], Any] = "noise",
    dynamics: Any = None,
    weight_decay: float = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    state: str = "move",
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation that takes the parameters, every k steps, to a chosen point of their orbit.

    The motion follows the update of what stands before it in an `optax.chain`, and changes the function that is
    computed by no more than the rounding of the parameters. The batch comes as an extra argument: `update(gradients,
    state, params, data=batch)`.

    Args:
        loss: `loss(params, sample)`, a pure function of the parameters as the optimiser sees them. For an Equinox
            module: of `eqx.filter(model, eqx.is_inexact_array)`, with the rest put back by `eqx.combine` inside.
        symmetries: a symmetry of the loss, or a sequence of them.
        every: k ≥ 1; the k-th update is the first that moves.
        to: "noise": the noise equilibrium of `dynamics`, on the batch; without dynamics, that without weight decay,
            which is the same for all. Or any objective of `move_along`: "norm" (balanced factors, needs no data),
            "largest_entry", …, a function of params.
        dynamics: an `SGD`, an `SDE` or σ²: the law whose equilibrium is meant. The batch stands for the population, so
            that of SGD samples are drawn with replacement.
        weight_decay: γ of that equilibrium; with dynamics only.
        optimizer: an optimiser to wrap in place of standing behind one in a chain. Only then can its state follow: an
            optimiser in a chain is out of reach, and its momentum goes on as it was before the motion.
        state: "move" or "reset" what in that state is shaped like the parameters. Moved, it goes contragrediently, as
            gradients do: exact for a momentum of gradients of the loss alone. Mean squares of gradients, by the names
            that optax gives them (`nu`, `nu_max`, `sum_of_squares`, `e_g`, `exp_avg_sq`), go by the squares of the
            factors: exact for scalar and diagonal symmetries, for matrices as if entries were uncorrelated; under a
            generator they stay. Where a state holds anything else, such as averages of parameters (schedule-free) or
            largest gradients (adamax), use "reset".

    Returns:
        An `optax.GradientTransformationExtraArgs`; for `jit`, `optax.chain` and behind `optax.multi_transform` or
        `optax.masked`. Inside of these, where it sees a part of the parameters only, `to="norm"` and
        "largest_entry" work, and all that needs the loss does not.

    Raises:
        ValueError: for `every` < 1, no symmetries, an unknown objective or word for the state, dynamics without
            `to="noise"` or in a mode of sampling without replacement, weight decay without dynamics; in `update`
            without params or, where the loss is needed, without data.
        SymmetryError: at the first update with data, outside `jit`, if the loss lacks a symmetry. Inside `jit` nothing
            is checked: call `check_symmetry` once.

    A motion with a result that is not finite is left out; `state.status` tells of every other outcome. Outside `jit` a
    motion is traced anew each time it is made; under `vmap` every step pays for one.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, noise_equilibrium as ne
        >>> def loss(params, sample):
        ...     return (params["u"] * params["w"] - sample) ** 2
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> tx = optax.chain(optax.sgd(0.0), ne.rebalance(loss, symmetry, every=1))
        >>> params, batch = {"u": jnp.array(4.0), "w": jnp.array(0.25)}, jnp.array([0.0, 2.0])
        >>> gradient = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)
        >>> updates, _ = tx.update(gradient, tx.init(params), params, data=batch)
        >>> {name: round(float(value), 6) for name, value in optax.apply_updates(params, updates).items()}
        {'u': 1.0, 'w': 1.0}
    """
    every = integer(every, "every", 1)
    if state not in ("move", "reset"):
        raise ValueError(f"state is {state!r}; expected 'move' or 'reset'.")
    if dynamics is not None and to != "noise":
        raise ValueError(f"dynamics came with to={to!r}; expected to='noise', for the equilibrium of these dynamics.")
    if not callable(to) and to not in OBJECTIVES:
        raise ValueError(
            f"the objective is {to!r}; expected one of {', '.join(map(repr, OBJECTIVES))}, or a function of params."
        )
    if weight_decay and dynamics is None:
        raise ValueError(
            f"weight_decay is {weight_decay!r} without dynamics; expected dynamics, for the equilibrium of both."
        )
    if dynamics is not None and getattr(dynamics, "replacement", True) is not True:
        raise ValueError(
            f"dynamics samples with replacement={dynamics.replacement!r}; expected True: the batch that is measured "
            "stands for the population, and is not the data that samples are drawn from."
        )
    needs_data = to not in ("norm", "largest_entry") and not callable(to)
    several = (symmetries,) if isinstance(symmetries, AbstractSymmetry) else tuple(symmetries or ())
    if not several:
        raise ValueError(f"symmetries is {symmetries!r}; expected a Symmetry, or a sequence of at least one.")
    reset = state == "reset"
    inner = optax.with_extra_args_support(optimizer) if optimizer is not None else None

    def found(params: PyTree, data: PyTree) -> tuple[Equilibrium, Sequence[Array]]:
        problem, given = Problem(loss, data, weight_decay), several[0] if len(several) == 1 else several
        if to == "noise" and dynamics is not None:
            end = find_equilibrium(problem, params, given, dynamics)
        else:
            end = move_along(problem, params, given, to)
        return end, (end.element,) if len(several) == 1 else end.element

    def init(params: PyTree) -> RebalanceState:
        nothing = jnp.zeros((), jnp.int32)
        return RebalanceState(nothing, nothing - 1, () if inner is None else inner.init(params))

    def update(updates: PyTree, state: RebalanceState, params: PyTree = None, *, data: Any = None, **extra: Any) -> Any:
        if params is None:
            raise ValueError("rebalance moves the parameters; expected update(gradients, state, params, data=batch).")
        if data is None:
            if needs_data:
                raise ValueError(
                    f"rebalance to {to!r} measures the gradient noise of a batch; expected the batch as an extra "
                    "argument, update(gradients, state, params, data=batch)."
                )
            data = jnp.zeros(2)
        else:
            _check(loss, data, several, params, state)
        before = state.inner
        if inner is not None:
            with optax_promotion():
                updates, before = inner.update(updates, before, params, data=data, **extra)
        touched = _touched(several, params)

        def move() -> tuple[list[Array], Any, Array]:
            there = optax.apply_updates(params, updates)
            end, elements = found(there, data)
            arrays = [leaf for leaf in jax.tree_util.tree_leaves(end.params) if is_parameter(leaf)]
            finite = jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays]).all()
            follow = along_with(before, there, several, elements, reset=reset)
            moved, follow = jax.tree_util.tree_map(
                lambda new, old: jnp.where(finite, new, old), (end.params, follow), (there, before)
            )
            moved = jax.tree_util.tree_leaves(moved)
            return [_difference(moved[place], before_moving[place]) for place in touched], follow, end.status

        def stay() -> tuple[list[Array], Any, Array]:
            # The update itself: to the last bit what the optimiser wants, and no pass over the parameters.
            return [_widened(leaves[place], before_moving[place]) for place in touched], before, state.status

        before_moving, structure = jax.tree_util.tree_flatten(params)
        leaves = structure.flatten_up_to(updates)
        count = state.updates + 1
        if isinstance(count, jax.core.Tracer):
            moved, after, status = jax.lax.cond(count % every == 0, move, stay)
        else:
            moved, after, status = (stay if int(count) % every else move)()
        for place, leaf in zip(touched, moved, strict=True):
            leaves[place] = leaf
        return jax.tree_util.tree_unflatten(structure, leaves), RebalanceState(count, status, after)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _touched(symmetries: Sequence[AbstractSymmetry], params: PyTree) -> list[int]:
    """The places of the leaves that a motion may change: a conditional copies all that it returns, so no others."""
    places = [place for place, leaf in enumerate(jax.tree_util.tree_leaves(params)) if is_parameter(leaf)]
    groups = [bind(symmetry, params) for symmetry in symmetries]
    return [places[index] for index in sorted({leaf for group in groups for leaf in group.leaves(len(places))})]


def _difference(new: Array, old: Array) -> Array:
    """The update: in single precision at least, as the difference of half-precision numbers is not one of them."""
    wide = jnp.promote_types(old.dtype, jnp.float32)
    return new.astype(wide) - old.astype(wide)


def _widened(update: Any, param: Array) -> Array:
    """An update in the precision of a motion's."""
    wide = jnp.promote_types(param.dtype, jnp.float32)
    return jnp.zeros(param.shape, wide) if update is None else jnp.asarray(update).astype(wide)


def _check(loss: Any, data: PyTree, symmetries: Sequence[AbstractSymmetry], params: PyTree, state: Any) -> None:
    """Whether the loss has the symmetries, once and where numbers are known; not of a part of the parameters."""
    leaves = jax.tree_util.tree_leaves((state.updates, params, data))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) or int(state.updates):
        return
    parts = jax.tree_util.tree_leaves(params, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
    if any(isinstance(part, optax.MaskedNode) for part in parts):
        return
    few = Problem(loss, jax.tree_util.tree_map(lambda leaf: leaf[:CHECKED], data))
    for symmetry in symmetries:
        check_symmetry(few, params, symmetry)
