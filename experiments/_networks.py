"""Small networks for handwritten digits: layers of ReLU, and convolutions with normalisation; softmax loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from noise_equilibrium.models import deep_relu

WIDTHS = (32, 32)
CHANNELS = (8, 16)


def digits() -> tuple[Array, Array]:
    """All 64 pixels, between 0 and 1, of scikit-learn's 1797 images, and their labels."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return jnp.asarray(np.asarray(bunch.data, np.float32) / 16), jnp.asarray(np.asarray(bunch.target, np.int32))


def dense_loss(params: deep_relu.Params, sample: tuple[Array, Array]) -> Array:
    """The softmax loss of a ReLU network."""
    x, label = sample
    return -jax.nn.log_softmax(deep_relu.relu.predict(params, x))[label]


def dense_start(key: Array) -> deep_relu.Params:
    """The 64–32–32–10 network at its start."""
    return deep_relu.init(key, 64, WIDTHS, 10)


def normalised_logits(params: dict[str, Array], x: Array) -> Array:
    """Two convolutions of 3 × 3, each normalised over the places of its channel, ReLU, and a linear layer.

    No gain follows the first normalisation, and biases only shift: the scale of every filter is unseen.
    """
    h = x.reshape(1, 1, 8, 8)
    for name, stride in (("first", 1), ("second", 2)):
        h = jax.lax.conv_general_dilated(h, params[name], (stride, stride), "SAME")
        mean = jnp.mean(h, axis=(2, 3), keepdims=True)
        h = (h - mean) / jnp.sqrt(jnp.mean((h - mean) ** 2, axis=(2, 3), keepdims=True) + 1e-12)
        h = jax.nn.relu(h + params[f"{name}_bias"][:, None, None])
    return params["out"] @ jnp.mean(h, axis=(0, 2, 3)) * 4 + params["out_bias"]


def normalised_loss(params: dict[str, Array], sample: tuple[Array, Array]) -> Array:
    """Its softmax loss."""
    x, label = sample
    return -jax.nn.log_softmax(normalised_logits(params, x))[label]


def normalised_start(key: Array) -> dict[str, Array]:
    """The convolutional network at its start."""
    one, two = CHANNELS
    first, second, out = jax.random.split(key, 3)
    return {
        "first": jax.random.normal(first, (one, 1, 3, 3)) / 3,
        "first_bias": jnp.zeros(one),
        "second": jax.random.normal(second, (two, one, 3, 3)) / (9 * one) ** 0.5,
        "second_bias": jnp.zeros(two),
        "out": jax.random.normal(out, (10, two)) / two**0.5,
        "out_bias": jnp.zeros(10),
    }


FILTERS = [
    ne.Symmetry([ne.Leg(lambda params: params["first"], 0)], "diagonal"),
    ne.Symmetry([ne.Leg(lambda params: params["second"], 0)], "diagonal"),
]
"""The scale of every filter; its charge is ‖W_c‖²."""
