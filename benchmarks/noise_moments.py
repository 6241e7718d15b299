"""The noise kernel against a full-batch gradient of the same loss: `python -m benchmarks.noise_moments`.

Each row is one symmetry of one network. Time and flops are ratios to `jax.grad` of the risk in the same run, memory is
the ratio of temporary bytes. float32 on the default device. Then a step of the SDE against one of gradient descent, and
per-sample gradients: in JAX, and in other libraries where they are installed.
"""

import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import noise_equilibrium as ne
from benchmarks._peers import peer_ratios
from benchmarks._timing import Timing, measure


def two_layer(key: jax.Array, d: int = 256, n: int = 1024) -> tuple[ne.Problem, Any, dict[str, Any]]:
    """U tanh(W x), inputs and width d."""
    keys = jax.random.split(key, 4)
    params = {name: jax.random.normal(k, (d, d)) / d**0.5 for name, k in zip("uw", keys[:2], strict=True)}
    up, down = (lambda p: p["u"]), (lambda p: p["w"])

    def loss(p: Any, z: Any) -> jax.Array:
        return jnp.sum((p["u"] @ jnp.tanh(p["w"] @ z[0]) - z[1]) ** 2)

    problem = ne.Problem(loss, (jax.random.normal(keys[2], (n, d)), jax.random.normal(keys[3], (n, d))))
    return (
        problem,
        params,
        {
            "symmetric": ne.double_rotation(up, down),
            "diagonal": ne.neuron_rescaling((up, 1), (down, 0)),
            "scalar": ne.rescaling(up, down),
        },
    )


def deep(key: jax.Array, d: int = 512, n: int = 2048) -> tuple[ne.Problem, Any, dict[str, Any]]:
    """A four-layer tanh network of width d, and its three neighbouring pairs of layers in one pass."""
    keys = jax.random.split(key, 6)
    params = [jax.random.normal(k, (d, d)) / d**0.5 for k in keys[:4]]

    def loss(p: Any, z: Any) -> jax.Array:
        h = z[0]
        for layer in p[:-1]:
            h = jnp.tanh(layer @ h)
        return jnp.sum((p[-1] @ h - z[1]) ** 2)

    def layer(index: int) -> Callable[[Any], Any]:
        return lambda p: p[index]

    pairs = [(layer(i + 1), layer(i)) for i in range(3)]
    problem = ne.Problem(loss, (jax.random.normal(keys[4], (n, d)), jax.random.normal(keys[5], (n, d))))
    return (
        problem,
        params,
        {
            "3 symmetric": [ne.double_rotation(up, down) for up, down in pairs],
            "3 diagonal": [ne.neuron_rescaling((up, 1), (down, 0)) for up, down in pairs],
            "3 scalar": [ne.rescaling(up, down) for up, down in pairs],
        },
    )


def attention(key: jax.Array, d: int = 64, tokens: int = 32, n: int = 256) -> tuple[ne.Problem, Any, dict[str, Any]]:
    """One head of self-attention over T tokens: its query–key pair, and with it its value–output pair."""
    keys = jax.random.split(key, 6)
    params = {name: jax.random.normal(k, (d, d)) / d**0.5 for name, k in zip("qkvo", keys[:4], strict=True)}

    def loss(p: Any, z: Any) -> jax.Array:
        x, y = z
        scores = jax.nn.softmax((x @ p["q"].T) @ (x @ p["k"].T).T / d**0.5, axis=-1)
        return jnp.sum((scores @ (x @ p["v"].T) @ p["o"].T - y) ** 2)

    def leaf(name: str) -> Callable[[Any], Any]:
        return lambda p: p[name]

    query_key = ne.double_rotation((leaf("q"), 0), (leaf("k"), 0))
    value_output = ne.double_rotation((leaf("o"), 1), (leaf("v"), 0))
    problem = ne.Problem(loss, tuple(jax.random.normal(k, (n, tokens, d)) for k in keys[4:]))
    return problem, params, {"query–key": [query_key], "query–key, value–output": [query_key, value_output]}


def report(name: str, timings: dict[str, Timing], base_label: str) -> None:
    """Print the rows of one network: the base in its own units, the others as ratios to it."""
    base = timings.pop(base_label)
    print(f"{name:36}{f'({base_label})':26}{base.run_seconds * 1e3:5.1f} ms{'':15}{base.compile_seconds:7.1f} s")
    for label, timing in timings.items():
        ratios = (
            timing.run_seconds / base.run_seconds,
            timing.flops / base.flops,
            timing.temporary_bytes / base.temporary_bytes,
        )
        print(f"{'':36}{label:26}{ratios[0]:7.2f}{ratios[1]:7.2f}{ratios[2]:8.2f}{timing.compile_seconds:7.1f} s")


def sde_step(repeats: int) -> None:
    """A step of the SDE, random numbers included, against one of gradient descent on the same data."""
    problem, params, _ = two_layer(jax.random.key(0))
    key = jax.random.key(1)

    def step(dynamics: Any) -> Callable[..., Any]:
        return lambda problem, p: dynamics.step(problem, p, (), key, 0)[0]

    functions = {"GD step": step(ne.GD(0.01)), "SDE step": step(ne.SDE(0.01, 4))}
    report("two layers, 256/256, N = 1024", measure(functions, (problem, params), repeats), "GD step")


def per_sample_gradients(repeats: int) -> None:
    """What the kernel avoids."""
    problem, params, _ = two_layer(jax.random.key(0))

    def every(problem: Any, p: Any) -> Any:
        return jax.vmap(jax.grad(problem.loss), in_axes=(None, 0))(p, problem.data)

    functions = {"gradient": lambda problem, p: jax.grad(problem.risk)(p), "JAX vmap(grad)": every}
    report("two layers, 256/256, N = 1024", measure(functions, (problem, params), repeats), "gradient")
    for name, (seconds, ratio) in peer_ratios(repeats=repeats).items():
        print(f"{'':36}{name:36}{ratio:7.2f}  of its own gradient, {seconds * 1e3:.1f} ms")


def main(repeats: int = 25) -> None:
    """Print the tables."""
    device, machine, python = jax.devices()[0].device_kind, platform.machine(), platform.python_version()
    print(f"jax {jax.__version__}, {device}, {machine}, Python {python}")
    print(f"{'network':36}{'symmetry':26}{'time':>7}{'flops':>7}{'memory':>8}{'compile':>9}")
    for name, build in (
        ("two layers, 256/256, N = 1024", two_layer),
        ("four layers of 512, N = 2048", deep),
        ("attention, T = 32, d = 64, N = 256", attention),
    ):
        problem, params, symmetries = build(jax.random.key(0))
        # The problem is an argument too: as a constant its data would be folded into the program.
        functions: dict[str, Any] = {"gradient": lambda problem, p: jax.grad(problem.risk)(p)}
        for label, symmetry in symmetries.items():
            functions[label] = lambda problem, p, symmetry=symmetry: ne.noise_moments(problem, p, symmetry)
        report(name, measure(functions, (problem, params), repeats), "gradient")
    sde_step(repeats)
    per_sample_gradients(max(2, repeats // 10))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
