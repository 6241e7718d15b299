"""Softmax attention: the query–key charges flow as predicted, and noise balances queries and keys; GD does not."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class AttentionCharges(Study):
    """Softmax attention: the query–key charges flow as predicted, and noise balances queries and keys; GD does not."""
