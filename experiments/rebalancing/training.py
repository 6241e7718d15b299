"""Runs of SGD at a grid of rates: as they start, with a warmup, and moved along the orbits once or every k steps.

All runs of a seed see the same minibatches. What moves the parameters changes nothing that the network computes.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

import noise_equilibrium as ne
from experiments.rebalancing.cases import BATCH, Case, skew


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


@eqx.filter_jit
def begins(case: Case, start_keys: Array, *, skewed: bool) -> PyTree:
    """The starts of all seeds, (seeds, 1, …): a place for the rates."""

    def one(key: Array) -> PyTree:
        params = case.start(key)
        return skew(params, case.symmetries, jax.random.fold_in(key, 1)) if skewed else params

    return jax.tree_util.tree_map(lambda leaf: leaf[:, None], jax.vmap(one)(start_keys))


@eqx.filter_jit
def moved(case: Case, to: str, starts: PyTree, rates: Array) -> PyTree:
    """The points of the orbits of starts to which an arm moves, (seeds, rates, …), or one for all rates.

    Only with weight decay does the noise equilibrium depend on the learning rate.
    """
    given = case.symmetries[0] if len(case.symmetries) == 1 else case.symmetries

    def one(params: PyTree, rate: Array) -> PyTree:
        if to == "norm":
            return ne.move_along(case.probe, params, given, "norm").params
        return ne.find_equilibrium(case.probe, params, given, ne.SGD(rate, BATCH)).params

    if to == "norm" or not case.decays:
        rates = rates[:1]
    of_seed = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(lambda params: of_seed(jax.tree_util.tree_map(lambda leaf: leaf[0], params), rates))(starts)


@eqx.filter_jit
def begin_loss(case: Case, points: PyTree) -> Array:
    """The loss at points (seeds, rates, …)."""
    return jax.lax.map(jax.vmap(case.excess), points)


def _rising(end: tuple[Array, Array], step: Any) -> Array:
    rate, steps = end
    return rate * jnp.minimum(1, (step + 1) / steps)


def one_run(case: Case, start: PyTree, key: Array, rate: Array, *, warm: bool, again: bool) -> tuple[Array, Array]:
    """The loss at the records of one run, and whether its parameters stayed finite."""
    observe = {"excess": case.excess}
    schedule = jax.tree_util.Partial(_rising, (rate, jnp.asarray(case.warmup, rate.dtype)))
    sgd = ne.SGD(schedule if warm else rate, BATCH)
    if not again:
        run = ne.simulate(case.training, sgd, start, case.steps, key=key, observe=observe, every=case.every)
        return run.observed["excess"], run.diverged_at < 0
    mover = ne.rebalance(case.probe.loss, case.symmetries, every=1, dynamics=sgd, weight_decay=case.probe.weight_decay)

    def period(last: ne.Trajectory, _: None) -> tuple[ne.Trajectory, Array]:
        # SGD has no state, so that k steps of it and one motion are the chain of both with every=k.
        nothing = jax.tree_util.tree_map(jnp.zeros_like, last.params)
        update = mover.update(nothing, mover.init(last.params), last.params, data=case.probe.data)[0]
        there = jax.tree_util.tree_map(jnp.add, last.params, update)
        last = eqx.tree_at(lambda run: run.params, last, there)
        run = ne.resume(case.training, sgd, last, case.period, observe=observe, every=case.every)
        return run, run.observed["excess"][1:]

    first = ne.simulate(case.training, sgd, start, case.period, key=key, observe=observe, every=case.every)
    last, losses = jax.lax.scan(period, first, length=case.steps // case.period - 1)
    return jnp.append(first.observed["excess"], losses), last.diverged_at < 0


@eqx.filter_jit
def train(case: Case, starts: PyTree, keys: Array, rates: Array, *, warm: bool, again: bool) -> tuple[Array, Array]:
    """Losses (seeds, rates, records) of independent runs, and whether they stayed finite, (seeds, rates).

    Args:
        case: what is trained.
        starts: parameters (seeds, rates, …), or (seeds, 1, …) for all rates.
        keys: of the minibatches, for each seed.
        rates: the learning rates.
        warm: whether they are reached by a warmup.
        again: whether parameters are moved every k steps.
    """
    shape = len(keys), len(rates)

    def flat(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (*shape, *leaf.shape[2:])).reshape(-1, *leaf.shape[2:])

    runs = jax.tree_util.tree_map(flat, (starts, keys[:, None], rates[None]))
    one = lambda run: one_run(case, *run, warm=warm, again=again)  # noqa: E731
    losses, finite = jax.lax.map(one, runs) if case.in_turn else jax.vmap(one)(runs)
    return losses.reshape(*shape, -1), finite.reshape(shape)
