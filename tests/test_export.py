"""Computations lower for GPU and TPU on a machine that has neither, without a callback to the host."""

import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest
from test_move_along import ROTATION, linear_problem, loss, neurons, relu_problem

import noise_equilibrium as ne

BOTH = [neurons(0), neurons(1)]
SCALE = ne.scaling()
SGD = ne.SGD(0.01, 4)


def relu(function):
    """A computation on the ReLU network: of (problem, params, key)."""
    return function, relu_problem


def linear(function):
    return function, linear_problem


def simulated(dynamics):
    return relu(lambda problem, params, key: ne.simulate(problem, dynamics, params, 4, key=key).params)


def singular(seed=0):
    """A hidden layer that is wider than its neighbours: R and T have no full rank."""
    problem, _ = linear_problem(seed)
    keys = jax.random.split(jax.random.key(seed))
    return problem, {"u": jax.random.normal(keys[0], (2, 6)), "w": jax.random.normal(keys[1], (6, 3))}


def rebalanced(problem, params, key):
    tx = ne.rebalance(loss, BOTH, every=2, dynamics=SGD)
    return tx.update(params, tx.init(params), params, data=problem.data)[0]


COMPUTATIONS = {
    "moments, scalar": relu(lambda problem, params, key: ne.noise_moments(problem, params, SCALE)),
    "moments, diagonal": relu(lambda problem, params, key: ne.noise_moments(problem, params, neurons(0))),
    "moments, symmetric": linear(lambda problem, params, key: ne.noise_moments(problem, params, ROTATION)),
    "moments and gradient": relu(
        lambda problem, params, key: ne.measure(problem, params, BOTH, gradient=True)[0].gradient
    ),
    "moments of a generator": linear(
        lambda problem, params, key: ne.noise_moments(problem, params, ne.exponential_symmetry(jnp.eye(10))).noise
    ),
    "covariance": linear(lambda problem, params, key: ne.gradient_covariance(problem, params)),
    "a draw": relu(ne.sample_noise),
    "charge rates": relu(lambda problem, params, key: ne.charge_rates(problem, params, neurons(0))),
    "noise scale": relu(lambda problem, params, key: ne.gradient_noise_scale(problem, params).scale),
    "flow": linear(lambda problem, params, key: ne.noether_flow(problem, params, ROTATION, 0.01)),
    "rates": linear(lambda problem, params, key: ne.relaxation_rates(problem, params, ROTATION, SGD)),
    "time scales": linear(lambda problem, params, key: ne.time_scales(problem, params, ROTATION, 0.01).erm),
    "orbit, diagonal": relu(
        lambda problem, params, key: ne.orbit_flow(problem, params, neurons(0), SGD, jnp.arange(3.0)).charge
    ),
    "orbit, symmetric": linear(
        lambda problem, params, key: ne.orbit_flow(problem, params, ROTATION, SGD, jnp.arange(3.0)).charge
    ),
    "equilibrium, diagonal": relu(
        lambda problem, params, key: ne.find_equilibrium(problem, params, neurons(0), SGD).params
    ),
    "equilibrium, matrix": linear(
        lambda problem, params, key: ne.find_equilibrium(problem, params, ROTATION, SGD).params
    ),
    "equilibrium, singular": (
        lambda problem, params, key: ne.find_equilibrium(problem, params, ROTATION, SGD).params,
        singular,
    ),
    "equilibrium, joint": relu(lambda problem, params, key: ne.find_equilibrium(problem, params, BOTH, SGD).params),
    "derivative of an equilibrium": linear(
        lambda problem, params, key: jax.grad(
            lambda p: jnp.sum(ne.find_equilibrium(problem, p, ROTATION, SGD).params["u"] ** 3)
        )(params)
    ),
    "prediction": linear(lambda problem, params, key: ne.predict(problem, params, ROTATION, SGD).params),
    "least norm": linear(lambda problem, params, key: ne.move_along(problem, params, ROTATION, "norm").params),
    "rebalancing": relu(rebalanced),
    "SGD": simulated(SGD),
    "SGD in epochs": simulated(ne.SGD(0.01, 4, "epoch")),
    "GD": simulated(ne.GD(0.01)),
    "SDE": simulated(ne.SDE(0.01, 4)),
    "SVAG": simulated(ne.SVAG(0.01, 4, 2)),
    "gradient flow": simulated(ne.GradientFlow(0.01)),
    "Optax": simulated(ne.Optax(optax.adam(0.01), 4)),
    "many seeds": relu(
        lambda problem, params, key: jax.vmap(lambda key: ne.simulate(problem, SGD, params, 4, key=key).params)(
            jax.random.split(key, 3)
        )
    ),
}


SLOW = (
    "derivative of an equilibrium",
    "prediction",
    "rebalancing",
    "least norm",
    "many seeds",
    "time scales",
    "orbit, symmetric",
    "GD",
    "SVAG",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMPUTATIONS]
)
def test_it_lowers_for_gpu_and_tpu_and_stays_on_the_device(name):
    function, made = COMPUTATIONS[name]
    with jax.enable_x64(False):
        problem, params = made()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        program = jax.jit(lambda params, key: function(problem, params, key))
        exported = jax.export.export(program, platforms=["cuda", "tpu"])(params, jax.random.key(0))
    text = exported.mlir_module()
    assert exported.platforms == ("cuda", "tpu")
    assert not re.search(r"callback|infeed|outfeed|host_compute", text)


def test_grams_are_computed_at_the_highest_precision():
    """On a GPU the default would be TF32, right to three digits."""
    with jax.enable_x64(False):
        problem, params = linear_problem()
        program = jax.jit(lambda params: ne.noise_moments(problem, params, ROTATION))
        text = jax.export.export(program, platforms=["cuda"])(params).mlir_module()
    products = [line for line in text.splitlines() if "= stablehlo.dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
