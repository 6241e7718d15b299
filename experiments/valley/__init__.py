"""Beyond Theorem 5.2: where SGD settles on the minima, how it turns there, and its drift along other valleys."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Valley(Study):
    """Beyond Theorem 5.2: where SGD settles on the minima, how it turns there, and its drift along other valleys."""
