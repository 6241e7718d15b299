"""Memory of the moments of a large decoder, by compilation alone: `python -m benchmarks.memory [WIDTH] [LAYERS]`.

Nothing is allocated and nothing runs: shapes are lowered and compiled, and the compiler says what it would take. Each
row is the moments of all symmetries against a gradient of the same samples in the same parts; float32.
"""

import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import noise_equilibrium as ne
from benchmarks.decoder import HEADS, LENGTH, WORDS, decoder

SAMPLES, PART = 64, 8


class Model(NamedTuple):
    """A decoder without numbers.

    Attributes:
        loss: of parameters and tokens.
        params: their shapes.
        symmetries: those of all layers.
    """

    loss: Callable[[Any, Any], jax.Array]
    params: Any
    symmetries: list[ne.Symmetry]

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def layer_by_layer(width: int, layers: int) -> Model:
    """The decoder of `benchmarks.decoder`, whose layers are in a list."""
    kept = {}

    def params() -> Any:
        problem, params, kept["symmetries"] = decoder(width, layers)
        kept["loss"] = problem.loss
        return params

    shapes = jax.eval_shape(params)
    return Model(kept["loss"], shapes, kept["symmetries"])


def scanned(width: int, layers: int, again: bool) -> Model:
    """The same decoder with its layers stacked and scanned over.

    Args:
        width: of the residual stream.
        layers: how many.
        again: whether a layer is checkpointed: computed again in the backward pass instead of kept.
    """

    def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * gain

    def layer(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
        mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        q, k, v = ((normed(x, p["gain1"]) @ p[name].T).reshape(LENGTH, HEADS, -1) for name in "qkv")
        scores = jnp.einsum("thd,shd->hts", q, k) / (width // HEADS) ** 0.5
        attention = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1)
        x = x + jnp.einsum("hts,shd->thd", attention, v).reshape(LENGTH, width) @ p["o"].T
        return x + jax.nn.relu(normed(x, p["gain2"]) @ p["up"].T + p["bias"]) @ p["down"].T, None

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(jax.checkpoint(layer) if again else layer, params["in"][tokens[:-1]], params["layers"])
        logits = jax.nn.log_softmax(x @ params["out"].T)
        return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], -1))

    square = dict.fromkeys("qkvo", (width, width))
    wide = {"up": (4 * width, width), "bias": (4 * width,), "down": (width, 4 * width)}
    each = square | wide | {"gain1": (width,), "gain2": (width,)}
    stack = {name: jax.ShapeDtypeStruct((layers, *shape), jnp.float32) for name, shape in each.items()}
    words = {name: jax.ShapeDtypeStruct((WORDS, width), jnp.float32) for name in ("in", "out")}

    def of(name: str, pattern: str) -> tuple[Any, str]:
        return (lambda p: p["layers"][name]), pattern

    rows, columns = f"layer (head={HEADS} *) _", f"layer _ (head={HEADS} *)"
    symmetries = [
        ne.neuron_rescaling([of("up", "layer * _"), of("bias", "layer *")], of("down", "layer _ *")),
        ne.double_rotation(of("q", rows), of("k", rows)),
        ne.double_rotation(of("o", columns), of("v", rows)),
    ]
    return Model(loss, words | {"layers": stack}, symmetries)


class Bytes(NamedTuple):
    """What a compiled program takes besides its inputs."""

    temporary: int
    outputs: int


def bytes_of(function: Callable[..., Any], *shapes: Any) -> Bytes:
    """Compile a function for these shapes, and ask the compiler."""
    found: Any = jax.jit(function).lower(*shapes).compile().memory_analysis()
    return Bytes(found.temp_size_in_bytes, found.output_size_in_bytes)


def tokens(*count: int) -> jax.ShapeDtypeStruct:
    """The shape of that many samples."""
    return jax.ShapeDtypeStruct((*count, LENGTH + 1), jnp.int32)


def at_once(model: Model, samples: int) -> tuple[Bytes, Bytes]:
    """(gradient, moments) of all samples in one call each."""

    def gradient(params: Any, data: Any) -> Any:
        return jax.grad(ne.Problem(model.loss, data).risk)(params)

    def moments(params: Any, data: Any) -> Any:
        return jax.tree.leaves(ne.noise_moments(ne.Problem(model.loss, data), params, model.symmetries))

    return tuple(bytes_of(one, model.params, tokens(samples)) for one in (gradient, moments))  # pyright: ignore


def in_parts(model: Model, samples: int, part: int) -> tuple[Bytes, Bytes]:
    """(gradient, moments) summed over parts of the samples by a scan: `partial_moments` of each, added up."""

    def gradient(params: Any, data: Any) -> Any:
        def add(total: Any, batch: Any) -> Any:
            return jax.tree.map(jnp.add, total, jax.grad(ne.Problem(model.loss, batch).risk)(params)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), data)[0]

    def moments(params: Any, data: Any) -> Any:
        def of(batch: Any) -> Any:
            return ne.partial_moments(ne.Problem(model.loss, batch), params, model.symmetries)

        total, _ = jax.lax.scan(lambda total, batch: (total + of(batch), None), of(data[0]), data[1:])
        return jax.tree.leaves(total.moments())

    return tuple(bytes_of(one, model.params, tokens(samples // part, part)) for one in (gradient, moments))  # pyright: ignore


def row(name: str, model: Model, gradient: Bytes, moments: Bytes) -> None:
    """Megabytes of both, and the ratios: of temporary memory, and of all that is not an input."""
    print(
        f"{name:40}{model.size / 1e6:8.1f} M{gradient.temporary / 1e6:11.0f}{moments.temporary / 1e6:9.0f}"
        f"{moments.temporary / gradient.temporary:8.2f}{sum(moments) / sum(gradient):8.2f}",
        flush=True,
    )


def main(width: int = 1024, layers: int = 8) -> None:
    """Print the table."""
    print(f"jax {jax.__version__}, compiled for {jax.devices()[0].device_kind}; temporary MB, and with the outputs")
    print(f"{'decoder, N = 64':40}{'size':>10}{'gradient':>11}{'moments':>9}{'ratio':>8}{'all':>8}")
    plain = layer_by_layer(width, layers)
    row(f"layer by layer, parts of {PART}", plain, *in_parts(plain, SAMPLES, PART))
    for again, size in itertools.product((False, True), (PART, SAMPLES)):
        model = scanned(width, layers, again)
        row(f"scanned{', checkpointed' * again}, {size} at once", model, *at_once(model, size))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
