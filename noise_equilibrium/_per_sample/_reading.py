"""A program as it is read, once: what each of its equations does to parameters, and where they meet their input.

The reading is a static tree: an equation that calls a program, or loops over one, has the reading of that program. Uses
have numbers, by which a run of the program finds them again at any depth.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from ._actions import Action, Entered, Escaped, Fact, Looped, Use, Used, Viewed
from ._rules import action_of


class Step(NamedTuple):
    """One equation as it was read.

    Attributes:
        eqn: the equation.
        results: what is known of its results.
        action: what it does to parameters; None if it sees none.
        uses: its uses, and those of the program inside, by their numbers and as they appear from outside.
        escaped: the parameters that escape here, and what made them.
        values: operands that maps of later views need, as pairs of a number and the place of the operand.
        body: the program inside.
    """

    eqn: core.JaxprEqn
    results: tuple[Fact, ...]
    action: Action | None = None
    uses: dict[int, Use] = {}  # noqa: RUF012 (no one adds to it)
    escaped: dict[int, str] = {}  # noqa: RUF012
    values: tuple[tuple[int, int], ...] = ()
    body: "Reading | None" = None


class Reading(NamedTuple):
    """A program as it was read.

    Attributes:
        program: the program.
        steps: its equations.
        uses: where parameters meet their input, here and in programs inside; by their numbers, in the order of a run.
        escaped: the parameters that escape, and what made them.
        outputs: what is known of the outputs.
    """

    program: core.ClosedJaxpr
    steps: tuple[Step, ...]
    uses: dict[int, Use]
    escaped: dict[int, str]
    outputs: tuple[Fact, ...]

    @property
    def computed_again(self) -> set[int]:
        """The uses inside of rematerialised calls, whose factors a gradient of the program does not keep."""
        found: set[int] = set()
        for step in self.steps:
            if isinstance(step.action, Entered) and step.action.remat is not None:
                found |= step.uses.keys()
            elif step.body is not None:
                found |= step.body.computed_again
        return found


def read(program: core.ClosedJaxpr, facts: Sequence[Fact], numbers: Iterator[int]) -> Reading:
    """Read a program, and all programs inside of it, each once.

    Args:
        program: the program.
        facts: what is known of its inputs.
        numbers: gives numbers to uses and values; no number twice in one tree.
    """
    known = dict(zip(program.jaxpr.invars, facts, strict=True))

    def of(variables: Iterable[Any]) -> tuple[Fact, ...]:  # of literals and constants nothing is known
        return tuple(Fact() if isinstance(var, core.Literal) else known.get(var, Fact()) for var in variables)

    steps, uses, escaped = [], {}, {}
    for eqn in program.jaxpr.eqns:
        step = _read_equation(eqn, of(eqn.invars), numbers)
        known.update(zip(eqn.outvars, step.results, strict=True))
        steps.append(step)
        uses |= step.uses
        escaped = step.escaped | escaped  # what is said of a parameter is where it escapes first
    return Reading(program, tuple(steps), uses, escaped, of(program.jaxpr.outvars))


def _read_equation(eqn: core.JaxprEqn, seen: Sequence[Fact], numbers: Iterator[int]) -> Step:
    """Read one equation, of whose inputs something is known; and the program inside, if it is entered."""
    step = Step(eqn, (Fact((), any(fact.varies for fact in seen)),) * len(eqn.outvars))
    if not any(fact.views for fact in seen):
        return step
    action = action_of(eqn, seen)
    step = step._replace(action=action)
    match action:
        case Viewed(results):
            return _with_views(step, results, numbers)
        case Used(uses):
            return step._replace(uses={next(numbers): use for use in uses})
        case Entered(program):
            body = read(program, seen, numbers)
            return step._replace(results=body.outputs, uses=body.uses, escaped=body.escaped, body=body)
        case Looped():
            body = read(action.program, action.facts_inside(seen), numbers)
            uses = {number: use.looped(action.length) for number, use in body.uses.items()}
            # What leaves a scan was put together from all its turns, and of this no view can tell.
            lost = dict.fromkeys(leaves_in(body.outputs), "the output of a scan") | body.escaped
            return step._replace(uses=uses, escaped=lost, body=body)
        case Escaped(primitive):
            return step._replace(escaped=dict.fromkeys(leaves_in(seen), primitive))


def _with_views(step: Step, results: Sequence[Sequence[Any]], numbers: Iterator[int]) -> Step:
    """The step whose results hold parameters; an operand that their last maps need gets a number, one for all."""
    number_of: dict[int, int] = {}
    facts = []
    for result, fact in zip(results, step.results, strict=True):
        views = []
        for view, operand in result:
            if operand is not None and operand not in number_of:
                number_of[operand] = next(numbers)
            views.append(view if operand is None else view.with_value(number_of[operand]))
        facts.append(Fact(tuple(views), fact.varies))
    return step._replace(results=tuple(facts), values=tuple((n, operand) for operand, n in number_of.items()))


def leaves_in(facts: Iterable[Fact]) -> list[int]:
    """The parameters that values hold."""
    return sorted({view.leaf for fact in facts for view in fact.views})
