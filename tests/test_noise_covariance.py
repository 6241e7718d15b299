"""The dense covariance and exact samples of the gradient noise."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne
from noise_equilibrium._noise import noise_weights
from noise_equilibrium._noise._reference import per_sample_gradients
from noise_equilibrium._problem import weighted_gradient

N = 7
PARAMS = {"u": normal(1, 2, 2), "w": normal(2, 2, 3), "b": normal(3, 2), "act": jnp.tanh, "rate": 0.5}
DATA = (normal(4, N, 3), normal(5, N, 2))


def loss(p, z):
    return squared(p["u"] @ p["act"](p["w"] @ z[0] + p["b"]), z[1])


PROBLEM = ne.Problem(loss, DATA, weight_decay=0.7)


@pytest.fixture(scope="module")
def gradients() -> np.ndarray:
    """(N, P) gradients, one sample at a time, in the order of `flatten`."""
    vector, unflatten = ne.flatten(PARAMS)
    gradient = jax.jit(jax.grad(lambda theta, z: loss(unflatten(theta), z)))
    return np.stack([gradient(vector, (x, y)) for x, y in zip(*DATA, strict=True)])


def test_covariance_is_that_of_the_sample_gradients(gradients):
    covariance = ne.gradient_covariance(PROBLEM, PARAMS)
    expected = np.cov(gradients, rowvar=False, bias=True)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-13 * np.max(np.abs(expected)))


def test_sample_gradients_come_in_the_order_of_the_parameters(gradients):
    rows = [np.reshape(g, (N, -1)) for g in per_sample_gradients(PROBLEM, PARAMS)]
    np.testing.assert_allclose(np.concatenate(rows, axis=1), gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("symmetry", "element"),
    [
        (ne.rescaling(leaf("u"), [leaf("w"), leaf("b")]), np.float64(1)),
        (ne.neuron_rescaling([(leaf("w"), 0), (leaf("b"), 0)], (leaf("u"), 1)), normal(6, 2)),
        (ne.double_rotation(leaf("u"), leaf("w")), np.array([[0.5, 1.0], [1.0, -2.0]])),
    ],
    ids=["scalar", "diagonal", "symmetric"],
)
def test_trace_with_a_generator_is_that_of_the_moments(symmetry, element):
    """Tr[ΣA] = Tr[B (M₊ − M₋)]: the noise term of Eq. (7)."""
    _, unflatten = ne.flatten(PARAMS)
    size = ne.flatten(PARAMS)[0].size
    generator = jax.vmap(lambda e: ne.flatten(symmetry.generator(unflatten(e), element))[0])(jnp.eye(size)).T
    np.testing.assert_allclose(generator, generator.T, atol=1e-15)
    moments = ne.noise_moments(PROBLEM, PARAMS, symmetry)
    from_moments = np.sum(element * (moments.noise_plus - moments.noise_minus))
    np.testing.assert_allclose(from_moments, np.trace(ne.gradient_covariance(PROBLEM, PARAMS) @ generator), rtol=1e-12)


# --- exact samples ---------------------------------------------------------------------------------------------------


def flat_noise(weights):
    """Σ_i w_i g_i as a vector, by the same backward pass as the sampler."""
    return jnp.concatenate([jnp.ravel(g) for g in weighted_gradient(PROBLEM, PARAMS, DATA, weights)])


def test_covariance_of_the_noise_is_exact(gradients):
    """n = L ξ for a matrix L, read off on a basis of ξ; L Lᵀ = Σ."""
    centring = (np.eye(N) - 1 / N) / np.sqrt(N)
    linear_map = jax.vmap(flat_noise)(jnp.asarray(centring)).T
    np.testing.assert_allclose(linear_map @ linear_map.T, np.cov(gradients, rowvar=False, bias=True), atol=1e-12)


def test_weights_are_centred_normal_numbers():
    key = jax.random.key(3)
    draws = jax.random.normal(key, (N,), jnp.float64)
    weights = noise_weights(key, N, jnp.dtype("float64"))
    np.testing.assert_allclose(weights, (np.eye(N) - 1 / N) / np.sqrt(N) @ draws, atol=1e-16)


def test_a_sample_is_the_weighted_gradient(gradients):
    key = jax.random.key(3)
    noise = ne.sample_noise(PROBLEM, PARAMS, key)
    expected = np.asarray(noise_weights(key, N, jnp.dtype("float64"))) @ gradients
    np.testing.assert_allclose(ne.flatten(noise)[0], expected, rtol=1e-12, atol=1e-13)


def test_a_sample_is_shaped_like_the_params():
    noise = ne.sample_noise(PROBLEM, PARAMS, jax.random.key(0))
    assert (noise["act"], noise["rate"]) == (jnp.tanh, 0.5)
    chex.assert_trees_all_equal_shapes_and_dtypes(*({k: tree[k] for k in ("u", "w", "b")} for tree in (noise, PARAMS)))


def test_a_sample_depends_on_the_key_alone():
    one, again, other = (ne.flatten(ne.sample_noise(PROBLEM, PARAMS, jax.random.key(k)))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.min(np.abs(one - other)) > 0


def test_an_old_style_key_gives_the_sample_of_the_new_one():
    old, new = (ne.flatten(ne.sample_noise(PROBLEM, PARAMS, k))[0] for k in (jax.random.PRNGKey(5), jax.random.key(5)))
    np.testing.assert_array_equal(old, new)


def test_one_sample_gives_no_noise():
    one = ne.Problem(loss, jax.tree.map(lambda x: x[:1], DATA))
    np.testing.assert_array_equal(ne.flatten(ne.sample_noise(one, PARAMS, jax.random.key(0)))[0], 0)
    np.testing.assert_array_equal(ne.gradient_covariance(one, PARAMS), 0)


def test_vmap_over_keys_equals_a_loop():
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key: ne.flatten(ne.sample_noise(PROBLEM, PARAMS, key))[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(draw)(keys), [draw(key) for key in keys], rtol=1e-12, atol=1e-14)


def test_noise_is_orthogonal_to_a_symmetry():
    """Σ A θ = 0, path by path: a draw of the noise never moves the charge at first order."""
    problem = ne.Problem(lambda p, z: squared(p["u"] @ (p["w"] @ z[0]), z[1]), DATA)
    symmetry = ne.double_rotation(leaf("u"), leaf("w"))
    tangent, _ = ne.flatten(symmetry.generator(PARAMS, np.array([[0.5, 1.0], [1.0, -2.0]])))
    noise, _ = ne.flatten(ne.sample_noise(problem, PARAMS, jax.random.key(0)))
    size = np.linalg.norm(noise) * np.linalg.norm(tangent)
    np.testing.assert_allclose(noise @ tangent / size, 0, atol=1e-15 * 10)


@pytest.mark.float32
def test_dtype_follows_the_params():
    params = {name: jnp.asarray(PARAMS[name]) for name in ("u", "w", "b")} | {"act": jnp.tanh}
    problem = ne.Problem(loss, jax.tree.map(jnp.asarray, DATA))
    assert ne.gradient_covariance(problem, params).dtype == jnp.float32
    assert ne.flatten(ne.sample_noise(problem, params, jax.random.key(0)))[0].dtype == jnp.float32


@pytest.mark.slow
def test_many_samples_have_the_covariance(gradients):
    """Mean 0 and covariance Σ within five standard errors, entry by entry; the key is fixed."""
    count = 100_000
    keys = jax.random.split(jax.random.key(0), count)
    draws = np.asarray(jax.vmap(lambda key: ne.flatten(ne.sample_noise(PROBLEM, PARAMS, key))[0])(keys))
    sigma = np.cov(gradients, rowvar=False, bias=True)
    variances = np.diag(sigma)
    assert np.max(np.abs(draws.mean(0)) / np.sqrt(variances / count)) < 5
    standard_error = np.sqrt((np.outer(variances, variances) + sigma**2) / count)  # of a Gaussian with known mean
    assert np.max(np.abs(draws.T @ draws / count - sigma) / standard_error) < 5
