"""Where a parameter meets its input: a static reading of the jaxpr of a loss."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from ._actions import Entered, Escaped, Fact, Looped, Use, Used, Viewed
from ._rules import action_of


def find_uses(jaxpr: core.Jaxpr, facts: Sequence[Fact]) -> tuple[list[Use], dict[int, str], list[Fact]]:
    """All uses of parameters, the parameters that escape and what made them, and what is known of the outputs.

    Args:
        jaxpr: the program.
        facts: what is known of its inputs.
    """
    known = dict(zip(jaxpr.invars, facts, strict=True))
    uses: list[Use] = []
    escaped: dict[int, str] = {}
    for eqn in jaxpr.eqns:
        seen = facts_of(eqn.invars, known)
        action = action_of(eqn, seen) if any(fact.views for fact in seen) else None
        known.update(zip(eqn.outvars, facts_behind(eqn, action, seen), strict=True))
        match action:
            case Used(found):
                uses += found
            case Entered(inner, _):
                found, lost, out = find_uses(inner.jaxpr, seen)
                uses += found
                escaped = lost | escaped
                known.update(zip(eqn.outvars, out, strict=True))
            case Looped():
                found, lost, out = find_uses(action.jaxpr.jaxpr, action.facts_inside(seen))
                uses += [use.looped(action.length) for use in found]
                escaped = dict.fromkeys(leaves_in(out), "the output of a scan") | lost | escaped
            case Escaped(primitive):
                escaped = dict.fromkeys(leaves_in(seen), primitive) | escaped
    return uses, escaped, facts_of(jaxpr.outvars, known)


def facts_of(variables: Sequence[Any], known: dict[Any, Fact]) -> list[Fact]:
    """What is known of variables; nothing of literals and constants."""
    return [Fact() if isinstance(var, core.Literal) else known.get(var, Fact()) for var in variables]


def facts_behind(eqn: core.JaxprEqn, action: Any, seen: Sequence[Fact]) -> list[Fact]:
    """What is known of the results of an equation, before a look into programs inside it."""
    varies = any(fact.varies for fact in seen)
    if isinstance(action, Viewed):
        return [Fact(tuple(derived.view for derived in result), varies) for result in action.results]
    return [Fact((), varies)] * len(eqn.outvars)


def leaves_in(facts: Sequence[Fact]) -> list[int]:
    """The parameters that values hold."""
    return sorted({view.leaf for fact in facts for view in fact.views})
