"""Many seeds of one small network: `python -m benchmarks.sweep [REPEATS]`.

A two-layer linear network is trained by SGD on fresh Gaussian samples. Every row is one size; every column one way to
repeat it over seeds, in µs per seed and step, measured in turn in one process with two virtual CPU devices. `sweep` is
what `noise_equilibrium.sweep` does for a unit of work after it has been compiled: keys, computation, results brought to
the host. `by hand` is a vmapped `lax.scan` on one device. PyTorch columns appear if it is installed. float32.
"""

import functools
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noise_equilibrium as ne
from noise_equilibrium._sweep._axes import read_axes, read_seeds
from noise_equilibrium._sweep._dataset import attributes_of
from noise_equilibrium._sweep._engine import Engine
from noise_equilibrium._sweep._plan import Plan, make_plan
from noise_equilibrium._sweep._store import open_store

SEEDS = 256
RATE = 1e-3
# d, width, S, and steps for some tenths of a second.
SIZES = [(10, 10, 10, 100), (32, 32, 16, 50), (100, 100, 100, 4)]

Run = Callable[..., dict[str, jax.Array]]


def library_run(d: int, width: int, batch: int, steps: int) -> Run:
    """The run as a user of the library writes it."""

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jax.random.normal(key, (2, d))
        return z[0], z[0] + z[1]

    linear = ne.models.two_layer_linear
    problem = ne.Problem(linear.loss, ne.Stream(draw))

    def run(key: jax.Array, *, rate: Any) -> dict[str, jax.Array]:
        start, noise = jax.random.split(key)
        params = linear.init(start, d, width, d)
        trained = ne.simulate(problem, ne.SGD(rate, batch), params, steps, key=noise, every=steps)
        return {"norm": jnp.sum(trained.params.up**2) + jnp.sum(trained.params.down**2)}

    return run


def by_hand(d: int, width: int, batch: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """What one writes without the library: a vmapped scan, the same model, samples and steps."""

    def loss(weights: tuple[jax.Array, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        up, down = weights
        return jnp.sum((x @ down.T @ up.T - y) ** 2) / batch

    def one(key: jax.Array) -> jax.Array:
        start, noise = jax.random.split(key)
        up, down = (
            jax.random.normal(k, shape) / d**0.5
            for k, shape in zip(jax.random.split(start), ((d, width), (width, d)), strict=True)
        )

        def step(weights: Any, t: jax.Array) -> tuple[Any, None]:
            z = jax.random.normal(jax.random.fold_in(noise, t), (2, batch, d))
            gradient = jax.grad(loss)(weights, z[0], z[0] + z[1])
            return tuple(w - RATE * g for w, g in zip(weights, gradient, strict=True)), None

        weights, _ = jax.lax.scan(step, (up, down), jnp.arange(steps))
        return sum((jnp.sum(w**2) for w in weights), jnp.zeros(()))

    return jax.jit(jax.vmap(one))


def numpy_seeds(d: int, width: int, batch: int, steps: int) -> Callable[[], Any]:
    """All seeds at once in NumPy, the gradient by hand."""
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal((SEEDS, *shape), np.float32) / d**0.5 for shape in ((d, width), (width, d)))
    up, down = up.astype(np.float32), down.astype(np.float32)

    def train() -> None:
        u, w = up, down
        for _ in range(steps):
            z = rng.standard_normal((2, SEEDS, batch, d), np.float32)
            x, y = z[0], z[0] + z[1]
            hidden = x @ w.mT
            error = (2 / batch) * (hidden @ u.mT - y)
            u, w = u - np.float32(RATE) * (error.mT @ hidden), w - np.float32(RATE) * ((error @ u).mT @ x)

    return train


def torch_ways(d: int, width: int, batch: int, steps: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """A loop over steps of one seed, and `torch.func.vmap` over all seeds; each with the number of its seeds."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}

    def init(*seeds: int) -> list[Any]:
        return [torch.randn(*seeds, *shape) / d**0.5 for shape in ((d, width), (width, d))]

    def loss(up: Any, down: Any, x: Any, y: Any) -> Any:
        return ((x @ down.mT @ up.mT - y) ** 2).sum() / batch

    def loop() -> None:
        torch.set_num_threads(1)  # matrices this small only lose by a second thread
        weights = [w.requires_grad_() for w in init()]
        optimizer = torch.optim.SGD(weights, lr=RATE)
        for _ in range(steps):
            x = torch.randn(batch, d)
            optimizer.zero_grad()
            loss(weights[0], weights[1], x, x + torch.randn(batch, d)).backward()
            optimizer.step()

    gradient = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))

    def vmapped() -> None:
        torch.set_num_threads(2)
        up, down = init(SEEDS)
        for _ in range(steps):
            x = torch.randn(SEEDS, batch, d)
            g_up, g_down = gradient(up, down, x, x + torch.randn(SEEDS, batch, d))
            up, down = up - RATE * g_up, down - RATE * g_down

    return {"torch loop": (loop, 1), "torch vmap": (vmapped, SEEDS)}


def plan_of(run: Run, rates: list[float], unit: int | None) -> Plan:
    """The plan of a sweep over rates and seeds."""
    return make_plan(run, read_axes({"rate": rates}), read_seeds(SEEDS), jax.random.key(0), unit)


def engine_of(run: Run, plan: Plan) -> Engine:
    """What computes the units of a plan."""
    return Engine(run, plan.grid, plan.key, [output.name for output in plan.recorded], plan.programs)


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The seconds of each, measured A B C A B C …, after one call that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def seed_steps(repeats: int) -> None:
    """The table of µs per seed and step."""
    names = ["sweep", "by hand", "NumPy", "torch vmap", "torch loop"]
    print(
        f"{'(d, width, S)':16}"
        + "".join(f"{name:>12}" for name in names)
        + f"{'sweep/hand':>12}{'(best)':>8}{'loop/sweep':>12}"
    )
    for d, width, batch, steps in SIZES:
        run = library_run(d, width, batch, steps)
        plan = plan_of(run, [RATE], SEEDS)
        engine, (unit,) = engine_of(run, plan), plan.grid.units()
        keys = jax.device_put(jax.random.split(jax.random.key(1), SEEDS), jax.local_devices()[0])
        scan = by_hand(d, width, batch, steps)
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "sweep": (lambda engine=engine, unit=unit: engine.compute(unit), SEEDS),
            "by hand": (lambda scan=scan, keys=keys: jax.block_until_ready(scan(keys)), SEEDS),
            "NumPy": (numpy_seeds(d, width, batch, steps), SEEDS),
            **torch_ways(d, width, batch, steps),
        }
        seconds = in_turn({name: way for name, (way, _) in ways.items()}, repeats)
        cost = {name: statistics.median(seconds[name]) / steps / ways[name][1] * 1e6 for name in ways}
        row = "".join(f"{cost[name]:12.2f}" if name in cost else f"{'—':>12}" for name in names)
        best = min(seconds["sweep"]) / min(seconds["by hand"])  # on a busy machine, two cores cannot beat one
        loop = f"{cost['torch loop'] / cost['sweep']:12.0f}" if "torch loop" in cost else f"{'—':>12}"
        print(f"{(d, width, batch)!s:16}{row}{cost['sweep'] / cost['by hand']:12.2f}{best:8.2f}{loop}", flush=True)


def throughput(repeats: int) -> None:
    """The table of millions of steps per second against the number of seeds."""
    d, width, batch, steps = SIZES[0]
    run, ways = library_run(d, width, batch, steps), {}
    for seeds in (16, 256, 4096, 65_536):
        plan = make_plan(run, read_axes({"rate": [RATE]}), read_seeds(seeds), jax.random.key(0), seeds)
        ways[f"{seeds}"] = functools.partial(engine_of(run, plan).compute, plan.grid.units()[0])
    seconds = in_turn(ways, repeats)
    millions = ", ".join(f"{name}: {int(name) * steps / statistics.median(seconds[name]) / 1e6:.2f}" for name in ways)
    print(f"seeds: millions of steps per second at {(d, width, batch)}: {millions}")


def store_share(repeats: int) -> None:
    """What writing a unit adds, in a sweep that chooses its units itself."""
    (d, width, batch, _), steps = SIZES[1], 2000
    run = library_run(d, width, batch, steps)
    plan = plan_of(run, [RATE, 2 * RATE], None)
    engine, unit = engine_of(run, plan), plan.grid.units()[0]
    block = engine.compute(unit)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "store", plan, attributes_of(plan))
        ways = {"compute": lambda: engine.compute(unit), "write": lambda: store.write(unit, block)}
        medians = {name: statistics.median(seconds) for name, seconds in in_turn(ways, repeats).items()}
    share = 100 * medians["write"] / medians["compute"]
    print(
        f"a unit of {math.prod(unit.shape)} runs of {steps} steps at {(d, width, batch)}: {medians['compute']:.2f} s; "
        f"a store adds {medians['write'] * 1e3:.1f} ms, {share:.2f} %"
    )


def compilations() -> None:
    """How many programs are compiled for two values of a float axis, and for two hundred."""
    counted: list[float] = []

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            counted.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    run, found = library_run(4, 4, 2, 10), []
    for length in (2, 2, 200):
        counted.clear()
        rates = np.linspace(RATE, 2 * RATE, length).tolist()
        ne.sweep(run, {"rate": rates}, seeds=4, key=jax.random.key(0), unit=8, progress=False)
        found.append(len(counted))
    print(f"programs compiled for 2 values of a float axis: {found[1]}, for 200: {found[2]}")


def main(repeats: int = 15) -> None:
    """Print the tables."""
    jax.config.update("jax_num_cpu_devices", 2)
    devices, machine, python = len(jax.local_devices()), platform.machine(), platform.python_version()
    print(
        f"jax {jax.__version__}, {devices} × {jax.devices()[0].device_kind}, {machine}, Python {python}, {SEEDS} seeds"
    )
    seed_steps(repeats)
    throughput(min(repeats, 3))
    store_share(repeats)
    compilations()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
