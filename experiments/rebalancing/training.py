"""Runs of SGD at a grid of rates: as they start, with a warmup, and moved along the orbits once or every k steps.

All runs of a seed see the same minibatches. What moves the parameters changes nothing that the network computes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import noise_equilibrium as ne
from experiments.rebalancing.cases import BATCH, Case, skew

P = ParamSpec("P")
R = TypeVar("R")


class Arm(NamedTuple):
    """How a run begins and goes on.

    Attributes:
        name: in the arrays.
        label: in words.
        to: where it is moved at the start: "", "norm" or "noise".
        warm: whether its rate rises at first.
        skewed: whether it begins from the skewed start.
        again: whether it is moved every k steps too.
    """

    name: str
    label: str
    to: str = ""
    warm: bool = False
    skewed: bool = False
    again: bool = False


PLAIN, WARM = Arm("plain", "plain"), Arm("warmup", "warmup", warm=True)
NORM, NOISE = Arm("norm", "moved to least norm", "norm"), Arm("noise", "moved to noise equilibrium", "noise")
AGAIN = Arm("again", "moved to it every k steps", "noise", again=True)
MOVED = (NORM, NOISE, AGAIN)


def of_start(case: Case, *, skewed: bool) -> tuple[Arm, ...]:
    """What is compared from one start, the plain run first."""
    there = (PLAIN, WARM)
    if skewed:
        there = tuple(arm._replace(name=f"{arm.name}_skewed", skewed=True) for arm in there)
    return (*there, *(arm for arm in MOVED if arm.to in case.ends))


def all_arms(case: Case) -> list[Arm]:
    """All that is run: what is moved ends at the same point from either start."""
    both = [arm for skewed in ([False, True] if case.skewed else [False]) for arm in of_start(case, skewed=skewed)]
    return list(dict.fromkeys(both))


class Moved(NamedTuple):
    """Points of orbits, and what is to be seen of them.

    Attributes:
        params: (seeds, …).
        loss: (seeds,).
        charges: of each symmetry, (seeds, …).
    """

    params: PyTree
    loss: Array
    charges: list[Array]


def briefly(function: Callable[P, R]) -> Callable[P, R]:
    """`filter_jit` for a program that runs for some milliseconds, and need not be a fast one.

    Most of the time of this study is compilation. All that is trained is made of one program for each case, and all
    that is moved of another.
    """
    options = {"xla_backend_optimization_level": 0}
    return eqx.filter_jit(compiler_options=options)(function)  # pyright: ignore[reportCallIssue]


@briefly
def begins(case: Case, start_keys: Array) -> dict[str, Moved]:
    """The starts of all seeds, the usual ones and those that are skewed, if there are any."""
    params = jax.vmap(case.start)(start_keys)
    found = {"": _seen(case, params)}
    if case.skewed:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(start_keys)
        found["skewed"] = _seen(case, jax.vmap(lambda params, key: skew(params, case.symmetries, key))(params, keys))
    return found


def _seen(case: Case, params: PyTree) -> Moved:
    charges = [jax.vmap(symmetry.charge)(params) for symmetry in case.symmetries]
    return Moved(params, jax.vmap(case.excess)(params), charges)


def moved(case: Case, to: str, params: PyTree, rate: float) -> Moved:
    """The points of the orbits to which an arm moves (seeds, …).

    The least weight norm is the equilibrium of decay alone: that of SGD in the limit of small rates, γ being anything.
    """
    decay, rate = (1.0, 1e-12) if to == "norm" else (case.probe.weight_decay, rate)
    return _at_rest(case, params, *(jnp.asarray(number, jnp.float32) for number in (decay, rate)))


@briefly
def _at_rest(case: Case, params: PyTree, decay: Array, rate: Array) -> Moved:
    problem = ne.Problem(case.probe.loss, case.probe.data, decay)
    there = jax.vmap(lambda one: case.at_rest(problem, one, ne.SGD(rate, BATCH)))(params)
    return _seen(case, there)


def at_rates(case: Case, to: str, params: Callable[[int], PyTree]) -> PyTree:
    """The points for each rate of the grid (seeds, rates, …), moved from `params` of its place.

    Only with weight decay does the noise equilibrium depend on the learning rate.
    """
    found = [moved(case, to, params(place), rate).params for place, rate in enumerate(case.rates)]
    return jax.tree_util.tree_map(lambda *leaves: np.stack(leaves, axis=1), *found)


def _rising(end: tuple[Array, Array, Array], step: Any) -> Array:
    rate, steps, done = end
    return rate * jnp.minimum(1, (done + step + 1) / steps)


@eqx.filter_jit
def _stretch(
    case: Case, starts: PyTree, keys: Array, rates: Array, warmup: Array, done: Array
) -> tuple[PyTree, Array, Array]:
    """k steps of runs side by side: where they end, the loss at the records, and whether all stayed finite."""

    def one(start: PyTree, key: Array, rate: Array) -> tuple[PyTree, Array, Array]:
        schedule = jax.tree_util.Partial(_rising, (rate, warmup, done))
        run = ne.simulate(
            case.training,
            ne.SGD(schedule, BATCH),
            start,
            case.period,
            key=key,
            observe={"excess": case.excess},
            every=case.every,
        )
        return run.params, run.observed["excess"], run.diverged_at < 0

    runs = (starts, keys, rates)
    return jax.lax.map(lambda run: one(*run), runs) if case.in_turn else jax.vmap(one)(*runs)


def train(case: Case, starts: PyTree, keys: Array, *, warm: bool, again: bool) -> tuple[np.ndarray, np.ndarray]:
    """Losses (seeds, rates, records) of independent runs, and whether they stayed finite, (seeds, rates).

    Args:
        case: what is trained.
        starts: parameters (seeds, rates, …), or (seeds, 1, …) for all rates.
        keys: of the minibatches, for each seed.
        warm: whether rates are reached by a warmup.
        again: whether parameters are moved every k steps.
    """
    shape = len(keys), len(case.rates)
    params = jax.tree_util.tree_map(lambda leaf: np.broadcast_to(leaf, (*shape, *leaf.shape[2:])), starts)
    rates = np.broadcast_to(np.array(case.rates, np.float32), shape).ravel()
    warmup, losses, finite = np.float32(case.warmup if warm else 1), [], np.ones(shape, bool)
    for done in range(0, case.steps, case.period):
        if again and done:
            here = params
            params = at_rates(case, "noise", lambda place: jax.tree_util.tree_map(lambda leaf: leaf[:, place], here))  # noqa: B023
        flat = jax.tree_util.tree_map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params)
        # Batches of a stretch are those of its key, in all arms.
        noise = jnp.repeat(jax.vmap(lambda key: jax.random.fold_in(key, done))(keys), shape[1])  # noqa: B023
        last, seen, stayed = _stretch(case, flat, noise, jnp.asarray(rates), jnp.asarray(warmup), jnp.float32(done))
        params = jax.tree_util.tree_map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), last)
        losses.append(np.asarray(seen).reshape(*shape, -1)[..., bool(done) :])
        finite &= np.asarray(stayed).reshape(shape)
    return np.concatenate(losses, axis=2), finite
