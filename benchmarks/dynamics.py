"""`simulate` against what one would write by hand: `python -m benchmarks.dynamics [REPEATS]`.

SGD on fresh samples of a two-layer linear network, many seeds at once; one charge recorded every 100 steps.
Microseconds per seed-step, medians of interleaved runs, compiled beforehand. The hand-written scan has no divergence
detection. The rows without draws take the same batch at every step. PyTorch (a loop over the steps of one seed, and
`torch.func.vmap` over seeds) takes part where it can be imported, and NumPy runs one seed; neither records anything.
float32 on the default device.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

RATE, NOISE, STEPS = 0.01, 0.5, 100


def draw(d: int, fresh: bool) -> Callable[[Any], Any]:
    """One sample: x, and x with noise as its label; always the same one if it is not fresh."""

    def one(key: Any) -> Any:
        if not fresh:
            return jnp.ones(d), jnp.ones(d)
        x_key, noise_key = jax.random.split(key)
        x = jax.random.normal(x_key, (d,))
        return x, x + NOISE * jax.random.normal(noise_key, (d,))

    return one


def library(d: int, size: int, fresh: bool) -> Callable[..., Any]:
    """This library."""
    problem, sgd = ne.Problem(linear.loss, ne.Stream(draw(d, fresh))), ne.SGD(RATE, size)

    def run(params: Any, key: Any) -> Any:
        observe = {"charge": linear.symmetry.charge}
        end = ne.simulate(problem, sgd, params, STEPS, key=key, observe=observe, every=100)
        return end.params, end.observed, end.diverged_at

    return run


def by_hand(d: int, size: int, fresh: bool) -> Callable[..., Any]:
    """A `lax.scan` on batches that are drawn in one go."""

    def batch(key: Any) -> Any:
        if not fresh:
            return jnp.ones((size, d)), jnp.ones((size, d))
        x_key, noise_key = jax.random.split(key)
        x = jax.random.normal(x_key, (size, d))
        return x, x + NOISE * jax.random.normal(noise_key, (size, d))

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.sum((x @ params.down.T @ params.up.T - y) ** 2) / size

    def run(params: Any, key: Any) -> Any:
        def step(params: Any, index: Any) -> Any:
            gradient = jax.grad(loss)(params, *batch(jax.random.fold_in(key, index)))
            return jax.tree.map(lambda p, g: p - RATE * g, params, gradient), None

        def row(params: Any, indices: Any) -> Any:
            params, _ = jax.lax.scan(step, params, indices)
            return params, linear.symmetry.charge(params)

        return jax.lax.scan(row, params, jnp.arange(STEPS).reshape(-1, 100))

    return run


def numpy_loop(d: int, width: int, size: int) -> Callable[[], Any]:
    """One seed in NumPy."""
    generator = np.random.default_rng(0)
    up, down = (generator.normal(size=shape).astype(np.float32) / 10 for shape in ((d, width), (width, d)))

    def run() -> Any:
        nonlocal up, down
        for _ in range(STEPS):
            x = generator.standard_normal((size, d), np.float32)
            residual = x @ down.T @ up.T - x - NOISE * generator.standard_normal((size, d), np.float32)
            grads = 2 / size * residual.T @ (x @ down.T), 2 / size * (residual @ up).T @ x
            up, down = up - np.float32(RATE) * grads[0], down - np.float32(RATE) * grads[1]
        return up, down

    return run


def torch_loops(d: int, width: int, size: int, seeds: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """A loop over steps for one seed, and one that is vmapped over seeds; nothing where torch is missing."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}

    def loss(up: Any, down: Any, x: Any, y: Any) -> Any:
        return ((x @ down.T @ up.T - y) ** 2).sum() / size

    def loop() -> Any:
        params = [(torch.randn(shape) / 10).requires_grad_() for shape in ((d, width), (width, d))]
        optimiser = torch.optim.SGD(params, RATE)
        for _ in range(STEPS):
            x = torch.randn(size, d)
            optimiser.zero_grad()
            loss(params[0], params[1], x, x + NOISE * torch.randn(size, d)).backward()
            optimiser.step()

    gradient: Any = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))

    def vmapped() -> Any:
        up, down = torch.randn(seeds, d, width) / 10, torch.randn(seeds, width, d) / 10
        for _ in range(STEPS):
            x = torch.randn(seeds, size, d)
            grads = gradient(up, down, x, x + NOISE * torch.randn(seeds, size, d))  # pyright: ignore[reportCallIssue]
            up, down = up - RATE * grads[0], down - RATE * grads[1]

    return {"PyTorch loop": (loop, 1), "torch.func vmap": (vmapped, seeds)}


def main(repeats: int = 7) -> None:
    """Print the table."""
    device, machine, python = jax.devices()[0].device_kind, platform.machine(), platform.python_version()
    print(f"jax {jax.__version__}, {device}, {machine}, Python {python}")
    for d, width, size, seeds in ((10, 10, 10, 256), (32, 32, 16, 256), (100, 100, 100, 32)):
        params = jax.vmap(lambda k: linear.init(k, d, width, d))(jax.random.split(jax.random.key(0), seeds))  # noqa: B023
        keys = jax.random.split(jax.random.key(1), seeds)
        runs: dict[str, tuple[Callable[[], Any], int]] = {}
        ways = {
            "simulate": library(d, size, fresh=True),
            "hand-written scan": by_hand(d, size, fresh=True),
            "simulate, no draws": library(d, size, fresh=False),
            "scan, no draws": by_hand(d, size, fresh=False),
        }
        for name, function in ways.items():
            program = jax.jit(jax.vmap(function)).lower(params, keys).compile()
            runs[name] = (lambda program=program: jax.block_until_ready(program(params, keys)), seeds)  # noqa: B023
        runs |= {"NumPy loop": (numpy_loop(d, width, size), 1)} | torch_loops(d, width, size, seeds)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats + 1):
            for name, (function, count) in runs.items():
                start = time.perf_counter()
                function()
                if repeat:  # the first warms up
                    taken[name].append((time.perf_counter() - start) / STEPS / count * 1e6)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        print(f"d = {d}, width {width}, S = {size}, {seeds} seeds")
        for name, median in medians.items():
            print(f"  {name:20}{median:9.2f} µs{median / medians['hand-written scan']:9.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
