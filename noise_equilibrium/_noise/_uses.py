"""Where a parameter meets its input in a matrix product: a static reading of the jaxpr of a loss, default deny.

A value that only re-indexes a parameter carries a `Tag`. A `dot_general` with exactly one tagged operand is a `Use`: if
y = W h, the gradient of W is δ hᵀ with δ the derivative of the loss with respect to y, and neither δ nor h is larger
than an activation. Every other primitive that sees a tag makes its parameter *escape*: such a parameter is tapped at
itself. So a primitive that is unknown here, or renamed elsewhere, costs speed and never truth. Parameters of equations
are read through `_read`, which answers None instead of failing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.core
import jax.numpy as jnp
from jax.extend import core

REINDEX = {
    "transpose",
    "reshape",
    "squeeze",
    "expand_dims",
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
}
CALLS = {"jit", "pjit", "closed_call", "core_call"}
REMATS = {"remat", "remat2", "checkpoint"}

# Labels of axes that are not axes of the parameter: positions (tokens, columns of h) and loops around the use.
POSITION = 1000
LOOP = 2000


class Tag(NamedTuple):
    """A value that holds the entries of one parameter: which, and the parameter's axis behind each of its axes.

    Axes of length 1 are not told apart and have no label.
    """

    leaf: int
    axes: tuple[int | None, ...]


class Use(NamedTuple):
    """One matrix product with a parameter; labels below `POSITION` are axes of the parameter.

    Attributes:
        leaf: which parameter.
        side: which operand of the product it is, 0 or 1.
        output: a label for each axis of the product, and so of δ.
        other: a label for each axis of the other operand h.
        shape: the shape of the product, with the loops around it in front.
        dtype: its dtype.
    """

    leaf: int
    side: int
    output: tuple[int | None, ...]
    other: tuple[int | None, ...]
    shape: tuple[int, ...]
    dtype: Any

    def looped(self, length: int) -> "Use":
        """The same use inside a loop whose iterations are stacked along a new first axis."""
        label = LOOP + len([axis for axis in self.output if axis is not None and axis >= LOOP])
        return self._replace(output=(label, *self.output), other=(label, *self.other), shape=(length, *self.shape))


class Reindexed(NamedTuple):
    """The equation re-indexes a parameter."""

    tag: Tag


class Entered(NamedTuple):
    """The equation calls another jaxpr; `remat` says that the call recomputes on the way back."""

    jaxpr: core.ClosedJaxpr
    remat: dict[str, Any] | None


class Looped(NamedTuple):
    """The equation is a scan whose constants hold a parameter."""

    jaxpr: core.ClosedJaxpr
    num_consts: int
    num_carry: int
    length: int
    options: dict[str, Any]


class Escaped(NamedTuple):
    """The equation does something to a parameter that is not understood."""

    primitive: str


Action = Reindexed | Use | Entered | Looped | Escaped
Tags = Sequence[Tag | None]


def find_uses(jaxpr: core.Jaxpr, tags: Tags) -> tuple[list[Use], dict[int, str], list[Tag | None]]:
    """All uses of the tagged inputs, the parameters that escape and what made them, and the tags of the outputs.

    Args:
        jaxpr: the program.
        tags: one entry per input; None where the input is not a parameter.
    """
    known = dict(zip(jaxpr.invars, tags, strict=True))
    uses: list[Use] = []
    escaped: dict[int, str] = {}
    for eqn in jaxpr.eqns:
        seen = tags_of(eqn.invars, known)
        if not any(seen):
            continue
        match action_of(eqn, seen):
            case Reindexed(tag):
                known[eqn.outvars[0]] = tag
            case Use() as use:
                uses.append(use)
            case Entered(inner, _):
                found, lost, out = find_uses(inner.jaxpr, seen)
                uses += found
                escaped = lost | escaped
                known.update(zip(eqn.outvars, out, strict=True))
            case Looped(inner, _, _, length, _):
                found, lost, out = find_uses(inner.jaxpr, seen)
                uses += [use.looped(length) for use in found]
                escaped = {tag.leaf: "the output of a scan" for tag in out if tag} | lost | escaped
            case Escaped(primitive):
                escaped = {tag.leaf: primitive for tag in seen if tag} | escaped
    return uses, escaped, tags_of(jaxpr.outvars, known)


def tags_of(variables: Sequence[Any], known: dict[Any, Tag | None]) -> list[Tag | None]:
    """The tags of variables of a program; None for literals and for values that are no parameter."""
    return [None if isinstance(var, core.Literal) else known.get(var) for var in variables]


def action_of(eqn: core.JaxprEqn, tags: Tags) -> Action:
    """What an equation with at least one tagged input does to the parameters it sees."""
    name = eqn.primitive.name
    if name in REINDEX:
        tag = _reindexed(eqn, tags[0])
        return Reindexed(tag) if tag else Escaped(name)
    if name == "dot_general":
        return _use(eqn, tags) or Escaped(name)
    if name in CALLS:
        return _entered(eqn) or Escaped(name)
    if name in REMATS:
        return _rematerialised(eqn) or Escaped(name)
    if name == "scan":
        return _looped(eqn, tags) or Escaped(name)
    return Escaped(name)


def _read(eqn: core.JaxprEqn, name: str, kind: type | tuple[type, ...]) -> Any:
    """A parameter of an equation, or None if it is absent or not of the expected kind."""
    value = eqn.params.get(name)
    return value if isinstance(value, kind) else None


def _aval(var: Any) -> jax.core.ShapedArray:
    """Shape and dtype of a variable; only arrays carry tags."""
    return var.aval


def _reindexed(eqn: core.JaxprEqn, tag: Tag | None) -> Tag | None:
    if tag is None or len(eqn.invars) != 1:
        return None
    source, target = _aval(eqn.invars[0]), _aval(eqn.outvars[0])
    if not jnp.issubdtype(target.dtype, jnp.floating):
        return None
    if eqn.primitive.name == "transpose":
        order = _read(eqn, "permutation", tuple)
        return None if order is None else Tag(tag.leaf, tuple(tag.axes[axis] for axis in order))
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        return None
    # The remaining primitives keep the order of the entries: the same proper axes mean that only unit axes changed.
    if [n for n in source.shape if n != 1] != [n for n in target.shape if n != 1]:
        return None
    proper = iter([axis for axis, n in zip(tag.axes, source.shape, strict=True) if n != 1])
    return Tag(tag.leaf, tuple(None if n == 1 else next(proper) for n in target.shape))


def _use(eqn: core.JaxprEqn, tags: Tags) -> Use | None:
    numbers = _read(eqn, "dimension_numbers", tuple)
    if numbers is None or len(eqn.invars) != 2 or len(eqn.outvars) != 1 or all(tags):
        return None
    out = _aval(eqn.outvars[0])
    if not jnp.issubdtype(out.dtype, jnp.floating):
        return None
    side = 0 if tags[0] else 1
    tag = tags[side]
    assert tag is not None
    (contract, batch) = numbers
    mine, theirs = side, 1 - side
    other_rank = len(_aval(eqn.invars[theirs]).shape)
    other: list[int | None] = [None] * other_rank
    for ours, its in [
        *zip(contract[mine], contract[theirs], strict=True),
        *zip(batch[mine], batch[theirs], strict=True),
    ]:
        other[its] = tag.axes[ours]
    summed = set(contract[theirs]) | set(batch[theirs])
    free = [axis for axis in range(other_rank) if axis not in summed]
    for axis in free:
        other[axis] = POSITION + axis
    bound = set(contract[mine]) | set(batch[mine])
    kept = [tag.axes[axis] for axis in range(len(tag.axes)) if axis not in bound]
    positions = [other[axis] for axis in free]
    output = [tag.axes[axis] for axis in batch[mine]] + (kept + positions if side == 0 else positions + kept)
    return Use(tag.leaf, side, tuple(output), tuple(other), tuple(out.shape), out.dtype)


def _entered(eqn: core.JaxprEqn) -> Entered | None:
    inner = _read(eqn, "jaxpr", core.ClosedJaxpr) or _read(eqn, "call_jaxpr", core.ClosedJaxpr)
    return Entered(inner, None) if inner is not None and _fits(eqn, inner) else None


def _rematerialised(eqn: core.JaxprEqn) -> Entered | None:
    inner = _read(eqn, "jaxpr", (core.Jaxpr, core.ClosedJaxpr))
    if inner is not None and not hasattr(inner, "consts"):  # open or closed, depending on the version of JAX
        inner = None if inner.constvars else core.ClosedJaxpr(inner, ())
    if inner is None or not _fits(eqn, inner):
        return None
    prevent_cse = eqn.params.get("prevent_cse", True)
    return Entered(inner, {"prevent_cse": prevent_cse, "policy": eqn.params.get("policy")})


def _looped(eqn: core.JaxprEqn, tags: Tags) -> Looped | None:
    inner, length = _read(eqn, "jaxpr", core.ClosedJaxpr), _read(eqn, "length", int)
    if inner is None or length is None or not _fits(eqn, inner):
        return None
    # Where constants, carry and sequences begin is spelled differently in every version of JAX; the shapes tell it:
    # only sequences have the axis of the loop, and the carry is what comes out without it.
    into = [_gains(outer, body, length) for outer, body in zip(eqn.invars, inner.jaxpr.invars, strict=True)]
    out = [_gains(outer, body, length) for outer, body in zip(eqn.outvars, inner.jaxpr.outvars, strict=True)]
    if None in into + out or into != sorted(into, key=bool) or out != sorted(out, key=bool):
        return None
    num_carry = out.count(False)
    num_consts = into.count(False) - num_carry
    if num_consts < 0 or any(tags[num_consts:]):
        return None
    carried = [_aval(var).shape for var in inner.jaxpr.invars[num_consts : num_consts + num_carry]]
    if carried != [_aval(var).shape for var in inner.jaxpr.outvars[:num_carry]]:
        return None
    options = {name: eqn.params[name] for name in ("reverse", "unroll") if name in eqn.params}
    return Looped(inner, num_consts, num_carry, length, options)


def _gains(outer: Any, body: Any, length: int) -> bool | None:
    """Whether a variable has the axis of a loop outside its body; None if the shapes fit neither way."""
    if outer.aval.shape == body.aval.shape:
        return False
    return True if outer.aval.shape == (length, *body.aval.shape) else None


def _fits(eqn: core.JaxprEqn, inner: core.ClosedJaxpr) -> bool:
    return len(inner.jaxpr.invars) == len(eqn.invars) and len(inner.jaxpr.outvars) == len(eqn.outvars)
