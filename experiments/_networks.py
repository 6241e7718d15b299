"""Small networks with softmax loss: ReLU layers and convolutions with normalisation for digits, a decoder for text."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from noise_equilibrium.models import deep_relu

WIDTHS = (32, 32)
CHANNELS = (8, 16)
WIDTH, HEADS, LENGTH, WORDS = 32, 4, 32, 128  # of the decoder
SOURCES = ("argparse.py", "ast.py", "json/decoder.py", "random.py", "tarfile.py", "textwrap.py")


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


def source_windows(count: int, seed: int) -> Array:
    """Pieces of LENGTH + 1 bytes of Python's standard library, whose source files every machine has."""
    folder = Path(os.__file__).parent
    text = b"".join((folder / name).read_bytes() for name in SOURCES)
    tokens = np.minimum(np.frombuffer(text, np.uint8), WORDS - 1)  # the rare bytes beyond ASCII are one word
    places = np.random.default_rng(seed).choice(len(tokens) // (LENGTH + 1), count, replace=False)
    return jnp.asarray(tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)[places], jnp.int32)


def decoder_logits(
    params: dict[str, Any],
    tokens: Array,
    heads: int = HEADS,
    floor: float = 1e-6,
) -> Array:
    """A pre-norm decoder: attention of some heads and ReLU neurons in every layer; no word on symmetries.

    Args:
        params: see `decoder_start`; of any sizes, and without gains or neurons if there are none.
        tokens: (length,).
        heads: of every layer.
        floor: what is added to the mean square that a normalisation divides by.
    """
    length = len(tokens)
    x = params["in"][tokens] + params["place"]
    mask = jnp.tril(jnp.ones((length, length), bool))
    for layer in params["layers"]:
        normed = _normed(x, layer.get("gain1", 1.0), floor)
        q, k, v = ((normed @ layer[name].T).reshape(length, heads, -1) for name in "qkv")
        scores = jnp.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1)
        x = x + jnp.einsum("hts,shd->thd", weights, v).reshape(length, -1) @ layer["o"].T
        if "up" in layer:
            x = (
                x
                + jax.nn.relu(_normed(x, layer.get("gain2", 1.0), floor) @ layer["up"].T + layer["bias"])
                @ layer["down"].T
            )
    return _normed(x, params.get("gain", 1.0), floor) @ params["out"].T


def _normed(x: Array, gain: Array | float, floor: float) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + floor) * gain


class Sizes(NamedTuple):
    """Those of a decoder.

    Attributes:
        width: of the stream.
        inside: dimensions of all heads of a layer together.
        neurons: of a layer; without any it is attention alone.
        length: of the windows.
        words: how many there are.
    """

    width: int = WIDTH
    inside: int = WIDTH
    neurons: int = 4 * WIDTH
    length: int = LENGTH
    words: int = WORDS


USUAL = Sizes()


def decoder_loss(params: dict[str, Any], tokens: Array, **options: Any) -> Array:
    """The mean softmax loss of the next byte; options of `decoder_logits`."""
    logits = jax.nn.log_softmax(decoder_logits(params, tokens[:-1], **options))
    return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], -1))


def decoder_start(key: Array, depth: int = 2, sizes: Sizes = USUAL) -> dict[str, Any]:
    """The decoder of so many layers at its start."""
    width, inside, neurons, length, words = sizes
    keys = iter(jax.random.split(key, 3 + 6 * depth))

    def matrix(rows: int, columns: int) -> Array:
        return jax.random.normal(next(keys), (rows, columns)) / columns**0.5

    def layer() -> dict[str, Array]:
        attention = {name: matrix(inside, width) for name in "qkv"}
        attention |= {"o": matrix(width, inside), "gain1": jnp.ones(width)}
        if not neurons:
            return attention
        up, down = matrix(neurons, width), matrix(width, neurons)
        return {**attention, "up": up, "bias": jnp.zeros(neurons), "down": down, "gain2": jnp.ones(width)}

    around = {"in": matrix(words, width), "place": matrix(length, width), "out": matrix(words, width)}
    return {**around, "gain": jnp.ones(width), "layers": [layer() for _ in range(depth)]}
