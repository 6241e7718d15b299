"""A pretrained ReLU network for digits with adapters W + BA on its layers, and the starts that they can have."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import noise_equilibrium as ne
from experiments import _networks as networks
from noise_equilibrium.models import deep_relu

RANK = 4
TRAINED = 1200  # images; the others are held out
PRETRAINING = ne.SGD(0.1, 8)


class Adapter(NamedTuple):
    """What is trained: W + BA."""

    b: Float[Array, "d_out rank"]
    a: Float[Array, "rank d_in"]


Adapters = list[Adapter]
Data = tuple[Array, Array]


def _of_layer(place: int) -> ne.Symmetry:
    return ne.double_rotation(lambda params: params[place].b, lambda params: params[place].a)


SYMMETRIES = [_of_layer(place) for place in range(len(networks.WIDTHS) + 1)]
"""B → BP, A → P⁻¹A of every layer, with the charges Q = BᵀB − AAᵀ."""


def rotated() -> tuple[Data, Data]:
    """The digits turned by a quarter, to adapt to: training images, and those that are held out."""
    x, labels = networks.digits()
    turned = jnp.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    return (turned[:TRAINED], labels[:TRAINED]), (turned[TRAINED:], labels[TRAINED:])


def product(adapters: Adapters) -> list[Array]:
    """BA of every layer."""
    return [one.b @ one.a for one in adapters]


def logits(frozen: deep_relu.Params, adapters: Adapters, x: Array) -> Array:
    """Of the network whose weights are W + BA; biases are frozen."""
    layers = [
        layer._replace(weight=layer.weight + change) for layer, change in zip(frozen, product(adapters), strict=True)
    ]
    return deep_relu.relu.predict(layers, x)


def loss(frozen: deep_relu.Params, adapters: Adapters, sample: Data) -> Array:
    """The softmax loss."""
    x, label = sample
    return -jax.nn.log_softmax(logits(frozen, adapters, x))[label]


def problem_of(frozen: deep_relu.Params, data: Data) -> ne.Problem:
    """Without weight decay; the frozen weights are part of the problem, so that every run may have its own."""
    return ne.Problem(jax.tree_util.Partial(loss, frozen), data)


def usual(base: deep_relu.Params, key: Array) -> Adapters:
    """B = 0 and A normal of variance 1/d_in."""
    return [one._replace(b=jnp.zeros_like(one.b)) for one in both_random(base, key)]


def both_random(base: deep_relu.Params, key: Array, size: float = 1.0) -> Adapters:
    """Both sides normal, of variance 1/d_in and 1/rank, as they would be for layers of their own; times `size`."""
    found = []
    for place, layer in enumerate(base):
        left, right = jax.random.split(jax.random.fold_in(key, place))
        outer, inner = layer.weight.shape
        b, a = jax.random.normal(left, (outer, RANK)) / RANK**0.5, jax.random.normal(right, (RANK, inner)) / inner**0.5
        found.append(Adapter(size * b, size * a))
    return found


def without(base: deep_relu.Params, adapters: Adapters) -> deep_relu.Params:
    """The frozen weights with which the network starts as it was pretrained, W − BA."""
    return [layer._replace(weight=layer.weight - change) for layer, change in zip(base, product(adapters), strict=True)]


def conditioning(adapters: Adapters) -> Array:
    """For every layer the condition number of (dB, dA) → dB A + B dA on the directions that it reaches.

    Its squared singular values are σ_i(B)² + σ_j(A)², with 0 for directions that one side does not reach.
    """
    found = []
    for b, a in adapters:
        left, right = (jnp.linalg.eigvalsh(gram) for gram in (b.T @ b, a @ a.T))
        found.append((left[-1] + right[-1]) / jnp.minimum(left[0], right[0]))
    return jnp.stack(found) ** 0.5
