"""ReLU networks: the charge of every neuron flows as predicted, to its own equilibrium; GD hardly moves it."""

from dataclasses import dataclass

from experiments._study import Study


@dataclass(frozen=True)
class NeuronCharges(Study):
    """ReLU networks: the charge of every neuron flows as predicted, to its own equilibrium; GD hardly moves it."""
