"""Charges along runs, block by block, beside what the law of the charge says of the same steps.

A step moves the charge 𝒞 that the dynamics keep (of SGD the charge C itself) by −ωC plus what the gradients add,

    SGD             η² ĝᵀAĝ,                              ω = 4ηγ(1 − ηγ),
    heavy ball      η_eff² (ĝᵀAĝ + 2β mᵀAĝ),              ω = 4η_eff γ(1 − ηγ/(1+β)),  η_eff = η/(1−β),

and what they add in expectation, given parameters and momentum, is the gain: E ĝᵀAĝ = Tr[ΣA]/S + ḡᵀAḡ. What is left of
a step is a martingale difference, so blocks are uncorrelated however short they are, and their scatter is an error.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne

Means = dict[str, np.ndarray]
"""name → (runs, blocks, charges): means over a block; `first` and `last` are 𝒞 at its ends, `end` is C at the last."""


def damping(problem: ne.Problem, dynamics: Any) -> float:
    """ω."""
    if isinstance(dynamics, ne.Momentum):
        rate, beta = dynamics.learning_rate, dynamics.momentum
        return 4 * rate / (1 - beta) * problem.weight_decay * (1 - rate * problem.weight_decay / (1 + beta))
    rate = dynamics.learning_rate
    return 4 * rate * problem.weight_decay * (1 - rate * problem.weight_decay)


def watch(problem: ne.Problem, sgd: ne.SGD, symmetries: Sequence[ne.Symmetry]) -> Callable[[Any, Any], dict]:
    """A function of parameters: charges and gains."""
    omega = damping(problem, sgd)

    def see(params: Any, state: Any) -> dict[str, Array]:
        del state  # SGD has none
        charge = of_each(lambda one: one.charge(params), symmetries)
        measured = ne.measure(problem, params, list(symmetries), gradient=True)
        return {"charge": charge, "kept": charge, "gain": expected_steps(measured, sgd) + omega * charge}

    return see


def watch_equilibrium(
    problem: ne.Problem, sgd: ne.SGD, symmetries: Sequence[ne.Symmetry]
) -> Callable[[Any, Any], dict]:
    """A function of parameters: charges at the equilibrium on the orbit, and ηκ."""

    def see(params: Any, state: Any) -> dict[str, Array]:
        del state
        there = ne.find_equilibrium(problem, params, list(symmetries), sgd).params
        rates = of_each(lambda one: ne.relaxation_rates(problem, params, one, sgd), symmetries)
        return {"target": of_each(lambda one: one.charge(there), symmetries), "rate": sgd.time_step * rates}

    return see


def watch_momentum(
    problem: ne.Problem, momentum: ne.Momentum, symmetries: Sequence[ne.Symmetry]
) -> Callable[[Any, Any], dict]:
    """A function of parameters and velocity: charges and gains.

    "gain" is the expectation given both; "gain_slow" that of parameters alone, for a mean gradient that changes little
    while the velocity remembers it; "gain_sgd" is that of SGD at η_eff, whose mean gradient counts once.
    """
    rate = momentum.time_step
    sgd, data = (
        ne.SGD(rate, momentum.batch_size, momentum.replacement),
        ne.Problem(problem.loss, problem.data),
    )
    omega, omega_sgd = damping(problem, momentum), damping(problem, sgd)

    def see(params: Any, state: Any) -> dict[str, Array]:
        measured = ne.measure(problem, params, list(symmetries), gradient=True)
        velocity = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(params), state[0])
        mean = jax.grad(data.risk)(params)
        sums, differences = (
            jax.tree_util.tree_map(lambda m, g, sign=sign: m + sign * g, velocity, mean) for sign in (1, -1)
        )
        charge = of_each(lambda one: one.charge(params), symmetries)
        gain = expected_steps(measured, sgd) + omega_sgd * charge
        cross = of_each(lambda one: (one.charge(sums) - one.charge(differences)) / 4, symmetries)  # mᵀAḡ
        return {
            "charge": charge,
            "kept": of_each(lambda one: momentum.charge(problem, params, state, one), symmetries),
            "gain": gain + 2 * momentum.momentum * rate**2 * cross,
            "gain_slow": expected_steps(measured, momentum) + omega * charge,
            "gain_sgd": gain,
        }

    return see


def expected_steps(measured: Sequence[Any], dynamics: Any) -> Array:
    """E ΔC of one step, of each charge."""
    return of_each(lambda one: ne.expected_charge_step(one, dynamics), measured)  # pyright: ignore[reportCallIssue]


def of_each(measure: Callable[[Any], Array], items: Sequence[Any]) -> Array:
    """One vector of what is measured of each symmetry."""
    return jnp.concatenate([jnp.ravel(measure(item)) for item in items])


class Clock(NamedTuple):
    """How often a run is looked at: a block has `groups` × `records` × `every` steps.

    Attributes:
        blocks: of the run.
        groups: in a block; each begins with what is seen rarely.
        records: in a group.
        every: steps between records.
    """

    blocks: int
    groups: int
    records: int
    every: int

    @property
    def block(self) -> int:
        """Steps in a block."""
        return self.groups * self.records * self.every


def follow(
    problem: ne.Problem,
    dynamics: Any,
    starts: Any,
    keys: Array,
    clock: Clock,
    see: Callable[[Any, Any], dict],
    rarely: Callable[[Any, Any], dict] = lambda _params, _state: {},
    bar: Any = None,
) -> tuple[Means, ne.Trajectory]:
    """Means over blocks of what is seen along runs, and their last trajectories.

    Args:
        problem: the problem.
        dynamics: SGD, Momentum or Optax.
        starts: parameters with the runs in front.
        keys: a key for each run.
        clock: how often what is seen.
        see: a function of parameters and state, at every record.
        rarely: likewise, at the start of every group.
        bar: of progress, which counts blocks.
    """

    def block(last: ne.Trajectory) -> tuple[ne.Trajectory, dict[str, Array]]:
        def step(last: ne.Trajectory, _: None) -> tuple[ne.Trajectory, dict[str, Array]]:
            seen = see(last.params, last.state.dynamics)
            return ne.resume(problem, dynamics, last, clock.every, every=clock.every), seen

        def group(last: ne.Trajectory, _: None) -> tuple[ne.Trajectory, tuple[dict, dict]]:
            rare = rarely(last.params, last.state.dynamics)
            last, seen = jax.lax.scan(step, last, length=clock.records)
            return last, (jax.tree_util.tree_map(lambda value: jnp.mean(value, axis=0), seen), rare)

        start = see(last.params, last.state.dynamics)
        last, (seen, rare) = jax.lax.scan(group, last, length=clock.groups)
        means = {name: jnp.mean(values, axis=0) for name, values in {**seen, **rare}.items()}
        end = see(last.params, last.state.dynamics)
        one = {f"one_{name}": values[-1] for name, values in rare.items()}
        return last, {**means, **one, "first": start["kept"], "last": end["kept"], "end": end["charge"]}

    run = eqx.filter_jit(lambda last: jax.vmap(block)(last))
    # One stretch before the first block, so that what is handed on has always the same form.
    last = jax.vmap(lambda start, key: ne.simulate(problem, dynamics, start, clock.every, key=key, every=clock.every))(
        starts, keys
    )
    stretches = []
    for _ in range(clock.blocks):
        last, seen = run(last)
        stretches.append({name: np.asarray(values, np.float64) for name, values in seen.items()})
        if bar is not None:
            bar.update()
    return {name: np.stack([one[name] for one in stretches], axis=1) for name in stretches[0]}, last


def path(means: Means, omega: float, steps: int) -> np.ndarray:
    """Charges at the start and at the ends of blocks as the law has them, from the start and the gains alone."""
    kept = (1 - omega) ** steps
    found = [means["first"][:, 0]]
    for gain in np.moveaxis(means["gain"], 1, 0):
        found.append(kept * found[-1] + (1 - kept) / omega * gain)
    return np.stack(found, axis=1)


def residuals(means: Means, omega: float, steps: int, gain: str = "gain") -> np.ndarray:
    """What the law leaves of every block: (Δ𝒞/steps − gain + ωC)/ω, whose mean is how far C̄ is from the law's."""
    moved = (means["last"] - means["first"]) / steps
    return (moved - means[gain] + omega * means["charge"]) / omega


def half(means: Means, late: bool) -> Means:
    """The second half of the blocks, or the first."""
    cut = means["charge"].shape[1] // 2
    return {name: values[:, cut:] if late else values[:, :cut] for name, values in means.items()}
