"""The models have the symmetry they come with, and the data have the moments they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear


def random_covariance(d, seed):
    root = np.random.default_rng(seed).normal(size=(d, d))
    return root @ root.T


def teacher(d_out=2, d_in=3):
    V = jnp.asarray(np.random.default_rng(0).normal(size=(d_out, d_in)))
    return ne.data.LinearTeacher(V, random_covariance(d_in, 1), random_covariance(d_out, 2))


def test_the_loss_of_the_linear_network_is_the_squared_error():
    params = linear.Params(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [0.5]]))
    x, y = jnp.array([2.0]), jnp.array([5.0])
    assert linear.predict(params, x).tolist() == [8.0]  # (1·3 + 2·½)·2
    assert linear.loss(params, (x, y)) == 9.0


def test_the_loss_of_the_linear_network_has_its_symmetry():
    params = linear.init(jax.random.key(0), d_in=3, d_hidden=4, d_out=2)
    sample = jax.random.normal(jax.random.key(1), (3,)), jax.random.normal(jax.random.key(2), (2,))
    draw = jax.random.normal(jax.random.key(3), (4, 4))
    element = (draw + draw.T) / 2
    moved = linear.symmetry.act(params, element)
    assert float(jnp.max(jnp.abs(moved.up - params.up))) > 0.1
    np.testing.assert_allclose(linear.loss(moved, sample), linear.loss(params, sample), rtol=1e-11)
    gradient = jax.grad(linear.loss)(params, sample)
    generated = linear.symmetry.generator(params, element)
    inner = sum(jnp.vdot(a, g) for a, g in zip(generated, gradient, strict=True))
    np.testing.assert_allclose(inner, 0, atol=1e-12)


def test_the_charge_of_the_linear_network():
    params = linear.init(jax.random.key(0), d_in=3, d_hidden=4, d_out=2)
    expected = params.up.T @ params.up - params.down @ params.down.T
    np.testing.assert_allclose(linear.symmetry.charge(params), expected, rtol=1e-13, atol=1e-15)


def test_initial_weights_have_their_shapes_and_spread():
    params = linear.init(jax.random.key(0), d_in=100, d_hidden=60, d_out=80)
    assert (params.up.shape, params.down.shape) == ((80, 60), (60, 100))
    for array in params:  # the standard error of a standard deviation is 1/√(2n) ≤ 1.1 %
        np.testing.assert_allclose(jnp.std(array), 0.1, rtol=0.05)
    wide = linear.init(jax.random.key(0), d_in=100, d_hidden=60, d_out=80, std=0.5)
    np.testing.assert_allclose(wide.up, 5 * params.up, rtol=1e-12)
    assert not np.allclose(params.up[:, :60].T[:, :60], params.down[:, :80][:, :60])


def test_moment_matched_samples_have_the_exact_second_moments():
    population = teacher()
    x, y = population.moment_matched(jax.random.key(0), 7)
    assert (x.shape, y.shape) == ((7, 3), (7, 2))
    noise = y - x @ population.V.T
    np.testing.assert_allclose(x.T @ x / 7, random_covariance(3, 1), rtol=1e-12)
    np.testing.assert_allclose(noise.T @ noise / 7, random_covariance(2, 2), rtol=1e-12)
    np.testing.assert_allclose(x.T @ noise, 0, atol=1e-12)


def test_moment_matching_needs_as_many_samples_as_dimensions():
    with pytest.raises(ValueError, match=r"n is 4; expected at least d_x \+ d_y = 5 samples"):
        teacher().moment_matched(jax.random.key(0), 4)


def test_moment_matched_samples_have_the_risk_of_the_population():
    """E‖UWx − y‖² = Tr[Δ Σ_x Δᵀ] + Tr Σ_ε, Δ = UW − V."""
    population = teacher()
    params = linear.init(jax.random.key(0), 3, 4, 2)
    gap = params.up @ params.down - population.V
    expected = jnp.trace(gap @ random_covariance(3, 1) @ gap.T) + np.trace(random_covariance(2, 2))
    problem = ne.Problem(linear.loss, population.moment_matched(jax.random.key(0), 5))
    np.testing.assert_allclose(problem.risk(params), expected, rtol=1e-12)


@pytest.mark.slow
def test_samples_of_a_teacher_have_its_moments():
    population = teacher()
    count = 200_000
    x, y = jax.vmap(population)(jax.random.split(jax.random.key(0), count))
    joint = np.concatenate([x, y - x @ population.V.T], axis=1)
    expected = np.block([[random_covariance(3, 1), np.zeros((3, 2))], [np.zeros((2, 3)), random_covariance(2, 2)]])
    products = np.einsum("ni,nj->nij", joint, joint)
    z = (products.mean(0) - expected) / (products.std(0) / np.sqrt(count))
    assert np.abs(z).max() < 4  # 15 distinct entries
    assert np.abs(joint.mean(0) / (joint.std(0) / np.sqrt(count))).max() < 4


def test_a_singular_covariance_is_allowed():
    population = ne.data.LinearTeacher(jnp.eye(2), np.diag([1.0, 0.0]), np.zeros((2, 2)))
    x, y = jax.vmap(population)(jax.random.split(jax.random.key(0), 10))
    assert bool(jnp.all(x[:, 1] == 0))
    np.testing.assert_allclose(y, x, rtol=1e-14)


@pytest.mark.float32
def test_a_teacher_follows_the_precision_of_its_matrix():
    population = ne.data.LinearTeacher(jnp.eye(2), np.eye(2), np.eye(2))
    arrays = [*population(jax.random.key(0)), *population.moment_matched(jax.random.key(0), 4)]
    assert all(array.dtype == jnp.float32 for array in arrays)


@pytest.mark.parametrize(
    ("cov_x", "cov_noise", "message"),
    [
        (np.eye(3), np.eye(2), r"cov_x has shape \(3, 3\); expected \(2, 2\) to fit V"),
        (np.eye(2), np.eye(3), r"cov_noise has shape \(3, 3\); expected \(2, 2\) to fit V"),
        (
            np.array([[1.0, 2.0], [2.0, 1.0]]),
            np.eye(2),
            r"cov_x is not symmetric positive semidefinite \(least .* -1\)",
        ),
        (np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]]), "cov_noise is not symmetric positive semidefinite"),
        (np.eye(2), -np.eye(2), "cov_noise is not symmetric positive semidefinite"),
    ],
    ids=["shape-of-x", "shape-of-noise", "indefinite", "not-symmetric", "negative"],
)
def test_a_bad_covariance_is_refused(cov_x, cov_noise, message):
    with pytest.raises(ValueError, match=message):
        ne.data.LinearTeacher(jnp.eye(2), cov_x, cov_noise)


def test_digits_are_standardised_and_centred():
    x, y = ne.data.digits()
    assert (x.shape, y.shape) == ((1797, 61), (1797, 10))
    assert x.dtype == y.dtype == np.float64
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=0), 3 / np.sqrt(61), rtol=1e-12)
    np.testing.assert_allclose((x**2).sum(axis=1).mean(), 9, rtol=1e-12)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.sort(y, axis=1)[:, -1] - np.sort(y, axis=1)[:, 0] > 0.9, True)
    np.testing.assert_allclose(ne.data.digits(scale=2.0)[0].std(axis=0), 2, rtol=1e-12)


# --- samples with the noise of the population ------------------------------------------------------------------------


@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (2, 2), (4, 5), (6, 9)])
def test_noise_matched_samples_have_every_moment_up_to_the_fourth(d_in, d_out):
    population = ne.data.LinearTeacher(jnp.zeros((d_out, d_in)), np.eye(d_in), np.eye(d_out))
    z = np.concatenate(population.noise_matched(), axis=1)
    d = d_in + d_out
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-13)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(d), atol=1e-13)
    pairs = np.einsum("ni,nj->nij", z, z).reshape(len(z), -1)
    np.testing.assert_allclose(z.T @ pairs / len(z), 0, atol=1e-12)
    eye = np.eye(d)
    isserlis = sum(np.einsum(f"{a},{b}->ijkl", eye, eye) for a, b in (("ij", "kl"), ("ik", "jl"), ("il", "jk")))
    np.testing.assert_allclose(pairs.T @ pairs / len(z), isserlis.reshape(d * d, d * d), atol=1e-11)


def test_noise_matched_samples_have_the_covariances_of_their_teacher():
    population = teacher()
    x, y = population.noise_matched()
    noise = y - x @ population.V.T
    assert (x.shape, y.shape) == ((100, 3), (100, 2))
    np.testing.assert_allclose(x.T @ x / 100, random_covariance(3, 1), rtol=1e-12)
    np.testing.assert_allclose(noise.T @ noise / 100, random_covariance(2, 2), rtol=1e-12)


def test_noise_matched_samples_have_their_limit():
    assert ne.data.LinearTeacher(jnp.ones((1, 30)), np.eye(30), np.eye(1)).noise_matched()[0].shape == (1156, 30)
    with pytest.raises(ValueError, match="moments of 256 dimensions are to be matched; expected at most 255"):
        ne.data.LinearTeacher(jnp.ones((1, 255)), np.eye(255), np.eye(1)).noise_matched()
