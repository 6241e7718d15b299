"""Low-rank adapters: where SGD takes them from several starts, and what balancing them changes, in paired runs."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class Lora(Study):
    """Low-rank adapters: where SGD takes them from several starts, and what balancing them changes, in paired runs."""
