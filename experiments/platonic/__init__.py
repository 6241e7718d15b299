"""Beyond Theorem 5.4: networks of different depth, width and view of the data learn one representation."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Platonic(Study):
    """Beyond Theorem 5.4: networks of different depth, width and view of the data learn one representation."""
