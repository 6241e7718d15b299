"""A convolutional network with normalisation, and a decoder whose symmetries nobody declared."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._networks import (
    FILTERS,
    decoder_loss,
    decoder_start,
    digits,
    normalised_loss,
    normalised_start,
    source_windows,
)
from experiments.real_networks.along import Clock, damping, follow, of_each, path, watch, watch_equilibrium

CONV_RATE, CONV_DECAY, BATCH, IMAGES = 0.1, 1e-3, 8, 400
ADAM_RATE, ADAM_DECAY, ADAM_MEMORY = 2e-3, 0.25, 0.99  # η, λ and β₂ of AdamW, of a memory well below PROBE_STEPS
LARGER = 1.5  # the norms from which rotational equilibrium is predicted, over those at the end
PROBES, PROBE_STEPS = 4, 500
TEXT_RATE, TEXT_DECAY = 0.1, 4e-3
SEARCHED = 16  # samples that find symmetries


def filters(clock: Clock, keys: Array, bar: Any) -> dict[str, np.ndarray]:
    """‖W_c‖² of every filter along SGD, block by block."""
    x, y = digits()
    problem, sgd = ne.Problem(normalised_loss, (x[:IMAGES], y[:IMAGES]), CONV_DECAY), ne.SGD(CONV_RATE, BATCH)
    starts = jax.vmap(normalised_start)(keys[:1])
    seen = watch(problem, sgd, FILTERS), watch_equilibrium(problem, sgd, FILTERS)
    means, _ = follow(problem, sgd, starts, keys[1:2], clock, *seen, bar=bar)
    omega = damping(problem, sgd)
    return {**means, "omega": np.array(omega), "path": path(means, omega, clock.block)}


def rotation(steps: int, keys: Array) -> dict[str, np.ndarray]:
    """Norm, and angle per step, of every filter of the second layer under AdamW, and what is predicted from afar.

    Measured over the last quarter of the steps, which the prediction has not seen: it measures updates of other batches
    at norms LARGER times as large.
    """
    x, y = digits()
    problem, symmetry = ne.Problem(normalised_loss, (x[:IMAGES], y[:IMAGES])), FILTERS[1]
    dynamics = ne.Optax(optax.adamw(ADAM_RATE, b2=ADAM_MEMORY, weight_decay=ADAM_DECAY), BATCH)

    def weights(params: dict[str, Array]) -> Array:
        return params["second"].reshape(len(params["second"]), -1)

    watched = {"weights": weights}
    trained = ne.simulate(
        problem, dynamics, normalised_start(keys[0]), 3 * steps, key=keys[1], observe=watched, every=3 * steps
    )
    late = ne.resume(problem, dynamics, trained, steps, observe=watched)
    seen = np.asarray(late.observed["weights"], np.float64)
    norms = np.linalg.norm(seen, axis=-1)
    units = seen / norms[..., None]
    count = seen.shape[1]
    far = symmetry.act(late.params, jnp.full(count, jnp.log(LARGER), jnp.float32))

    @jax.jit
    def probe(keys: Array) -> ne.RotationalEquilibrium:
        return jax.vmap(
            lambda key: ne.rotational_equilibrium(
                problem, far, dynamics, PROBE_STEPS, key=key, symmetry=symmetry, decay=ADAM_RATE * ADAM_DECAY
            )
        )(keys)

    found = probe(keys[2 : 2 + PROBES])
    return {
        "norm": np.sqrt(np.mean(norms**2, axis=0)),
        "angle": np.sqrt(np.mean(np.sum(np.diff(units, axis=0) ** 2, axis=-1), axis=0)),
        "norm_predicted": np.sqrt(np.mean(np.asarray(found.norm, np.float64) ** 2, axis=0)),
        "angle_predicted": np.sqrt(np.mean(np.asarray(found.angle, np.float64) ** 2, axis=0)),
        "exponent": np.asarray(found.exponent, np.float64),
    }


def decoder(depth: int, windows: int, clock: Clock, seed: int, keys: Array, bar: Any) -> dict[str, np.ndarray]:
    """Charges of every symmetry that is found, block by block; `of` says which charge is of which symmetry."""
    data = source_windows(windows, seed)
    problem, sgd = ne.Problem(decoder_loss, data, TEXT_DECAY), ne.SGD(TEXT_RATE, BATCH)
    start = decoder_start(keys[0], depth)
    symmetries = ne.find_symmetries(ne.Problem(decoder_loss, data[:SEARCHED]), start)
    starts = jax.tree_util.tree_map(lambda leaf: leaf[None], start)
    seen = watch(problem, sgd, symmetries), _clocks(problem, sgd, symmetries)
    means, _ = follow(problem, sgd, starts, keys[1:2], clock, *seen, bar=bar)
    omega = damping(problem, sgd)
    sizes = [one.charge(start).size for one in symmetries]
    return {
        **means,
        "omega": np.array(omega),
        "path": path(means, omega, clock.block),
        "of": np.repeat(np.arange(len(sizes)), sizes),
        "names": np.array([str(one) for one in symmetries]),
    }


def _clocks(problem: ne.Problem, sgd: ne.SGD, symmetries: Sequence[ne.Symmetry]) -> Callable[[Any, Any], dict]:
    """A function of parameters: ηκ of the slowest direction of each symmetry, and the risk without decay."""
    plain = ne.Problem(problem.loss, problem.data)

    def see(params: Any, state: Any) -> dict[str, Array]:
        del state
        measured = ne.measure(problem, params, list(symmetries), gradient=True)

        def slowest(one: Any) -> Array:
            return jnp.min(ne.relaxation_modes(one, sgd).slowest)  # pyright: ignore[reportCallIssue]

        def fastest(one: Any) -> Array:
            return jnp.max(ne.relaxation_modes(one, sgd).fastest)  # pyright: ignore[reportCallIssue]

        rate = sgd.time_step
        return {
            "slowest": rate * of_each(slowest, measured),
            "fastest": rate * of_each(fastest, measured),
            "risk": plain.risk(params),
        }

    return see
