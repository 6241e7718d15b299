"""Weak errors: how far apart two dynamics are in what one can observe, with confidence intervals."""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._budget import LARGEST
from .._keys import as_key
from .._numbers import jit
from .._parameters import split
from .._problem import Problem
from .._validate import integer
from ._dynamics import AbstractDynamics
from ._observables import AbstractAccumulator, Observables, check_observables
from ._simulate import simulate

Expectations = Mapping[str, Any]


class WeakError(eqx.Module):
    """E f(θ_T) under two dynamics at several learning rates; dicts have the names of the observables.

    Attributes:
        rates: (rates,) the learning rates η.
        mean: for each observable (rates, ...) its mean over the runs of the dynamics.
        reference: for each (rates, ...) its mean over the runs of the reference, or its exact value.
        standard_error: for each (rates, ...) that of the difference.
        diverged: (rates,) the number of runs of either dynamics that diverged; where there is one, means are NaN.
    """

    rates: Float[np.ndarray, " rates"]
    mean: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    standard_error: dict[str, np.ndarray]
    diverged: Int[np.ndarray, " rates"]

    @property
    def error(self) -> dict[str, np.ndarray]:
        """Mean − reference, for each observable (rates, ...)."""
        return {name: self.mean[name] - self.reference[name] for name in self.mean}

    def interval(self, level: float = 0.95) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The two ends of a normal confidence interval of the error at each rate.

        Args:
            level: the probability with which an interval holds the error, in (0, 1).

        Raises:
            ValueError: for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; expected a probability in (0, 1).")
        width = NormalDist().inv_cdf((1 + level) / 2)
        errors, spreads = self.error, self.standard_error
        return {name: (errors[name] - width * spreads[name], errors[name] + width * spreads[name]) for name in errors}

    def order(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The slope of log |error| against log η by weighted least squares, and its standard error.

        1 for dynamics that differ at first order in η. Meaningful where every error is many standard errors from 0.
        """
        x = np.log(self.rates)
        orders = {}
        for name, error in self.error.items():
            # The delta method: log |error| has the standard deviation of the error divided by its size.
            weights = (error / self.standard_error[name]) ** 2  # 1/Var log|error|
            at = x.reshape(-1, *[1] * (error.ndim - 1))
            centred = at - np.sum(weights * at, 0) / np.sum(weights, 0)
            spread = np.sum(weights * centred**2, 0)
            orders[name] = (np.sum(weights * centred * np.log(np.abs(error)), 0) / spread, 1 / np.sqrt(spread))
        return orders


def weak_error(
    problem: Problem,
    dynamics: Callable[[float], AbstractDynamics],
    reference: Callable[[float], AbstractDynamics | Expectations],
    params: PyTree,
    observe: Observables,
    rates: Sequence[float],
    time: float,
    *,
    seeds: int,
    key: PRNGKeyArray,
    # More runs at once take as long each: see the steps per second of a sweep in benchmarks/README.md.
    batch: int = 4096,
) -> WeakError:
    """Compare E f(θ_T) of two dynamics over learning rates, such as SGD and its SDE, or SVAG and its SDE.

    Each rate and each of the two dynamics has random numbers of its own, so errors at different rates are independent.

    Args:
        problem: the problem.
        dynamics: η → dynamics, for example `lambda rate: ne.SGD(rate, 4)`.
        reference: η → the dynamics to compare with, for example `lambda rate: ne.SDE(rate, 4, dt=rate / 16)`, or a dict
            of exact expectations, one value for each observable.
        params: where every run starts.
        observe: name → function of params (or `timed`), any array of floats, taken at the end.
        rates: the learning rates η, ascending or not.
        time: T, a whole number of time steps of all dynamics.
        seeds: the number of runs ≥ 2 of each dynamics at each rate.
        key: a JAX PRNG key (threefry).
        batch: the most runs at once; fewer where their parameters would take more than 2 GiB together.

    Returns:
        A `WeakError`: means, standard errors, confidence intervals, the order in η.

    Raises:
        ValueError: for a time that is no whole number of steps, fewer than two seeds, no rate, observables that
            accumulate, expectations that do not name the observables, and what `simulate` refuses.
    """
    observe, key = check_observables(observe), as_key(key, "weak_error")
    if not observe or any(isinstance(one, AbstractAccumulator) for one in observe.values()):
        raise ValueError("weak_error compares the end of runs; expected at least one function of params, none running.")
    seeds, batch = integer(seeds, "seeds", 2), integer(batch, "batch", 1)
    rates = [float(rate) for rate in rates]
    if not rates:
        raise ValueError("rates is empty; expected at least one learning rate.")

    def ends(one: AbstractDynamics, key: PRNGKeyArray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
        steps = _whole_steps(one, time)
        # Without noise all runs are the same.
        count = seeds if one.needs_key else 1
        values, diverged = _ends(problem, one, params, jax.random.split(key, count), observe, steps, batch)
        # A weak error is a small difference of two means over many runs: single precision would lose it in the sums.
        values = {name: np.asarray(value, np.float64) for name, value in values.items()}
        means = {name: value.mean(0) for name, value in values.items()}
        squares = {n: v.var(0, ddof=1) / count if count > 1 else np.zeros(v.shape[1:]) for n, v in values.items()}
        return means, squares, int(diverged)

    rows = []
    for place, rate in enumerate(rates):
        keys = jax.random.split(jax.random.fold_in(key, place))
        mean, square, diverged = ends(dynamics(rate), keys[0])
        other = reference(rate)
        if isinstance(other, AbstractDynamics):
            expected, more, lost = ends(other, keys[1])
            square, diverged = {name: square[name] + more[name] for name in square}, diverged + lost
        else:
            expected = _exact(other, mean)
        rows.append((mean, expected, {name: np.sqrt(value) for name, value in square.items()}, diverged))
    means, expected, spreads = ({name: np.stack([row[i][name] for row in rows]) for name in observe} for i in range(3))
    return WeakError(np.asarray(rates), means, expected, spreads, np.asarray([row[3] for row in rows]))


@jit
def _ends(
    problem: Problem,
    dynamics: AbstractDynamics,
    params: PyTree,
    keys: Key[Array, " runs"],
    observe: Observables,
    steps: int,
    batch: int,
) -> tuple[dict[str, Array], Int[Array, ""]]:
    """Each observable at the end of every run, and how many runs diverged."""

    def run(key: PRNGKeyArray) -> tuple[dict[str, Array], Array]:
        end = simulate(problem, dynamics, params, steps, key=key, observe=observe, every=max(steps, 1))
        return {name: values[-1] for name, values in end.observed.items()}, end.diverged_at >= 0

    size = sum(array.nbytes for array in split(params)[0])
    # In pieces, because all runs at once would hold as many copies of the parameters.
    values, diverged = jax.lax.map(run, keys, batch_size=max(1, min(batch, keys.shape[0], LARGEST // max(size, 1))))
    return values, jnp.sum(diverged)


def _whole_steps(dynamics: Any, time: float) -> int:
    if not isinstance(dynamics, AbstractDynamics):
        raise ValueError(f"got {dynamics!r} for a learning rate; expected a function of η that returns dynamics.")
    if callable(dynamics.time_step):
        raise ValueError("weak_error compares at one learning rate at a time, and this one is a schedule.")
    step = float(dynamics.time_step)
    steps = round(time / step)
    # A decimal rate is no binary fraction, and off by up to 6e-8 of itself where it comes in single precision.
    if steps < 1 or abs(steps * step - time) > 1e-6 * time:
        raise ValueError(f"time is {time}, {time / step:.6g} steps of {step:.6g}; expected a whole number of steps.")
    return steps


def _exact(expected: Any, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not isinstance(expected, Mapping) or set(expected) != set(like):
        raise ValueError(
            f"the reference returned {expected!r}; expected dynamics, or a dict with a value of {list(like)}."
        )
    return {name: np.broadcast_to(np.asarray(expected[name], np.float64), like[name].shape) for name in like}
