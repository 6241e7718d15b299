"""Slow statistical checks; every tolerance is a number of standard errors at a declared number of seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from problems import SCALAR

import noise_equilibrium as ne

pytestmark = pytest.mark.slow

linear_problem = functools.partial(problems.linear_problem, d_out=2, d=2, d_in=2, samples=6)


@pytest.mark.parametrize("name", ["SGD-with-replacement", "SGD-without-replacement", "SDE"])
def test_single_steps_have_the_mean_and_covariance_of_the_theory(name):
    """Mean −η∇L_γ and covariance η²Σ/S, times (N−S)/(N−1) without replacement, over 200 000 steps."""
    problem, params = linear_problem(decay=0.1)
    rate, size, count = 0.1, 3, 200_000
    dynamics = ne.SDE(rate, size) if name == "SDE" else ne.SGD(rate, size, replacement="without" not in name)
    theta = ne.flatten(params)[0]

    @jax.jit
    @jax.vmap
    def move(key):
        return ne.flatten(dynamics.step(problem, params, (), key, 0)[0])[0] - theta

    moves = np.asarray(move(jax.random.split(jax.random.key(1), count)))
    factor = (6 - size) / (6 - 1) if "without" in name else 1
    expected = np.asarray(rate**2 * factor / size * ne.gradient_covariance(problem, params))
    mean = -rate * np.asarray(ne.flatten(jax.grad(problem.risk)(params))[0])
    assert np.abs((moves - mean).mean(0) / (moves.std(0) / np.sqrt(count))).max() < 4  # 8 numbers
    products = np.einsum("ni,nj->nij", moves - mean, moves - mean)
    z = (products.mean(0) - expected) / (products.std(0) / np.sqrt(count))
    assert np.abs(z).max() < 4.5  # 36 distinct entries


def test_sgd_and_the_sde_agree_on_the_charge_to_weak_order_one():
    """The gap of the mean charge to Euler–Maruyama at dt = η/4 halves when η halves, at the same time and S."""
    problem, params = linear_problem()
    size, seeds, time = 4, 40_000, 1.6

    def end_charges(dynamics, steps, key):
        def run(key):
            return SCALAR.charge(ne.simulate(problem, dynamics, params, steps, key=key).params)

        return jax.jit(jax.vmap(run))(jax.random.split(key, seeds))

    gaps, errors = [], []
    for index, rate in enumerate((0.02, 0.01)):
        steps = round(time / rate)
        discrete = end_charges(ne.SGD(rate, size), steps, jax.random.key(2 * index))
        continuous = end_charges(ne.SDE(rate, size, dt=rate / 4), 4 * steps, jax.random.key(2 * index + 1))
        gaps.append(float(jnp.mean(discrete) - jnp.mean(continuous)))
        errors.append(float(jnp.sqrt((jnp.var(discrete) + jnp.var(continuous)) / seeds)))
    ratio = gaps[0] / gaps[1]
    error = ratio * np.hypot(errors[0] / gaps[0], errors[1] / gaps[1])
    assert error < 0.1
    assert abs(ratio - 2) < 4 * error + 0.1  # 0.1: the next order of η; the excess over 2 halves with η too


def test_the_charge_follows_the_integrated_flow_path_by_path():
    """|C(T) − C(0) − Σ flow·dt| of single paths is O(√dt): it falls fourfold when dt falls sixteenfold."""
    problem, params = linear_problem(decay=0.05)
    rate, size, time, seeds = 0.05, 2, 1.0, 200

    def misfit(dt):
        dynamics = ne.SDE(rate, size, dt)
        observe = {
            "charge": SCALAR.charge,
            "flow": lambda params: ne.noether_flow(problem, params, SCALAR, rate / (2 * size)),
        }

        def run(key):
            seen = ne.simulate(problem, dynamics, params, round(time / dt), key=key, observe=observe).observed
            return seen["charge"][-1] - seen["charge"][0], dt * jnp.sum(seen["flow"][:-1])

        moved, predicted = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), seeds))
        return np.asarray(moved), np.asarray(predicted)

    coarse, fine = misfit(1 / 1024), misfit(1 / 16384)
    errors = [np.sqrt(np.mean((moved - predicted) ** 2)) for moved, predicted in (coarse, fine)]
    # The relative standard error of an rms over 200 paths is 1/√400 = 5 %; of the ratio of two 7 %.
    assert abs(errors[0] / errors[1] / 4 - 1) < 4 * 0.07
    moved, predicted = fine
    assert errors[1] < 0.15 * np.std(moved)
    assert np.corrcoef(moved, predicted)[0, 1] > 0.98
