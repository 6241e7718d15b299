"""The scalings that a program shows: a second finder, which reads the loss of one sample and measures nothing.

Every entry of every value is given the logarithm of its scale, a linear form in those of the entries of the parameters.
A product adds forms; a sum asks that its terms have equal ones; what is no power asks for an invariant argument, and so
does every primitive that has no rule here. Scalings that meet all these equations leave the loss unchanged.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from .._jaxpr import (
    CALLS,
    CUSTOM_DERIVATIVES,
    REMATS,
    SCANS,
    Known,
    any_of,
    evaluate_equation,
    knows,
    nothing,
    program_inside,
    scan_layout,
)
from .._parameters import split
from .._problem import Problem

MOST_ENTRIES = 2000  # of all parameters: forms are dense
MOST_TERMS = 10**6  # of one contraction
ZERO, INVARIANT = (
    0,
    1,
)  # the forms of an exact zero, which is any multiple of itself, and of all that no parameter moves

SAME = {"neg", "abs", "copy", "convert_element_type", "reduce_precision", "stop_gradient", "real"}
EQUAL = {"add", "sub", "max", "min", "add_any"}
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min"}
POWERS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3}
COMPARISONS = {"gt", "lt", "ge", "le", "eq", "ne"}
# What an equation may have besides its operands; one with any other parameter is one without a rule.
KNOWN: dict[str, Known] = {
    **dict.fromkeys(SAME | EQUAL | COMPARISONS | POWERS.keys(), any_of("accuracy")),
    **dict.fromkeys(REDUCTIONS, any_of("axes", "out_sharding")),
    "convert_element_type": any_of("new_dtype", "weak_type", "sharding"),
    "reduce_precision": any_of("exponent_bits", "mantissa_bits"),
    "integer_pow": any_of("y"),
    "reshape": {**any_of("new_sizes", "sharding"), "dimensions": nothing},
    "broadcast_in_dim": any_of("shape", "broadcast_dimensions", "sharding"),
    "slice": any_of("start_indices", "limit_indices", "strides"),
    "dot_general": any_of("dimension_numbers", "precision", "preferred_element_type", "out_sharding"),
    "transpose": any_of("permutation"),
    **dict.fromkeys(("rev", "squeeze"), any_of("dimensions")),
    "concatenate": any_of("dimension"),
    **dict.fromkeys(("div", "select_n", "sign"), any_of()),
    "mul": {"out_dtype": nothing},
}


def read(problem: Problem, params: PyTree) -> np.ndarray:
    """The equations for the logarithms of the scales of all entries of the parameters: a row for each.

    Raises:
        TooLarge: if there are too many parameters, or terms of a contraction.
    """
    arrays, rebuild = split(params)
    ends = np.cumsum([2, *(array.size for array in arrays)])
    if ends[-1] - 2 > MOST_ENTRIES:
        raise TooLarge
    sample = jax.tree_util.tree_map(lambda leaf: leaf[0], problem.data)
    program = jax.make_jaxpr(lambda arrays, sample: problem.sample_loss(rebuild(arrays), sample))(arrays, sample)
    reader = Reader(int(ends[-1] - 2))
    entries = [
        Value(start + np.arange(array.size).reshape(array.shape))
        for start, array in zip(ends[:-1], arrays, strict=True)
    ]
    (loss,) = reader.run(program, [*entries, *map(_sampled, jax.tree_util.tree_leaves(sample))])
    reader.require_invariant(loss.forms)
    return np.array([*reader.equations.values()]).reshape(-1, int(ends[-1] - 2))


class TooLarge(Exception):
    """A program whose equations would take too much room."""


class Value(NamedTuple):
    """A value of the program: the number of the form of each entry, and the value itself if only it is known.

    What is computed from a sample is no constant: a zero in it is none for other samples.
    """

    forms: np.ndarray
    known: np.ndarray | None = None
    sampled: bool = False


class Reader:
    """Reads a program, and collects forms and the equations among them.

    Args:
        size: the number of entries of the parameters.
    """

    def __init__(self, size: int):
        self.table = np.concatenate([np.zeros((2, size)), np.eye(size)])
        self.number_of = {row.tobytes(): place for place, row in enumerate(self.table) if place != ZERO}
        self.equations: dict[bytes, np.ndarray] = {}

    def run(self, program: core.ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a program."""
        known = dict(zip(program.jaxpr.invars, inputs, strict=True))
        known |= {var: _constant(value) for var, value in zip(program.jaxpr.constvars, program.consts, strict=True)}

        def of(var: Any) -> Value:
            return _constant(var.val) if isinstance(var, core.Literal) else known[var]

        for eqn in program.jaxpr.eqns:
            outputs = self._equation(eqn, [of(var) for var in eqn.invars])
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [of(var) for var in program.jaxpr.outvars]

    def require_invariant(self, forms: np.ndarray) -> None:
        """Ask that forms vanish."""
        for number in np.unique(forms):
            self._add(self.table[number])

    # --- equations of the program ---

    def _equation(self, eqn: core.JaxprEqn, operands: list[Value]) -> list[Value]:
        inner = program_inside(eqn, CALLS | REMATS | CUSTOM_DERIVATIVES)
        if inner is not None:
            return self.run(inner, operands)
        if all(value.known is not None for value in operands):
            found = evaluate_equation(eqn, [value.known for value in operands])
            if all((value.forms <= INVARIANT).all() for value in operands):
                kind = _sampled if any(value.sampled for value in operands) else _constant
                return [kind(value) for value in found]
        loop = program_inside(eqn, SCANS)
        layout = None if loop is None else scan_layout(eqn, loop.jaxpr)
        if loop is not None and layout is not None:
            return self._scan(loop, operands, *layout, bool(eqn.params.get("reverse")))
        forms = self._forms(eqn, operands)
        if forms is None:  # no rule: nothing that it sees may change
            for value in operands:
                self.require_invariant(value.forms)
            return [Value(np.full(_shape(var), INVARIANT)) for var in eqn.outvars]
        return [Value(forms)]

    def _forms(self, eqn: core.JaxprEqn, operands: list[Value]) -> np.ndarray | None:
        name, params = eqn.primitive.name, eqn.params
        if name not in KNOWN or not knows(KNOWN[name], eqn):
            return None
        forms = [value.forms for value in operands]
        shape = _shape(eqn.outvars[0])
        if name in SAME:
            return forms[0]
        if name in ("reshape", "squeeze"):
            return forms[0].reshape(shape)
        if name == "transpose":
            return forms[0].transpose(params["permutation"])
        if name == "rev":
            return np.flip(forms[0], params["dimensions"])
        if name == "broadcast_in_dim":
            places = dict(zip(params["broadcast_dimensions"], forms[0].shape, strict=True))
            return np.broadcast_to(forms[0].reshape([places.get(axis, 1) for axis in range(len(shape))]), shape)
        if name == "slice":
            strides = params["strides"] or (1,) * len(shape)
            cut = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
            return forms[0][tuple(slice(*one) for one in cut)]
        if name == "concatenate":
            return np.concatenate(forms, axis=params["dimension"])
        if name in ("mul", "div"):
            return self._products(forms[0], forms[1], -1.0 if name == "div" else 1.0)
        if name in EQUAL or name == "select_n":
            terms = np.broadcast_arrays(*forms[name == "select_n" :])
            return self._equal(np.stack(terms, -1))
        if name in COMPARISONS:  # of numbers that grow alike, or with zero
            self._equal(np.stack(np.broadcast_arrays(*forms), -1))
            return np.full(shape, INVARIANT)
        if name == "sign":
            return np.full(shape, INVARIANT)
        if name in REDUCTIONS:
            axes = tuple(params["axes"])
            kept = [axis for axis in range(forms[0].ndim) if axis not in axes]
            return self._equal(forms[0].transpose(*kept, *axes).reshape(*shape, -1))
        if name in POWERS or name == "integer_pow":
            return self._powers(forms[0], POWERS[name] if name in POWERS else params["y"])
        if name == "dot_general":
            return self._contraction(forms, params["dimension_numbers"]).reshape(shape)
        return None

    def _scan(
        self, body: core.ClosedJaxpr, operands: list[Value], consts: int, carried: int, length: int, reverse: bool
    ) -> list[Value]:
        fixed, carry, rows = operands[:consts], operands[consts : consts + carried], operands[consts + carried :]
        turns = []
        for turn in reversed(range(length)) if reverse else range(length):
            here = [Value(v.forms[turn], None if v.known is None else v.known[turn], v.sampled) for v in rows]
            out = self.run(body, [*fixed, *carry, *here])
            carry = out[:carried]
            turns.append(out[carried:])
        turns = turns[::-1] if reverse else turns
        return [*carry, *(Value(np.stack([value.forms for value in values])) for values in zip(*turns, strict=True))]

    # --- forms ---

    def _products(self, first: np.ndarray, second: np.ndarray, sign: float) -> np.ndarray:
        first, second = np.broadcast_arrays(first, second)
        pairs, places = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1, return_inverse=True)
        found = [
            ZERO if ZERO in (one, other) else self._number(self.table[one] + sign * self.table[other])
            for one, other in pairs.T.tolist()
        ]
        return np.array(found, int)[places.ravel()].reshape(first.shape)

    def _powers(self, forms: np.ndarray, power: float) -> np.ndarray:
        each, places = np.unique(forms, return_inverse=True)
        found = [ZERO if one == ZERO else self._number(power * self.table[one]) for one in each.tolist()]
        return np.array(found, int)[places.ravel()].reshape(forms.shape)

    def _equal(self, terms: np.ndarray) -> np.ndarray:
        """The form of sums over the last axis, whose terms must have equal ones; exact zeros go with any."""
        flat = terms.reshape(-1, terms.shape[-1])
        first = flat[np.arange(len(flat)), np.argmax(flat != ZERO, axis=1)]
        pairs = np.stack([np.broadcast_to(first[:, None], flat.shape)[flat != ZERO], flat[flat != ZERO]])
        for one, other in np.unique(pairs, axis=1).T.tolist():
            self._add(self.table[one] - self.table[other])
        return first.reshape(terms.shape[:-1])

    def _contraction(self, forms: list[np.ndarray], numbers: Any) -> np.ndarray:
        (left, right), (left_batch, right_batch) = numbers

        def arranged(array: np.ndarray, over: Sequence[int], batch: Sequence[int]) -> np.ndarray:
            free = [axis for axis in range(array.ndim) if axis not in (*over, *batch)]
            lengths = [int(np.prod([array.shape[axis] for axis in axes])) for axes in (batch, free, over)]
            return array.transpose(*batch, *free, *over).reshape(lengths)

        one, other = arranged(forms[0], left, left_batch), arranged(forms[1], right, right_batch)
        if one.size * other.shape[1] > MOST_TERMS:
            raise TooLarge
        return self._equal(self._products(one[:, :, None], other[:, None, :], 1.0))

    def _number(self, row: np.ndarray) -> int:
        row = row + 0.0  # no negative zeros
        key = row.tobytes()
        if key not in self.number_of:
            self.number_of[key] = len(self.table)
            self.table = np.concatenate([self.table, row[None]])
        return self.number_of[key]

    def _add(self, row: np.ndarray) -> None:
        if np.any(row):
            self.equations[(row + 0.0).tobytes()] = row


def _constant(value: Any) -> Value:
    value = np.asarray(value)
    return Value(np.where(_is_multiple(value), ZERO, INVARIANT), value)


def _is_multiple(value: np.ndarray) -> np.ndarray:
    """Where a number is any multiple of itself: 0, and NaN, which stands where nobody looks."""
    return (value == 0) | (value != value)


def _sampled(value: Any) -> Value:
    """A value of the sample: one that is zero there is none elsewhere."""
    return Value(np.full(np.shape(value), INVARIANT), np.asarray(value), sampled=True)


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape
