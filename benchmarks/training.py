"""In a training loop: what it costs to measure, to move along the orbits, and to search for symmetries."""

import itertools
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

import noise_equilibrium as ne
from benchmarks._timing import measure
from benchmarks.decoder import decoder

RATE = 0.01
EVERY = 100


def two_layers(width: int, samples: int) -> tuple[ne.Problem, Any]:
    """A tanh network with square loss."""
    keys = map(jax.random.key, itertools.count())

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape)

    params = {"down": normal(width, width) / width**0.5, "up": normal(width, width) / width**0.5}
    loss = lambda p, z: jnp.sum((p["up"] @ jnp.tanh(p["down"] @ z[0]) - z[1]) ** 2)  # noqa: E731
    return ne.Problem(loss, (normal(samples, width), normal(samples, width))), params


def row(name: str, gradient: float, seconds: float, compiled: float) -> None:
    """One line, in units of what it is compared with."""
    print(f"{name:58}{seconds / gradient:8.3f}{compiled:10.1f} s", flush=True)


def of_noise_scale(name: str, problem: ne.Problem, params: Any, repeats: int) -> None:
    """`gradient_noise_scale`, and what one would write by hand, in gradients."""

    def by_hand(problem: ne.Problem, params: Any) -> Any:
        each = jax.vmap(jax.grad(problem.loss), (None, 0))(params, problem.data)
        return jax.tree.map(lambda g: (jnp.sum(g**2) / len(g), jnp.sum(jnp.mean(g, 0) ** 2)), each)

    functions = {
        "gradient_noise_scale": lambda problem, p: ne.gradient_noise_scale(problem, p).scale,
        "vmap(grad)": by_hand,
    }
    # Each by itself with the gradient: what runs after all per-sample gradients pays for the memory that they took.
    for function, one in functions.items():
        pair = {"gradient": lambda problem, p: jax.grad(problem.risk)(p), function: one}
        timing = measure(pair, (problem, params), repeats)
        found = timing[function]
        row(f"{name}: {function}", timing["gradient"].run_seconds, found.run_seconds, found.compile_seconds)


def of_steps(problem: ne.Problem, params: Any, symmetries: list[ne.Symmetry], repeats: int) -> None:
    """A training step with all symmetries measured, or moved to their equilibrium, every so often."""
    adam = optax.adam(1e-3)
    tx = optax.chain(adam, ne.rebalance(problem.loss, symmetries, every=EVERY))
    dynamics = ne.SGD(RATE, 4)

    def plain(params: Any, state: Any, data: Any) -> Any:
        updates, state = adam.update(jax.grad(ne.Problem(problem.loss, data).risk)(params), state, params)
        return optax.apply_updates(params, updates), state

    def measured(params: Any, state: Any, data: Any) -> Any:
        here = ne.measure(ne.Problem(problem.loss, data), params, symmetries, gradient=True)
        flows = [ne.noether_flow(one, dynamics) for one in here]  # pyright: ignore[reportCallIssue]
        updates, state = adam.update(here[0].gradient, state, params)
        return optax.apply_updates(params, updates), state, flows

    def rebalanced(params: Any, state: Any, data: Any) -> Any:
        gradient = jax.grad(ne.Problem(problem.loss, data).risk)(params)
        updates, state = tx.update(gradient, state, params, data=data)
        return optax.apply_updates(params, updates), state

    def alone(params: Any, state: Any, data: Any) -> Any:
        return plain(params, state[0], data)

    def last(params: Any, state: Any, data: Any) -> Any:
        state = (state[0], state[1]._replace(updates=jnp.asarray(EVERY - 1, jnp.int32)))
        return rebalanced(params, state, data)

    timing = measure({"plain": plain, "measured": measured}, (params, adam.init(params), problem.data), repeats)
    arguments = params, tx.init(params), problem.data
    # In turn with a plain step only: what runs after a motion pays for the memory that it took, once in 100 steps.
    still = measure({"plain": alone, "between": rebalanced}, arguments, repeats)
    moved = measure({"plain": alone, "moving": last}, arguments, repeats)
    step = timing["plain"].run_seconds
    every = timing["measured"].run_seconds
    row("decoder: step that measures every symmetry", step, every, timing["measured"].compile_seconds)
    row(f"decoder: … every {EVERY} steps", step, step + (every - step) / EVERY, 0.0)
    between = still["between"].run_seconds / still["plain"].run_seconds
    moving = moved["moving"].run_seconds / moved["plain"].run_seconds
    mean = between + (moving - between) / EVERY
    compiled = still["between"].compile_seconds
    row(f"decoder: step with rebalance every {EVERY} steps, mean", 1.0, mean, compiled)
    row("decoder: … a step that does not move", 1.0, between, 0.0)
    row("decoder: … the step that moves", 1.0, moving, 0.0)


def main(width: int = 256, layers: int = 2, repeats: int = 5) -> None:
    """Print the table."""
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32; in gradients or in steps; compilation")
    of_noise_scale("two layers 256/256, N = 1024", *two_layers(256, 1024), repeats)
    problem, params, symmetries = decoder(width, layers)
    of_noise_scale(f"decoder {layers} × {width}", problem, params, repeats)
    of_steps(problem, params, symmetries, repeats)
    start = time.perf_counter()
    found = ne.find_symmetries(problem, params)
    print(f"find_symmetries: {len(found)} symmetries in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
