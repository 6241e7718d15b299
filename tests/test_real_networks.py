"""The bookkeeping of the study of real networks: without chance the law of the charge leaves nothing of a block."""

import jax
import numpy as np
import pytest

import noise_equilibrium as ne
from experiments.real_networks.along import Clock, damping, follow, path, residuals, watch, watch_momentum
from noise_equilibrium.models import deep_relu

BLOCK = 20


def whole_batches() -> tuple[ne.Problem, jax.Array]:
    x, y = jax.random.normal(jax.random.key(0), (6, 3)), jax.random.normal(jax.random.key(1), (6, 2))
    return ne.Problem(deep_relu.relu.loss, (x, y), 0.05), jax.random.split(jax.random.key(2), 2)


def start(key: jax.Array) -> deep_relu.Params:
    return deep_relu.init(key, 3, (4,), 2, bias=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [None, 0.8])
def test_without_chance_the_law_leaves_nothing(beta):
    problem, keys = whole_batches()
    symmetries = deep_relu.symmetries(2)
    if beta is None:
        dynamics = ne.SGD(0.02, 6, False)
        see = watch(problem, dynamics, symmetries)
    else:
        dynamics = ne.Momentum(0.004, beta, 6, False)
        see = watch_momentum(problem, dynamics, symmetries)
    means, _ = follow(problem, dynamics, jax.vmap(start)(keys), keys, Clock(3, 2, BLOCK // 2, 1), see)
    omega = damping(problem, dynamics)
    charge = np.abs(means["charge"]).max()
    assert means["charge"].shape == (2, 3, 4)
    assert np.abs(residuals(means, omega, BLOCK)).max() < 1e-9 * charge
    np.testing.assert_array_equal(means["first"][:, 1:], means["last"][:, :-1])
    if beta is None:  # the gain is spread over its block: 1 % of decay within a block, of what is gained there
        moved = np.abs(path(means, omega, BLOCK)[:, 1:] - means["end"])
        assert moved.max() < 0.05 * np.abs(means["gain"]).max() * BLOCK
    else:  # the law of SGD is another, which the cross term makes up for
        assert np.abs(residuals(means, omega, BLOCK, "gain_sgd")).max() > 1e-3 * charge


def test_momentum_and_sgd_have_one_damping_without_momentum():
    problem, _ = whole_batches()
    np.testing.assert_allclose(damping(problem, ne.Momentum(0.1, 0.0, 2)), damping(problem, ne.SGD(0.1, 2)), rtol=1e-12)
