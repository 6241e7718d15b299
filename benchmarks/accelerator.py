"""Everything that a device decides, in one command: `python -m benchmarks.accelerator [SECONDS]`.

Five minutes on any backend of JAX, on a CPU at smaller sizes. Every section has a share of the time, goes through its
sizes from the least, and stops where the next would not fit. The tables are printed, and written to a file in `build/`
that is called after the device. float32, but where it is said.
"""

import math
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import noise_equilibrium as ne
from benchmarks._kernels import kernels_in_loops
from benchmarks._timing import measure
from benchmarks.decoder import SGD, decoder, relu_network
from benchmarks.noise_moments import two_layer

SIZES = [(10, 10, 10), (32, 32, 16), (100, 100, 100)]  # d, width, S
STEPS = 64
RATE = 1e-3
REPEATS = 3
UNROLL = (1, 2, 4, 8, 16)


def on_cpu() -> bool:
    """Whether there is nothing else."""
    return jax.default_backend() == "cpu"


class Clock:
    """The time that a section may take."""

    def __init__(self, seconds: float):
        self._end, self._last, self._longest = time.perf_counter() + seconds, time.perf_counter(), 0.0

    def more(self, sizes: Any) -> Iterator[Any]:
        """The sizes, the first always, until what the longest took so far, and twice that, no longer fits."""
        for place, size in enumerate(sizes):
            now = time.perf_counter()
            self._longest, self._last = max(self._longest * bool(place), now - self._last), now
            if place and now + 2 * self._longest > self._end:
                return
            yield size


def seconds_of(compiled: Callable[..., Any], *arguments: Any) -> float:
    """The median of some calls, after one that warms up."""
    jax.block_until_ready(compiled(*arguments))
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def many_seeds(d: int, width: int, batch: int, unroll: int | None = None) -> Callable[[jax.Array], Any]:
    """SGD on fresh samples of a two-layer linear network, as a user writes it: of many keys."""
    linear = ne.models.two_layer_linear

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jax.random.normal(key, (2, d))
        return z[0], z[0] + z[1]

    problem = ne.Problem(linear.loss, ne.Stream(draw))

    def run(key: jax.Array) -> jax.Array:
        start, noise = jax.random.split(key)
        params = linear.init(start, d, width, d)
        sgd = ne.SGD(RATE, batch)
        end = ne.simulate(problem, sgd, params, STEPS, key=noise, every=STEPS, unroll=unroll).params
        return jnp.sum(end.up**2) + jnp.sum(end.down**2)

    return jax.vmap(run)


def rate_of(function: Callable[[jax.Array], Any], seeds: int, device: Any) -> float:
    """Seed-steps in a second on a device."""
    keys = jax.device_put(jax.random.split(jax.random.key(0), seeds), device)
    return seeds * STEPS / seconds_of(jax.jit(function).lower(keys).compile(), keys)


def peak() -> float:
    """Operations per second of a large product of matrices in float32: what this device can do at best."""
    n = 1024 if on_cpu() else 8192
    square = jnp.ones((n, n))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest")).lower(square).compile()
    return 2 * n**3 / seconds_of(product, square)


def throughput(clock: Clock) -> Iterator[str]:
    """Seed-steps per second against the number of seeds, and the share of the peak that their products are."""
    best, cpu = peak(), jax.devices("cpu")[0]
    yield f"a product of matrices: {best / 1e12:.2f} Tflop/s"
    yield f"{'(d, width, S)':18}{'seeds':>10}{'M seed-steps/s':>16}{'of peak':>9}{'of the CPU':>12}"
    most = 12 if on_cpu() else 20
    for size in SIZES:
        d, width, batch = size
        flops = 10 * d * width * batch  # two products forward and three backward, of 2·d·width·S each
        here = None if on_cpu() else rate_of(many_seeds(*size), 64, cpu)
        for seeds in clock.more([16 * 4**k for k in range((most - 4) // 2 + 1)]):
            rate = rate_of(many_seeds(*size), seeds, jax.devices()[0])
            beside = "" if here is None else f"{rate / here:12.1f}"
            yield f"{size!s:18}{seeds:10}{rate / 1e6:16.3f}{100 * flops * rate / best:8.2f}%{beside}"


def turns(clock: Clock) -> Iterator[str]:
    """What steps in a turn of the loop cost and save."""
    yield f"{'(d, width, S), seeds':26}{'unroll':>8}{'µs/step':>10}{'kernels/step':>14}{'compile':>10}"
    for size, seeds in ((SIZES[0], 1), (SIZES[0], 16 if on_cpu() else 4096)):
        keys = jax.random.split(jax.random.key(0), seeds)
        for unroll in clock.more((None, *UNROLL)):
            start = time.perf_counter()
            program = jax.jit(many_seeds(*size, unroll)).lower(keys).compile()
            compilation = time.perf_counter() - start
            each = seconds_of(program, keys) / STEPS * 1e6
            kernels = kernels_in_loops(str(program.as_text())) / (unroll or 1)
            counted = f"{kernels:14.1f}" if unroll else f"{'':14}"
            yield f"{f'{size}, {seeds}':26}{unroll or 'chosen':>8}{each:10.2f}{counted}{compilation:8.1f} s"


def gradients(clock: Clock) -> Iterator[str]:
    """Moments and a step of the SDE in full-batch gradients, by width."""
    yield f"{'width':>7}{'gradient':>12}" + "".join(
        f"{name:>11}" for name in ("symmetric", "diagonal", "scalar", "SDE")
    )
    for width in clock.more((64, 128, 256, 512) if on_cpu() else (256, 512, 1024, 2048, 4096, 8192)):
        problem, params, symmetries = two_layer(jax.random.key(0), width)
        ways: dict[str, Any] = {"gradient": lambda problem, p: jax.grad(problem.risk)(p)}
        for name, one in symmetries.items():
            ways[name] = lambda problem, p, one=one: ne.noise_moments(problem, p, one)
        key, sde = jax.random.key(1), ne.SDE(0.01, 4)
        ways["SDE"] = lambda problem, p, key=key, sde=sde: sde.step(problem, p, (), key, 0)[0]
        timing = measure(ways, (problem, params), REPEATS)
        base = timing["gradient"].run_seconds
        row = "".join(f"{timing[name].run_seconds / base:11.2f}" for name in ("symmetric", "diagonal", "scalar", "SDE"))
        yield f"{width:7}{base * 1e3:9.2f} ms{row}"


def decoders(clock: Clock) -> Iterator[str]:
    """Moments of all symmetries of a decoder in gradients, in two precisions; memory as measured and as predicted."""
    yield f"{'decoder':12}{'size':>9}{'dtype':>10}{'gradient':>12}{'moments':>9}{'memory':>8}{'predicted':>11}"
    sizes = [(64, 1), (128, 2), (256, 2)] if on_cpu() else [(256, 2), (512, 3), (1024, 8)]
    for (width, layers), dtype in clock.more([(size, dtype) for size in sizes for dtype in ("float32", "bfloat16")]):
        problem, params, symmetries = decoder(width, layers)
        params = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        ways = {
            "gradient": lambda problem, p: jax.grad(problem.risk)(p),
            "moments": lambda problem, p, several=symmetries: ne.noise_moments(problem, p, several),
        }
        timing = measure(ways, (problem, params), REPEATS)
        gradient, moments = timing["gradient"], timing["moments"]
        predicted = ne.explain(problem, params, symmetries).bytes
        size = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
        yield (
            f"{f'{layers} × {width}':12}{size:7.1f} M{dtype:>10}{gradient.run_seconds * 1e3:9.2f} ms"
            f"{moments.run_seconds / gradient.run_seconds:9.2f}"
            f"{moments.temporary_bytes / gradient.temporary_bytes:8.2f}"
            f"{predicted / moments.temporary_bytes:11.2f}"
        )


def equilibria(clock: Clock) -> Iterator[str]:
    """Joint equilibria in moments."""
    yield f"{'network':26}{'sym':>5}{'moments':>12}{'joint':>8}{'compile':>10}{'residual':>11}"
    built: dict[str, Callable[[], Any]] = {
        "784–512–512–10, 500": lambda: relu_network(500),
        "decoder 1 × 64": lambda: decoder(64, 1),
        "decoder 2 × 256": lambda: decoder(256, 2),
    }
    for name in clock.more(list(built)[:2] if on_cpu() else built):
        problem, params, symmetries = built[name]()
        ways = {
            "moments": lambda problem, p, several=symmetries: ne.noise_moments(problem, p, several),
            "joint": lambda problem, p, several=symmetries: ne.find_equilibrium(problem, p, several, SGD),
        }
        timing = measure(ways, (problem, params), REPEATS)
        moments, joint = timing["moments"].run_seconds, timing["joint"]
        yield (
            f"{name:26}{len(symmetries):5}{moments * 1e3:9.2f} ms{joint.run_seconds / moments:8.1f}"
            f"{joint.compile_seconds:8.1f} s{float(joint.result.residual):11.0e}"
        )


def convolutions(clock: Clock) -> Iterator[str]:
    """Seeds of a convolutional network at once, whose convolutions are grouped, against one after the other."""
    yield f"{'channels':>9}{'seeds':>7}{'ms/seed-step':>14}{'at once/in turn':>17}{'same bits':>11}"
    images = jax.random.normal(jax.random.key(0), (64, 1, 14, 14))
    labels = jnp.arange(64) % 10

    def layer(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
        return jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME"))

    def loss(p: Any, z: Any) -> jax.Array:
        h = layer(layer(z[0][None], p["first"], 1), p["second"], 2)
        return -jax.nn.log_softmax(p["out"] @ h.ravel())[z[1]]

    problem, steps = ne.Problem(loss, (images, labels)), 4
    for channels, seeds in clock.more([(8, 8), (32, 8)] if on_cpu() else [(8, 16), (32, 16), (64, 16)]):
        shapes = {"first": (channels, 1, 3, 3), "second": (channels, channels, 3, 3), "out": (10, channels * 49)}

        def run(key: jax.Array, shapes: Any = shapes) -> Any:
            keys = jax.random.split(key, 4)
            params = {
                name: jax.random.normal(k, shape) / math.prod(shape[1:]) ** 0.5
                for (name, shape), k in zip(shapes.items(), keys, strict=False)
            }
            return ne.simulate(problem, ne.SGD(0.05, 8), params, steps, key=keys[3], every=steps).params

        keys = jax.random.split(jax.random.key(1), seeds)
        timing = measure(
            {"at once": jax.vmap(run), "in turn": lambda k, run=run: jax.lax.map(run, k)}, (keys,), REPEATS
        )
        once, turn = timing["at once"], timing["in turn"]
        pairs = zip(jax.tree.leaves(once.result), jax.tree.leaves(turn.result), strict=True)
        same = all(bool(jnp.all(a == b)) for a, b in pairs)
        each = once.run_seconds / seeds / steps * 1e3
        yield f"{channels:9}{seeds:7}{each:14.3f}{once.run_seconds / turn.run_seconds:17.2f}{same!s:>11}"


SECTIONS: dict[str, tuple[Callable[[Clock], Iterator[str]], float]] = {  # and their shares of the time
    "Many seeds": (throughput, 0.35),
    "Steps in a turn of the loop": (turns, 0.15),
    "Two layers, N = 1024": (gradients, 0.15),
    "A decoder with all its symmetries": (decoders, 0.15),
    "Joint equilibria": (equilibria, 0.12),
    "Convolutions": (convolutions, 0.08),
}


def main(seconds: int = 300) -> None:
    """Print the tables, and write them."""
    write(seconds, Path("build"))


def write(seconds: float, folder: Path) -> None:
    """The same, into a folder."""
    device = jax.devices()[0].device_kind
    name = re.sub(r"\W+", "-", device).strip("-").lower()
    path = folder / f"accelerator-{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        python = platform.python_version()
        say(f"jax {jax.__version__}, {len(jax.devices())} × {device}, {platform.machine()}, Python {python}")
        for title, (section, share) in SECTIONS.items():
            say(f"\n{title}")
            for line in section(Clock(share * seconds)):
                say(line)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
