"""A decoder with all its symmetries, and a ReLU network: moments in gradients, and the joint equilibrium in moments."""

import itertools
import sys
from typing import Any

import jax
import jax.numpy as jnp

import noise_equilibrium as ne
from benchmarks._timing import measure

HEADS, LENGTH, WORDS, SAMPLES = 8, 64, 2000, 8
SGD = ne.SGD(0.1, 4)


def decoder(width: int, layers: int) -> tuple[ne.Problem, Any, list[ne.Symmetry]]:
    """Pre-norm attention and ReLU layers on random tokens; per layer its neurons, queries–keys and values–outputs."""
    keys = map(jax.random.key, itertools.count())

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / columns**0.5

    def layer() -> dict[str, jax.Array]:
        square = {name: matrix(width, width) for name in "qkvo"}
        wide = {"up": matrix(4 * width, width), "bias": jnp.zeros(4 * width), "down": matrix(width, 4 * width)}
        return square | wide | {"gain1": jnp.ones(width), "gain2": jnp.ones(width)}

    params = {"in": matrix(WORDS, width), "layers": [layer() for _ in range(layers)], "out": matrix(WORDS, width)}

    def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * gain

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["in"][tokens[:-1]]
        mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        for p in params["layers"]:
            q, k, v = ((normed(x, p["gain1"]) @ p[name].T).reshape(LENGTH, HEADS, -1) for name in "qkv")
            scores = jnp.einsum("thd,shd->hts", q, k) / (width // HEADS) ** 0.5
            attention = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1)
            x = x + jnp.einsum("hts,shd->thd", attention, v).reshape(LENGTH, width) @ p["o"].T
            x = x + jax.nn.relu(normed(x, p["gain2"]) @ p["up"].T + p["bias"]) @ p["down"].T
        logits = jax.nn.log_softmax(x @ params["out"].T)
        return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], -1))

    def of(layer: int, name: str, axis: int) -> tuple[Any, int]:
        return (lambda p: p["layers"][layer][name]), axis

    symmetries = []
    for i in range(layers):
        symmetries += [
            ne.neuron_rescaling([of(i, "up", 0), of(i, "bias", 0)], of(i, "down", 1)),
            ne.double_rotation(of(i, "q", 0), of(i, "k", 0), blocks=HEADS),
            ne.double_rotation(of(i, "o", 1), of(i, "v", 0), blocks=HEADS),
        ]
    tokens = jax.random.randint(next(keys), (SAMPLES, LENGTH + 1), 0, WORDS)
    return ne.Problem(loss, tokens, 1e-4), params, symmetries


def relu_network(samples: int) -> tuple[ne.Problem, Any, list[ne.Symmetry]]:
    """784–512–512–10 with biases; the neurons of both hidden layers, which share a weight."""
    keys = map(jax.random.key, itertools.count())
    widths = [784, 512, 512, 10]
    params = [
        {"w": jax.random.normal(next(keys), (b, a)) * (2 / a) ** 0.5, "b": 0.1 * jax.random.normal(next(keys), (b,))}
        for a, b in itertools.pairwise(widths)
    ]

    def loss(params: Any, sample: Any) -> jax.Array:
        h, label = sample
        for layer in params[:-1]:
            h = jax.nn.relu(layer["w"] @ h + layer["b"])
        return -jax.nn.log_softmax(params[-1]["w"] @ h + params[-1]["b"])[label]

    def of(layer: int, name: str, axis: int) -> tuple[Any, int]:
        return (lambda p: p[layer][name]), axis

    symmetries = [ne.neuron_rescaling([of(i, "w", 0), of(i, "b", 0)], of(i + 1, "w", 1)) for i in (0, 1)]
    images = jax.random.uniform(next(keys), (samples, 784))
    return ne.Problem(loss, (images, jax.random.randint(next(keys), (samples,), 0, 10)), 1e-4), params, symmetries


def table(name: str, problem: ne.Problem, params: Any, symmetries: list[ne.Symmetry], repeats: int) -> None:
    """One row: moments and moments with gradient in gradients; of the joint equilibrium the cost, and the residual."""
    functions = {
        "gradient": lambda problem, p: jax.grad(problem.risk)(p),
        "moments": lambda problem, p: [one.moments for one in ne.measure(problem, p, symmetries)],
        "both": lambda problem, p: [
            (one.moments, one.gradient) for one in ne.measure(problem, p, symmetries, gradient=True)
        ],
        "joint": lambda problem, p: ne.find_equilibrium(problem, p, symmetries, SGD),
    }
    timing = measure(functions, (problem, params), repeats)
    gradient, moments, both, joint = (timing[key] for key in functions)
    found = joint.result
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{name:22}{size / 1e6:7.1f} M{len(symmetries):5}{gradient.run_seconds:9.3f} s"
        f"{moments.run_seconds / gradient.run_seconds:9.2f}{both.run_seconds / gradient.run_seconds:10.2f}"
        f"{joint.run_seconds / moments.run_seconds:9.2f}{joint.compile_seconds:9.1f} s"
        f"{joint.temporary_bytes / gradient.temporary_bytes:9.2f}{float(found.residual):10.0e}{int(found.status):4}",
        flush=True,
    )


def main(width: int = 256, layers: int = 2, samples: int = 4000, repeats: int = 5) -> None:
    """Print the table."""
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32; joint: in moments, compilation, memory")
    print(
        f"{'network':22}{'size':>9}{'sym':>5}{'gradient':>11}{'moments':>9}{'+gradient':>10}"
        f"{'joint':>9}{'compile':>11}{'memory':>9}{'residual':>10}{'st':>4}"
    )
    table(f"decoder {layers} × {width}", *decoder(width, layers), repeats)
    table(f"784–512–512–10, {samples}", *relu_network(samples), repeats)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
