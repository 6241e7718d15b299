"""SGD on adapters, with and without a motion along their orbits every few steps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import noise_equilibrium as ne
from experiments.lora.adapters import SYMMETRIES, Adapters, conditioning, logits, loss, problem_of, product, rotated
from noise_equilibrium.models import deep_relu

BATCH = 8
RECORDS = 20
Run = tuple[deep_relu.Params, Adapters, Array, Array]
"""Frozen weights, adapters at the start, the key of the minibatches, the learning rate."""


@partial(jax.jit, static_argnames=("steps", "every", "to"))
def train(runs: Run, steps: int, every: int, to: str | None) -> dict[str, Any]:
    """Runs, one after the other: a motion is a branch that is taken now and then, and under `vmap` always."""
    return jax.lax.map(lambda run: _train(run, steps, every, to), runs)


def _train(run: Run, steps: int, every: int, to: str | None) -> dict[str, Any]:
    frozen, start, key, rate = run
    data, held_out = rotated()
    of_sample = jax.tree_util.Partial(loss, frozen)
    tx: Any = optax.sgd(rate)
    if to is not None:
        law = ne.SGD(rate, BATCH) if to == "noise" else None
        tx = optax.chain(tx, ne.rebalance(of_sample, SYMMETRIES, every=every, to=to, dynamics=law))

    def step(carry: tuple[Any, Any], place: Array) -> tuple[tuple[Any, Any], None]:
        adapters, state = carry
        picked = jax.random.randint(jax.random.fold_in(key, place), (BATCH,), 0, len(data[0]))
        batch = jax.tree_util.tree_map(lambda leaf: leaf[picked], data)
        gradient = jax.grad(lambda one: jnp.mean(jax.vmap(of_sample, (None, 0))(one, batch)))(adapters)
        more = {} if to is None else {"data": data}  # where to go is decided by all of the data, the step by a batch
        updates, state = tx.update(gradient, state, adapters, **more)
        return (optax.apply_updates(adapters, updates), state), None

    def segment(carry: tuple[Adapters, Any], place: Array) -> tuple[tuple[Adapters, Any], dict[str, Array]]:
        each = steps // RECORDS
        carry = jax.lax.scan(step, carry, place * each + jnp.arange(each))[0]
        return carry, observe(carry[0])

    def observe(adapters: Adapters) -> dict[str, Array]:
        right = jnp.argmax(jax.vmap(lambda x: logits(frozen, adapters, x))(held_out[0]), axis=1) == held_out[1]
        moved = [jnp.sum((now - before) ** 2) for now, before in zip(product(adapters), product(start), strict=True)]
        return {
            "loss": problem_of(frozen, data).risk(adapters),
            "right": jnp.mean(right),
            "conditioning": conditioning(adapters),
            "distance": jnp.sqrt(sum(moved, jnp.zeros(()))),
            "imbalance": imbalance(adapters),
        }

    (end, _), seen = jax.lax.scan(segment, (start, tx.init(start)), jnp.arange(RECORDS))
    first = observe(start)
    seen = jax.tree_util.tree_map(lambda one, more: jnp.concatenate([one[None], more]), first, seen)
    return {**seen, "end": end}


def imbalance(adapters: Adapters) -> Array:
    """‖Q‖/(‖BᵀB‖ + ‖AAᵀ‖) of every layer: 0 where balanced, 1 where one side is 0."""
    sides = [(one.b.T @ one.b, one.a @ one.a.T) for one in adapters]
    norm = jnp.linalg.norm
    return jnp.stack([norm(left - right) / (norm(left) + norm(right)) for left, right in sides])


@partial(jax.jit, static_argnames=("steps",))
def charges(runs: Run, steps: int) -> dict[str, Array]:
    """Traces of charges along runs of SGD, twenty times as dense in the first twentieth, with their expected steps.

    "law" is the trace of E[ΔQ] = η²(M₊/S + M̄₊ − M₋/S − M̄₋), M the Grams of the noise and M̄ of the mean gradient;
    "flow" is the norm of that matrix over the sum of the norms of both sides.
    """

    def one(run: Run) -> dict[str, Array]:
        frozen, start, key, rate = run
        problem = problem_of(frozen, rotated()[0])

        def observe(adapters: Adapters) -> dict[str, Array]:
            changes, flows = [], []
            for moments in ne.noise_moments(problem, adapters, SYMMETRIES):
                up, down = (
                    rate**2 * (noise / BATCH + mean)
                    for noise, mean in (
                        (moments.noise_plus, moments.mean_plus),
                        (moments.noise_minus, moments.mean_minus),
                    )
                )
                changes.append(jnp.trace(up - down))
                norm = jnp.linalg.norm
                flows.append(norm(up - down) / (norm(up) + norm(down)))
            trace = jnp.stack([jnp.trace(symmetry.charge(adapters)) for symmetry in SYMMETRIES])
            return {"trace": trace, "law": jnp.stack(changes), "flow": jnp.stack(flows)}

        sgd, early = ne.SGD(rate, BATCH), steps // 20
        watch = {"all": observe}
        dense = ne.simulate(problem, sgd, start, early, key=key, observe=watch, every=early // 100)
        later = ne.resume(problem, sgd, dense, steps - early, observe=watch, every=(steps - early) // 95)
        seen = jax.tree_util.tree_map(
            lambda a, b: jnp.concatenate([a, b[1:]]), dense.observed["all"], later.observed["all"]
        )
        return {**seen, "step": jnp.concatenate([dense.step, later.step[1:]])}

    return jax.lax.map(one, runs)


@partial(jax.jit, static_argnames=("draws",))
def single_steps(run: Run, draws: int) -> Array:
    """(Tr ΔQ, ‖ΔB‖² + ‖ΔA‖²) of every layer for many minibatches at one point, of shape (draws, layers, 2)."""
    frozen, start, key, rate = run
    data, _ = rotated()

    def one(key: Array) -> Array:
        picked = jax.random.randint(key, (BATCH,), 0, len(data[0]))
        batch = jax.tree_util.tree_map(lambda leaf: leaf[picked], data)
        gradient = jax.grad(lambda a: jnp.mean(jax.vmap(lambda z: loss(frozen, a, z))(batch)))(start)
        after = jax.tree_util.tree_map(lambda leaf, slope: leaf - rate * slope, start, gradient)
        rows = []
        for symmetry, step in zip(SYMMETRIES, gradient, strict=True):
            size = rate**2 * (jnp.sum(step.b**2) + jnp.sum(step.a**2))
            rows.append(jnp.stack([jnp.trace(symmetry.charge(after) - symmetry.charge(start)), size]))
        return jnp.stack(rows)

    return jax.vmap(one)(jax.random.split(key, draws))
