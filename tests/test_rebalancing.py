"""What the study of rebalancing measures with: sharpness, the largest rate, steps to a loss."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from experiments.rebalancing.cases import SKEW, skew
from experiments.rebalancing.stability import sharpness
from experiments.rebalancing.study import largest, steps_to_target

CASE: Any = SimpleNamespace(rates=(0.1, 0.2, 0.4), target=0.5, every=10, steps=40)


@pytest.mark.parametrize(("eigenvalues", "expected"), [((4.0, 1.0, -2.0), 4.0), ((-5.0, 3.0, 1.0), 3.0)])
def test_sharpness_is_the_largest_eigenvalue_also_where_a_negative_one_is_larger(eigenvalues, expected):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    hessian = jnp.asarray(turn @ np.diag(eigenvalues) @ turn.T)
    found = sharpness(lambda theta: theta @ hessian @ theta / 2, jnp.ones(3), jax.random.key(0), 200)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_largest_rate_of_a_seed_is_that_of_its_last_run_that_trains():
    trains = np.array([[True, True, False], [True, False, True], [False, False, False]])
    np.testing.assert_allclose(largest(CASE, trains), [0.2, 0.4, np.nan])


def test_steps_to_a_loss_that_is_not_reached_are_all_steps():
    losses = np.array([[[1.0, 0.6, 0.4, 0.7, 0.3], [1.0, 0.9, 0.8, 0.7, np.nan]]])
    np.testing.assert_array_equal(steps_to_target(CASE, losses), [[20, 40]])


def test_a_skewed_start_is_on_the_orbit():
    symmetry = ne.neuron_rescaling([(lambda params: params["w"], 0)], (lambda params: params["u"], 1))
    params = {"w": jnp.arange(1.0, 7.0).reshape(3, 2), "u": jnp.arange(1.0, 7.0).reshape(2, 3)}
    there = skew(params, [symmetry], jax.random.key(0))
    factors = np.asarray(there["w"] / params["w"])
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-12)
    np.testing.assert_allclose(there["u"] * factors[:, 0], params["u"], rtol=1e-12)
    assert np.all(np.abs(np.log(factors)) <= np.log(SKEW))
    assert np.ptp(np.log(factors)) > 0.1
