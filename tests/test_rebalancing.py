"""What the study of rebalancing measures with: sharpness, the largest rate, steps to a loss, motions, runs."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from experiments.rebalancing.cases import BATCH, SKEW, Case, skew
from experiments.rebalancing.joint import charge_flows, equilibrium, families, unit
from experiments.rebalancing.stability import TOLERANCE, sharpness
from experiments.rebalancing.study import largest, steps_to_target
from experiments.rebalancing.training import moved, train

CASE: Any = SimpleNamespace(rates=(0.1, 0.2, 0.4), target=0.5, every=10, steps=40)


@pytest.mark.parametrize("least", [-60.0, -6.0, -1.0, 0.0])
def test_sharpness_is_the_largest_eigenvalue_also_where_a_negative_one_is_larger(least):
    values = np.concatenate([[6.0, least], np.linspace(-1, 3, 40)])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(42, 42)))[0]
    hessian = jnp.asarray(turn @ np.diag(values) @ turn.T)
    problem = ne.Problem(lambda theta, sample: theta @ hessian @ theta / 2 + sample, jnp.zeros(1))
    for key in jax.random.split(jax.random.key(0), 4):
        np.testing.assert_allclose(sharpness(problem, jnp.ones(42), key), 6, rtol=TOLERANCE)


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


@pytest.mark.slow
@pytest.mark.float32
def test_a_skewed_start_of_matrices_is_on_the_orbit():
    params, symmetries, loss, data = attention()
    there = skew(params, symmetries, jax.random.key(3))
    for sample in data[:2]:
        np.testing.assert_allclose(loss(there, sample), loss(params, sample), rtol=1e-5)
    keys = np.asarray(there["k"]).reshape(2, 2, 3), np.asarray(params["k"]).reshape(2, 2, 3)
    gain = np.asarray(there["gain"] / params["gain"])
    for after, before in zip(*keys, strict=True):
        factors = np.abs(np.linalg.eigvals(after * gain @ np.linalg.pinv(before)))
        assert np.all(factors <= SKEW * (1 + 1e-4))
        assert np.ptp(factors) > 0.1


def attention():
    """Scores of two heads behind a gain: matrices on rows, and numbers on the columns of the same parameters."""
    random = np.random.default_rng(0)
    params = {"q": random.normal(size=(4, 3)), "k": random.normal(size=(4, 3)), "gain": random.uniform(0.5, 2, 3)}
    symmetries = [
        ne.neuron_rescaling([(lambda p: p["gain"], 0)], [(lambda p: p["q"], 1), (lambda p: p["k"], 1)]),
        ne.double_rotation((lambda p: p["q"], 0), (lambda p: p["k"], 0), blocks=2),
    ]

    def loss(params, sample):
        one, other = (sample[place] * params["gain"] for place in (0, 1))
        q, k = (params["q"] @ one).reshape(2, 2), (params["k"] @ other).reshape(2, 2)
        return jnp.sum((jnp.sum(q * k, axis=1) - sample[2, :2]) ** 2)

    params, data = jax.tree_util.tree_map(jnp.asarray, (params, random.normal(size=(24, 3, 3))))
    return params, symmetries, loss, data


def test_symmetries_that_share_an_entry_are_no_family():
    first, second, alone = (
        ne.neuron_rescaling([(lambda p, name=name: p[name], axis)], (lambda p, to=to: p[to], 0))
        for name, axis, to in (("w", 1, "gain"), ("w", 0, "bias"), ("other", 0, "gain"))
    )
    params = {"w": jnp.ones((2, 3)), "gain": jnp.ones(3), "bias": jnp.zeros(2), "other": jnp.ones(3)}
    assert families([first, second], params) == [[0], [1]]
    assert families([first, second, alone], params) == [[0], [1, 2]]
    assert families([second, alone], params) == [[0, 1]]


def test_the_unit_of_a_symmetry_scales_all_directions():
    params, symmetries, _, _ = attention()
    np.testing.assert_array_equal(unit(symmetries[0], params), np.ones(3))
    np.testing.assert_array_equal(unit(symmetries[1], params), [np.eye(2)] * 2)


@pytest.mark.slow
@pytest.mark.float32
def test_the_flow_of_charges_from_single_gradients_is_that_of_a_step():
    params, symmetries, loss, data = attention()
    problem, sgd = ne.Problem(loss, data, 0.01), ne.SGD(0.1, BATCH)
    found = charge_flows(problem, params, symmetries, sgd)
    for symmetry, flow in zip(symmetries, found, strict=True):
        expected = ne.expected_charge_step(problem, params, symmetry, sgd)
        np.testing.assert_allclose(flow, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.float32
def test_families_in_turn_reach_the_joint_equilibrium():
    params, symmetries, loss, data = attention()
    problem, sgd = ne.Problem(loss, data, 0.01), ne.SGD(0.1, BATCH)
    groups = families(symmetries, params)
    here = jax.jit(lambda params: equilibrium(problem, params, symmetries, groups, sgd))(params)
    there = charge_flows(problem, here, symmetries, sgd)
    for flow, before in zip(there, charge_flows(problem, params, symmetries, sgd), strict=True):
        assert np.linalg.norm(flow) < 3e-4 * np.linalg.norm(before)
    plain = ne.Problem(loss, data)
    np.testing.assert_allclose(plain.risk(here), plain.risk(params), rtol=1e-5)


def case(loss, data, params, symmetries, **options) -> Case:
    problem = ne.Problem(loss, data)
    settings = {"rates": (0.1, 0.2), "common": 0.1, "target": 0.5, "steps": 6, "warmup": 4, "period": 3, "every": 1}
    return Case(
        name="toy",
        title="toy",
        training=problem,
        probe=problem,
        symmetries=symmetries,
        start=lambda key: params,
        excess=lambda params: jnp.mean(jax.vmap(loss, (None, 0))(params, data)),
        **(settings | options),
    )


@pytest.mark.slow
@pytest.mark.float32
def test_runs_of_stretches_follow_one_schedule():
    """A slope of 1 everywhere: the loss falls by the rate of every step, whatever the batch."""
    rates = (0.1, 0.2, 1e38)  # the last one overflows
    toy = case(lambda params, sample: params["x"] * sample, jnp.ones(4), {"x": jnp.float32(0)}, [], rates=rates)
    start = {"x": np.zeros((2, 1), np.float32)}
    keys = jax.random.split(jax.random.key(0), 2)
    for warm, factors in ((False, [1, 1, 1, 1, 1, 1]), (True, [0.25, 0.5, 0.75, 1, 1, 1])):
        losses, finite = train(toy, start, keys, warm=warm, again=False)
        expected = -np.outer(toy.rates, np.concatenate([[0], np.cumsum(factors)]))
        np.testing.assert_allclose(losses[:, :2], np.stack([expected[:2]] * 2), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(finite, [[True, True, False]] * 2)


@pytest.mark.slow
@pytest.mark.float32
def test_motions_are_those_of_the_library():
    params = {"w": jnp.arange(1, 7, dtype=jnp.float32).reshape(3, 2), "u": jnp.ones((2, 3), jnp.float32)}
    symmetries = [ne.neuron_rescaling([(lambda p: p["w"], 0)], (lambda p: p["u"], 1))]
    data = jax.random.normal(jax.random.key(1), (12, 2, 2), jnp.float32)

    def loss(params, sample):
        return jnp.sum((params["u"] @ jax.nn.relu(params["w"] @ sample[0]) - sample[1]) ** 2)

    toy = replace(case(loss, data, params, symmetries), probe=ne.Problem(loss, data, 0.02))
    stacked = jax.tree_util.tree_map(lambda leaf: leaf[None], params)
    least = ne.move_along(toy.probe, params, symmetries, "norm").params
    sgd = ne.SGD(0.1, BATCH)
    mover = ne.rebalance(loss, symmetries, every=1, dynamics=sgd, weight_decay=0.02)
    nothing = jax.tree_util.tree_map(jnp.zeros_like, params)
    update = jax.jit(lambda params: mover.update(nothing, mover.init(params), params, data=data)[0])(params)
    rest = jax.tree_util.tree_map(jnp.add, params, update)
    for to, expected in (("norm", least), ("noise", rest)):
        found = moved(toy, to, stacked, 0.1)
        for name in params:
            np.testing.assert_allclose(found.params[name][0], expected[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.loss[0], toy.excess(params), rtol=1e-5)
