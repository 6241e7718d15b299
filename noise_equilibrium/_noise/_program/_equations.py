"""What one equation of a program does to the parameters it sees: default deny.

A value that is linear in parameters, axis by axis, carries their `View`s. An equation either makes such a value of such
values, or multiplies one with something that depends on the sample: a `Use`. If y = W h, the gradient of W is δ hᵀ with
δ the derivative of the loss with respect to y, and neither δ nor h is larger than an activation. Every other primitive
makes the parameter *escape*: such a parameter is tapped at itself. So a primitive that is unknown here, or renamed
elsewhere, costs speed and never truth.
"""

from collections.abc import Sequence

from jax.extend import core

from ..._programs import CALLS, REMATS
from ._actions import Action, Escaped, Fact
from ._calls import entered, looped, rematerialised
from ._linear import added, joined, negated, rearranged, reversed_, scaled, sliced, split
from ._products import convolution, dot, rows


def action_of(eqn: core.JaxprEqn, facts: Sequence[Fact]) -> Action:
    """What an equation does to the parameters it sees; at least one of its inputs holds some."""
    name = eqn.primitive.name
    if name == "dot_general":
        return dot(eqn, facts) or Escaped(name)
    if name in CALLS:
        return entered(eqn) or Escaped(name)
    if name in REMATS:
        return rematerialised(eqn) or Escaped(name)
    reader = _READERS.get(name)
    return (reader(eqn, facts) if reader else None) or Escaped(name)


_READERS = {
    "transpose": rearranged,
    "reshape": rearranged,
    "squeeze": rearranged,
    "expand_dims": rearranged,
    "broadcast_in_dim": rearranged,
    "convert_element_type": rearranged,
    "copy": rearranged,
    "copy_p": rearranged,
    "sharding_constraint": rearranged,
    "optimization_barrier": rearranged,
    "add": added,
    "add_any": added,
    "sub": added,
    "neg": negated,
    "mul": scaled,
    "div": scaled,
    "slice": sliced,
    "split": split,
    "concatenate": joined,
    "rev": reversed_,
    "gather": rows,
    "dynamic_slice": rows,
    "conv_general_dilated": convolution,
    "scan": looped,
}
