"""Noise of data that are redrawn at every visit: the choice of samples, and the redrawing, apart."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne

N, LEVEL = 4, 0.7
PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4)}
DATA = (normal(3, N, 4), normal(4, N, 2))
ROTATION = ne.double_rotation(leaf("u"), leaf("w"))


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


def with_signs(key, sample):
    """Label noise of two values, so that expectations are finite sums."""
    x, y = sample
    return x, y + LEVEL * jax.random.rademacher(key, y.shape, y.dtype)


PROBLEM = ne.Problem(linear, ne.Redrawn(DATA, with_signs))


def all_gradients():
    """(N, 4, P): the gradient of every sample for each of the four values of its label noise."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=2)))
    gradient = jax.grad(lambda p, x, y: linear(p, (x, y)))

    def flat(x, y):
        return ne.flatten(gradient(PARAMS, x, y))[0]

    x, y = DATA
    over_signs = jax.vmap(flat, (None, 0))
    return np.stack([over_signs(x[i], y[i] + LEVEL * signs) for i in range(N)])


def grams(covariance):
    """M₊ and M₋ of a covariance of the parameters (u: 2 × 3, w: 3 × 4)."""
    plus = sum(covariance[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] for i in range(2))
    w = covariance[6:, 6:].reshape(3, 4, 3, 4)
    return plus, np.einsum("kimi->km", w)


@pytest.mark.parametrize(("size", "replacement"), [(2, True), (2, False), (4, False)])
def test_the_two_parts_make_the_noise_of_a_minibatch(size, replacement):
    """Against the covariance over all batches and all label noises; 4096 redraws of each sample, 5 standard errors."""
    gradients = all_gradients()
    means, within = gradients.mean(axis=1), np.mean([np.cov(g, rowvar=False, bias=True) for g in gradients], axis=0)
    between = np.cov(means, rowvar=False, bias=True)
    factor = 1 if replacement else (N - size) / (N - 1)
    exact = (between * factor + within) / size
    runs = [
        ne.redrawn_moments(PROBLEM, PARAMS, ROTATION, key=jax.random.key(k), redraws=256).of_batch(size, replacement)
        for k in range(16)
    ]
    for place, expected in enumerate(grams(exact)):
        values = np.stack([run.noise[place] for run in runs])
        error = np.std(values, axis=0, ddof=1) / 4
        assert np.max(np.abs(values.mean(axis=0) - expected) / (error + 1e-12 * np.max(expected))) < 5
        assert np.max(error) < 0.02 * np.max(expected)


def test_the_formula_is_the_covariance_over_all_minibatches():
    """Cov ĝ by enumeration of every batch without replacement and every label noise of its samples."""
    gradients, size = all_gradients(), 2
    every = [
        (gradients[i][a] + gradients[j][b]) / 2
        for i, j in itertools.combinations(range(N), size)
        for a, b in itertools.product(range(4), repeat=2)
    ]
    within = np.mean([np.cov(g, rowvar=False, bias=True) for g in gradients], axis=0)
    between = np.cov(gradients.mean(axis=1), rowvar=False, bias=True)
    expected = (between * (N - size) / (N - 1) + within) / size
    np.testing.assert_allclose(np.cov(np.stack(every), rowvar=False, bias=True), expected, atol=1e-11)


def test_both_parts_are_unbiased_at_two_redraws():
    """Means over many keys; two redraws, where the bias of the plain formulas would be largest."""
    gradients = all_gradients()
    within = np.mean([np.cov(g, rowvar=False, bias=True) for g in gradients], axis=0)
    between = np.cov(gradients.mean(axis=1), rowvar=False, bias=True)

    def parts(key):
        moments = ne.redrawn_moments(PROBLEM, PARAMS, ROTATION, key=key, redraws=2)
        return moments.between.noise_plus, moments.within.noise_plus

    values = jax.jit(jax.vmap(parts))(jax.random.split(jax.random.key(3), 2000))
    for ours, exact in zip(values, (between, within), strict=True):
        error = np.std(ours, axis=0, ddof=1) / np.sqrt(2000)
        expected = grams(exact)[0]
        assert np.max(np.abs(np.mean(ours, axis=0) - expected) / error) < 4.5
        assert np.max(error) < 0.05 * np.max(np.abs(expected))


def test_without_noise_in_the_redraws_nothing_is_within():
    problem = ne.Problem(linear, ne.Redrawn(DATA, lambda key, sample: sample))
    moments = ne.redrawn_moments(problem, PARAMS, [ROTATION, ne.scaling()], key=jax.random.key(0), redraws=3)
    plain = ne.noise_moments(ne.Problem(linear, DATA), PARAMS, [ROTATION, ne.scaling()])
    batch = moments.of_batch(2, replacement=False)
    for ours, within, exact in zip(batch, moments.within, plain, strict=True):
        size = float(jnp.max(exact.noise_plus))
        np.testing.assert_allclose(within.noise_plus, 0, atol=1e-12 * size)
        np.testing.assert_allclose(ours.noise_plus, exact.noise_plus / 3, atol=1e-12 * size)


def test_other_data_and_too_few_redraws_are_refused():
    with pytest.raises(ValueError, match="redrawn_moments needs data that are redrawn at every visit"):
        ne.redrawn_moments(ne.Problem(linear, DATA), PARAMS, ROTATION, key=jax.random.key(0))
    with pytest.raises(ValueError, match="redraws is 1; expected an integer of at least 2"):
        ne.redrawn_moments(PROBLEM, PARAMS, ROTATION, key=jax.random.key(0), redraws=1)
