"""In a training loop of the user's own: moving its parameters along their orbits."""

from ._rebalance import RebalanceState, rebalance

__all__ = ["RebalanceState", "rebalance"]
