"""Figure 3: whether SGD ends flatter or sharper than the balanced minimum depends on the data."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class FlatOrSharp(Study):
    """Figure 3: whether SGD ends flatter or sharper than the balanced minimum depends on the data."""
