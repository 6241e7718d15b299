"""The symmetries that networks have, by name."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import PyTree

from ._leg import Leg
from ._symmetry import Symmetry

Where = Callable[[PyTree], Any]
Axis = tuple[Where, int | str]


def scaling(*wheres: Where) -> Symmetry:
    """Scale invariance θ → (1+ρ)θ on the selected parameters, A = I there; Eq. (24).

    Args:
        wheres: functions that select parameters or subtrees; all of params if none is given.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> float(ne.scaling().charge({"w": jnp.array([3.0, 4.0])}))  # ‖θ‖²
        25.0
    """
    return Symmetry([Leg(where) for where in wheres or (_everything,)], "scalar")


def rescaling(up: Where | Sequence[Where], down: Where | Sequence[Where]) -> Symmetry:
    """Rescaling up → (1+ρ) up, down → (1−ρ) down; the charge is ‖up‖² − ‖down‖².

    Args:
        up: a function that selects a parameter, or a list of them (a weight and its bias).
        down: likewise.
    """
    legs = [Leg(where, power=+1) for where in _listed(up)] + [Leg(where, power=-1) for where in _listed(down)]
    return Symmetry(legs, "scalar")


def neuron_rescaling(up: Axis | Sequence[Axis], down: Axis | Sequence[Axis]) -> Symmetry:
    """One rescaling per index of an axis, as every neuron of a ReLU network has.

    Args:
        up: `(where, axis)`, or a list of them (a weight and its bias); an axis is a number or a pattern, see `Leg`.
        down: likewise; the axes have the same length d.

    Returns:
        A diagonal symmetry; its charge is the (d,) vector ‖up_j‖² − ‖down_j‖².

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> relu = ne.neuron_rescaling([(lambda p: p["w"], 0), (lambda p: p["b"], 0)], (lambda p: p["u"], 1))
    """
    return Symmetry(_axis_legs(up, +1, None, 1) + _axis_legs(down, -1, None, 1), "diagonal")


def double_rotation(
    left: Where | Axis | Sequence[Where | Axis], right: Where | Axis | Sequence[Where | Axis], *, blocks: int = 1
) -> Symmetry:
    """U → U P, W → P⁻¹ W for every symmetric positive P = e^B: the symmetry of a matrix product, Eq. (10).

    Args:
        left: selects U, whose last axis is multiplied by P; or `(where, axis)`, or a list of either.
        right: selects W, whose first axis is multiplied by P⁻¹; likewise.
        blocks: the number of groups of the axis with a P each (attention heads).

    Returns:
        A symmetric symmetry; its charge is UᵀU − WWᵀ, Eq. (11), of shape (d, d), or (H, k, k) with H blocks.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> symmetry = ne.double_rotation(lambda p: p[0], lambda p: p[1])
        >>> symmetry.charge((jnp.array([[1.0, 2.0]]), jnp.array([[1.0], [0.0]]))).tolist()
        [[0.0, 2.0], [2.0, 4.0]]
    """
    return Symmetry(_axis_legs(left, +1, -1, blocks) + _axis_legs(right, -1, 0, blocks), "symmetric")


def _everything(params: PyTree) -> PyTree:
    return params


def _listed(side: Any) -> list[Any]:
    return list(side) if isinstance(side, list) else [side]


def _axis_legs(side: Any, power: int, default: int | None, blocks: int) -> list[Leg]:
    legs = []
    for entry in _listed(side):
        where, axis = entry if isinstance(entry, tuple) else (entry, default)
        if axis is None:
            raise ValueError(f"got {entry!r} for a leg; expected a pair (where, axis).")
        legs.append(Leg(where, axis, power, blocks))
    return legs
