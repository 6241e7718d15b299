"""Deep (leaky) ReLU networks with biases, ℓ = ‖f(x) − y‖², and one rescaling per hidden neuron.

    h_0 = x,    h_i = φ(W_i h_{i−1} + b_i) for i < D,    f(x) = W_D h_{D−1} + b_D,    φ(z) = max(z, slope × z).

φ is homogeneous of degree 1, so a neuron's incoming weights and bias may grow by a factor by which its outgoing weights
shrink. The charge of neuron j of layer i is ‖W_i[j]‖² + b_i[j]² − ‖W_{i+1}[:, j]‖².
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._symmetry import Symmetry, neuron_rescaling
from .._validate import integer


class Layer(NamedTuple):
    """One layer: `weight` is W_i of shape (d_i, d_{i−1}), `bias` is b_i."""

    weight: Float[Array, "d_out d_in"]
    bias: Float[Array, " d_out"]


Params = list[Layer]
"""The layers, in the order in which they act."""


def init(key: PRNGKeyArray, d_in: int, widths: Sequence[int], d_out: int, bias: float = 0.0) -> Params:
    """Independent normal weights of variance 2/fan-in, 1/fan-in in the last layer.

    Args:
        key: a JAX PRNG key, not the one of the run's noise.
        d_in: d_x.
        widths: the hidden widths d_1, …, d_{D−1}.
        d_out: d_y.
        bias: the standard deviation of the biases.
    """
    sizes = [d_in, *widths, d_out]
    layers = []
    for place, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        weight_key, bias_key = jax.random.split(jax.random.fold_in(key, place))
        # ReLU keeps half of the second moment of what is symmetric around 0; behind the last layer there is none.
        gain = 1.0 if place == len(widths) else 2.0
        weight = (gain / inner) ** 0.5 * jax.random.normal(weight_key, (outer, inner))
        layers.append(Layer(weight, bias * jax.random.normal(bias_key, (outer,))))
    return layers


class Network(eqx.Module):
    """A (leaky) ReLU network of any depth; call `network.loss(params, sample)`.

    Args:
        slope: of φ below 0; 0 for ReLU.
    """

    slope: float = 0.0

    def predict(self, params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
        """f(x)."""
        *hidden, last = params
        for weight, bias in hidden:
            x = jax.nn.leaky_relu(x @ weight.T + bias, self.slope)
        return x @ last.weight.T + last.bias

    def loss(self, params: Params, sample: tuple[Float[Array, " d_x"], Float[Array, " d_y"]]) -> Float[Array, ""]:
        """‖f(x) − y‖²; no factor ½, summed over outputs."""
        x, y = sample
        return jnp.sum((self.predict(params, x) - y) ** 2)


relu, leaky_relu = Network(), Network(0.1)


def symmetries(depth: int) -> list[Symmetry]:
    """One rescaling per neuron for each of the D − 1 hidden layers; together they commute.

    Args:
        depth: D.

    Raises:
        ValueError: if D is no integer of at least 2.
    """
    return [_of_layer(place) for place in range(integer(depth, "depth", 2, "one layer has no hidden neurons") - 1)]


def _of_layer(place: int) -> Symmetry:
    return neuron_rescaling(
        [(lambda params: params[place].weight, 0), (lambda params: params[place].bias, 0)],
        (lambda params: params[place + 1].weight, 1),
    )
