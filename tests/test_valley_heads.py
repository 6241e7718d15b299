"""The heads of the decoder of the study `valley`: their turns, how fast SGD turns them, and when it does not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from experiments._networks import decoder_start
from experiments.valley import heads
from noise_equilibrium.models import two_layer_linear as linear

LEGS = {
    "query–key": [ne.Leg(lambda p: p["layers"][0]["q"], 0, 1, 2), ne.Leg(lambda p: p["layers"][0]["k"], 0, -1, 2)],
    "value–output": [ne.Leg(lambda p: p["layers"][0]["o"], 1, 1, 2), ne.Leg(lambda p: p["layers"][0]["v"], 0, -1, 2)],
}


def test_the_commonest_bytes_are_words():
    windows = jnp.array([[7, 7, 7, 2], [2, 2, 7, 5], [9, 5, 0, 7]])
    np.testing.assert_array_equal(heads.few_words(windows, 3), [[0, 0, 0, 1], [1, 1, 0, 2], [2, 2, 2, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("what", [*LEGS, "stream", "values"])
def test_no_sample_has_a_slope_along_a_turn(what):
    params = heads.without_gains(decoder_start(jax.random.key(1), 1, heads.SIZES))
    params = jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.float64), params)
    tokens = jax.random.randint(jax.random.key(2), (heads.SIZES.length + 1,), 0, heads.SIZES.words)
    if what == "stream":
        plane = np.random.default_rng(3).normal(size=(heads.SIZES.width, heads.SIZES.width))
        turn = partial(heads.turned_stream, jnp.asarray(plane - plane.T))
    elif what == "values":  # of heads that decay has left no queries and keys
        assert heads.planes_of_values(params) == []
        (layer,) = params["layers"]
        params["layers"] = [layer | {name: jnp.zeros_like(layer[name]) for name in "qk"}]
        found = heads.planes_of_values(params)
        assert len(found) == 4
        turn = partial(heads.turned_values, jnp.asarray(sum(found)))
    else:
        turn = partial(heads.turned_block, LEGS[what], 1)
    slope = jax.grad(heads.loss)(params, tokens)
    there, tangent = (ne.flatten(tree)[0] for tree in (slope, turn(params)))
    assert abs(there @ tangent) < 1e-13 * np.linalg.norm(there) * np.linalg.norm(tangent)
    assert np.linalg.norm(tangent) > 0.1
    np.testing.assert_allclose(ne.flatten(params)[0] @ tangent, 0, atol=1e-13)  # nor has the norm


@pytest.mark.slow
def test_the_circulation_is_the_drift_and_nothing_else_is_flat():
    one = heads.trained(0)
    assert one.names == [f"head {head}, {what}" for what in ("value–output", "query–key") for head in (1, 2)]
    found = heads.predict(one)
    by_drift, left, far = heads.drift(one, found)
    np.testing.assert_allclose(found.omega, by_drift, atol=1e-10 * np.linalg.norm(by_drift))
    assert np.linalg.norm(by_drift) > 1e-4
    assert left < 1e-10
    assert far < 1e-12
    assert found.flat == found.directions == 4 + heads.SIZES.width * (heads.SIZES.width - 1) // 2


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.4)])
def test_a_likelihood_that_fits_has_noise_that_commutes_with_its_curvature(weights):
    """Σ = H where the model has the distribution of its labels: nothing turns. Not so if inputs have weights."""
    counts = np.array([[1, 2, 3], [3, 1, 2], [1, 4, 1]])
    inputs, labels = (np.repeat(part.ravel(), counts.ravel()) for part in np.indices((3, 3)))

    def loss(params, sample):
        x, label = sample
        return -jnp.asarray(weights)[x] * jax.nn.log_softmax(params.up @ params.down[:, x])[label]

    problem = ne.Problem(loss, (jnp.asarray(inputs), jnp.asarray(labels)))
    logits = np.log(counts / 6).T
    left, singular, right = np.linalg.svd(logits - logits.mean(axis=0))
    params = linear.Params(jnp.asarray(left[:, :2] * singular[:2]), jnp.asarray(right[:2]))
    theta, unflatten = ne.flatten(params)
    hessian = jax.jit(jax.hessian(lambda q: problem.risk(unflatten(q))))(theta)
    sigma = ne.gradient_covariance(problem, params)
    if len(set(weights)) == 1:
        np.testing.assert_allclose(sigma, hessian, atol=1e-14)
    else:
        assert np.linalg.norm(sigma @ hessian - hessian @ sigma) > 1e-2
