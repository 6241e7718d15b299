"""What a search returns: symmetries that say where they come from, and a list of them that says what is missing."""

from collections.abc import Iterable, Sequence

import equinox as eqx
from jaxtyping import PyTree

from .._problem import Problem
from .._symmetry import Leg, Symmetry
from ._agreement import compared
from ._derivatives import leaf_names


class FoundSymmetry(Symmetry):
    """A symmetry that was found by number: an ordinary `Symmetry`, with its description and the evidence for it.

    Attributes:
        description: paths, parts and group, as `str` prints them.
        violation: the slope of the loss along it, relative to the terms that cancel: about the rounding error of the
            dtype for a symmetry, larger for one that is `Symmetries.broken`.
        gap: how sure it is: by how many times the smallest singular value that is none of the null space exceeds the
            violation; 1 for one that is broken.
    """

    description: str = eqx.field(static=True)
    violation: float = eqx.field(static=True)
    gap: float = eqx.field(static=True)

    def __init__(self, legs: Sequence[Leg], algebra: str, description: str, violation: float, gap: float):
        super().__init__(legs, algebra)
        self.description = description
        self.violation = violation
        self.gap = gap

    def __str__(self) -> str:
        return self.description


class Symmetries(list[FoundSymmetry]):
    """The symmetries of a loss, and what a search for them has to say besides.

    Attributes:
        broken: scalings that nearly are symmetries, the least broken first: their `violation` says by how much.
        beyond: descriptions of symmetries that no `Symmetry` can hold, because an entry would be in two of its legs: a
            linear recurrence A → P A P⁻¹. If P is diagonal and of 32 entries at most, each entry of it is a symmetry
            of the list.
        ignored: paths of parameters that the loss ignores: their gradient is zero.
        looked: on how much the result rests, a sentence.
    """

    def __init__(
        self,
        found: Iterable[FoundSymmetry],
        broken: Iterable[FoundSymmetry] = (),
        beyond: Iterable[str] = (),
        ignored: Iterable[str] = (),
        looked: str = "",
    ):
        super().__init__(found)
        self.broken = tuple(broken)
        self.beyond = tuple(beyond)
        self.ignored = tuple(ignored)
        self.looked = looked

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "no symmetries"

    def reason(self) -> str:
        """What was found and what was not, and why: for a reader, in a few lines."""
        lines = [self.looked]
        lines += [f"symmetry: {one} (violation {one.violation:.1e}, gap {one.gap:.1e})" for one in self]
        if not self and not self.beyond:
            lines.append("no symmetry: no scaling of slices of axes leaves the loss of every sample unchanged")
        lines += [f"symmetry that legs cannot express: {one}" for one in self.beyond]
        lines += [f"broken by {one.violation:.1e}: {one}" for one in self.broken]
        lines += [f"ignored by the loss: {name}" for name in self.ignored]
        return "\n".join(lines)

    def program(self, problem: Problem, params: PyTree) -> str:
        """What a second finder says, which reads the program of the loss and measures nothing: a sentence.

        Every entry of every value has a scale; products multiply scales, sums ask that those of their terms are equal,
        and all else that its arguments do not change. The scalings that are left, of up to 2000 parameters, are
        compared with those of this list. Where the two differ the number decides: the reader knows no convolutions,
        and nothing of what cancels.

        Args:
            problem: whose symmetries these are.
            params: its parameters.
        """
        return compared(problem, params, self, leaf_names(params), set(self.ignored))
