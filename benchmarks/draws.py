"""Random numbers in one pass against those of JAX: `python -m benchmarks.draws [REPEATS]`.

Nanoseconds per number on one device, by the shape of a sample, drawn with a key for each sample as `Stream` does it;
medians of interleaved runs of a compiled loop, in which every batch is used twice. float32.
"""

import math
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from noise_equilibrium._random import in_one_pass

from ._timing import measure

STEPS = 20
SAMPLERS: dict[str, Callable[..., Any]] = {
    "bits": lambda key, shape: jax.random.bits(key, shape) >> 8,
    "uniform": jax.random.uniform,
    "normal": jax.random.normal,
    "exponential": jax.random.exponential,
}
# runs, samples of a batch, shape of a sample
BATCHES = [(256, 10, (10,)), (256, 10, (2, 10)), (256, 16, (2, 32)), (32, 100, (2, 100)), (1, 1, (65536,))]


def drawn(
    sampler: Callable[..., Any], size: int, shape: tuple[int, ...], way: Callable[..., Any]
) -> Callable[..., Any]:
    """A loop that draws batches and adds up their sum and their largest number."""

    def batch(key: Any) -> Any:
        return jax.vmap(lambda key: sampler(key, shape))(jax.random.split(key, size))

    def step(total: Any, key: Any) -> tuple[Any, None]:
        numbers = way(batch)(key)
        return total + jnp.sum(numbers, dtype=jnp.float32) + jnp.max(numbers).astype(jnp.float32), None

    return lambda key: jax.lax.scan(step, jnp.zeros(()), jax.random.split(key, STEPS))[0]


def main(repeats: int = 9) -> None:
    """Print the table."""
    device, machine, python = jax.devices()[0].device_kind, platform.machine(), platform.python_version()
    print(f"jax {jax.__version__}, {device}, {machine}, Python {python}; ns per number: JAX, in one pass")
    print(f"{'runs × batch × sample':24}" + "".join(f"{name:>18}" for name in SAMPLERS))
    for runs, size, shape in BATCHES:
        keys, row = jax.random.split(jax.random.key(0), runs), ""
        for sampler in SAMPLERS.values():
            ways = {"JAX": lambda function: function, "in one pass": in_one_pass}
            loops = {name: jax.vmap(drawn(sampler, size, shape, way)) for name, way in ways.items()}
            count = STEPS * runs * size * math.prod(shape)
            plain, fast = (timing.run_seconds / count * 1e9 for timing in measure(loops, (keys,), repeats).values())
            row += f"{plain:11.2f}{fast:7.2f}"
        print(f"{f'{runs} × {size} × {shape}':24}{row}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
