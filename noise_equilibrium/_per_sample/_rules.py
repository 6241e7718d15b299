"""What one equation of a program does to the parameters it sees: default deny.

A value that is linear in parameters, axis by axis, carries their `View`s. An equation either makes such a value of such
values, or multiplies one with something that depends on the sample: a `Use`. If y = W h, the gradient of W is δ hᵀ with
δ the derivative of the loss with respect to y, and neither δ nor h is larger than an activation. Every other primitive
makes the parameter *escape*: such a parameter is tapped at itself. The same holds for a known primitive with a
parameter that is not in the table, or whose value is not understood. So what is unknown here, renamed elsewhere or
added in a later version of JAX costs speed and never truth.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from .._jaxpr import CALLS, REMATS, SCANS, Known, any_of, anything, knows, nothing
from ._actions import Action, Escaped, Fact
from ._call_rules import entered, looped, rematerialised
from ._contraction_rules import convolution, dot, rows
from ._linear_rules import added, joined, negated, rearranged, reversed_, scaled, sliced, split


class Rule(NamedTuple):
    """How to read the equations of one primitive.

    Attributes:
        read: what an equation does to the parameters it sees; None if it is not understood.
        known: all parameters that its equations may have, and the values at which `read` holds.
        operands: how many inputs they have; None if `read` asks itself.
    """

    read: Callable[[core.JaxprEqn, Sequence[Fact]], Action | None]
    known: Known
    operands: int | None = 1

    def fits(self, eqn: core.JaxprEqn) -> bool:
        """Whether an equation has nothing that is unknown."""
        return self.operands in (None, len(eqn.invars)) and knows(self.known, eqn)


def action_of(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Action:
    """What an equation does to the parameters it sees; at least one of its inputs holds some."""
    name = eqn.primitive.name
    rule = RULES.get(name)
    return (rule.read(eqn, facts) if rule is not None and rule.fits(eqn) else None) or Escaped(name)


def _float_or_nothing(value: Any) -> bool:
    """The type that a product is asked to have: a real one, in which it is linear to rounding."""
    return value is None or jnp.issubdtype(value, jnp.floating)


def _ungrouped(value: Any) -> bool:
    """A group count that says there are none."""
    return value == 1


RULES: dict[str, Rule] = {
    "transpose": Rule(rearranged, any_of("permutation")),
    # With `dimensions` a reshape would permute the axes first.
    "reshape": Rule(rearranged, {"new_sizes": anything, "dimensions": nothing, "sharding": nothing}),
    "squeeze": Rule(rearranged, any_of("dimensions")),
    # Only where the added axes have length 1: `rearranged` asks that there be as many entries as before.
    "broadcast_in_dim": Rule(rearranged, {**any_of("shape", "broadcast_dimensions"), "sharding": nothing}),
    "convert_element_type": Rule(rearranged, {**any_of("new_dtype", "weak_type"), "sharding": nothing}),
    "copy": Rule(rearranged, {}),
    "sharding_constraint": Rule(rearranged, any_of("sharding", "layout", "context_mesh", "unconstrained_dims")),
    "optimization_barrier": Rule(rearranged, {}),
    "add": Rule(added, {}, operands=2),
    "add_any": Rule(added, {}, operands=2),
    "sub": Rule(added, {}, operands=2),
    "neg": Rule(negated, {}),
    "mul": Rule(scaled, {"out_dtype": nothing}, operands=2),
    "div": Rule(scaled, {}, operands=2),
    "slice": Rule(sliced, any_of("start_indices", "limit_indices", "strides")),
    "split": Rule(split, any_of("sizes", "axis")),
    "concatenate": Rule(joined, any_of("dimension"), operands=None),
    "rev": Rule(reversed_, any_of("dimensions")),
    "dot_general": Rule(
        dot,
        {
            **any_of("dimension_numbers", "precision"),
            "preferred_element_type": _float_or_nothing,
            "out_sharding": nothing,
        },
        operands=2,
    ),
    # Where an index lies outside, what is filled in holds no parameter, whatever it is.
    "gather": Rule(
        rows,
        any_of("dimension_numbers", "slice_sizes", "mode", "fill_value", "indices_are_sorted", "unique_indices"),
        operands=2,
    ),
    "dynamic_slice": Rule(rows, any_of("slice_sizes"), operands=None),
    "conv_general_dilated": Rule(
        convolution,
        {
            **any_of("dimension_numbers", "window_strides", "padding", "lhs_dilation", "rhs_dilation", "precision"),
            "feature_group_count": _ungrouped,
            "batch_group_count": _ungrouped,
            "preferred_element_type": _float_or_nothing,
            "out_sharding": nothing,
        },
        operands=2,
    ),
    **{name: Rule(entered, known, operands=None) for name, known in CALLS.items()},
    **{name: Rule(rematerialised, known, operands=None) for name, known in REMATS.items()},
    **{name: Rule(looped, known, operands=None) for name, known in SCANS.items()},
}
