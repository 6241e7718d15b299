"""The exact statements of the paper as identities, checked to rounding on random instances."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Identities(Study):
    """The exact statements of the paper as identities, checked to rounding on random instances."""
