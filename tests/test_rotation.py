"""Noise that turns the hidden axis: why the Grams of SGD need not be those of the noise equilibrium, as η → 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

NOISE = {"isotropic": np.eye(2), "anisotropic": np.diag([1.6, 0.4])}
BASIS = np.eye(4).reshape(4, 2, 2)  # of the elements C of gl(2): U → UC, W → −CW


def minimum(name):
    """Every pair of x and ε from ± columns, so that they are independent, and the equilibrium at UW = V."""
    draw = np.random.default_rng(0)
    V = draw.normal(size=(2, 3)) / 1.7
    turns = [np.linalg.qr(draw.normal(size=(n, n)))[0] for n in (3, 2)]
    root_noise = np.sqrt(0.2) * turns[1] @ NOISE[name]
    x = np.sqrt(3) * np.concatenate([turns[0].T, -turns[0].T])
    noise = np.sqrt(2) * np.concatenate([root_noise.T, -root_noise.T])
    x, noise = (np.array(part) for part in zip(*itertools.product(x, noise), strict=True))
    left, singular, right = np.linalg.svd(V, full_matrices=False)
    start = linear.Params(jnp.asarray(left * singular**0.5), jnp.asarray(singular[:, None] ** 0.5 * right))
    problem = ne.Problem(linear.loss, (jnp.asarray(x), jnp.asarray(x @ V.T + noise)))
    return problem, ne.find_equilibrium(problem, start, linear.symmetry, 0.01).params


def motion_along(problem, params):
    """C with θ̇ = (UC, −CW) the drift along the valley by the noise: ⟨A_Bθ, θ̇⟩ = Tr[A_B Cov H] for every B of gl(d).

    Per unit of 2σ²; theory, "The drift along the valley". Also returns the forces Tr[A_B Cov H] and Tr[A_B Σ]/2.
    """
    theta, unflatten = ne.flatten(params)
    hessian = jax.hessian(lambda theta: problem.risk(unflatten(theta)))(theta)
    sigma = ne.gradient_covariance(problem, params)
    values, vectors = jnp.linalg.eigh(hessian)
    across = values > 1e-8 * values[-1]
    sums = jnp.where(across[:, None] & across, values[:, None] + values, jnp.inf)
    covariance = vectors @ ((vectors.T @ sigma @ vectors) / sums) @ vectors.T

    def moved(params, element):
        return ne.flatten(linear.Params(params.up @ element, -element @ params.down))[0]

    fields = jax.vmap(lambda element: moved(params, element))(BASIS)
    generators = jax.vmap(lambda element: jax.vmap(lambda row: moved(unflatten(row), element))(jnp.eye(len(theta))).T)(
        BASIS
    )
    forces = jnp.einsum("bij,jk,ki->b", generators, covariance, hessian)
    element = jnp.linalg.solve(fields @ fields.T, forces).reshape(2, 2)
    return element, forces, jnp.einsum("bij,ji->b", generators, sigma) / 2


@jax.jit
def settled(problem, params):
    """Where the drift along the valley only turns the axis any more."""

    def step(_, params):
        turn = jax.scipy.linalg.expm(0.05 * motion_along(problem, params)[0])
        return linear.Params(params.up @ turn, jnp.linalg.solve(turn, params.down))

    return jax.lax.fori_loop(0, 2000, step, params)


def grams(params):
    return jnp.concatenate([(params.up @ params.up.T).ravel(), (params.down.T @ params.down).ravel()])


@pytest.mark.parametrize("name", NOISE)
def test_the_drift_along_the_valley_is_the_noether_flow_and_a_rotation(name):
    """Symmetric elements feel σ²Tr[AΣ], whatever the noise; antisymmetric ones nothing if Σ and H commute."""
    problem, params = minimum(name)
    params = linear.symmetry.act(params, jnp.array([[0.3, -0.1], [-0.1, -0.2]]))
    _, forces, expected = motion_along(problem, params)
    forces, expected = forces.reshape(2, 2), expected.reshape(2, 2)
    np.testing.assert_allclose(forces + forces.T, expected + expected.T, atol=1e-12)
    flow = ne.noether_flow(problem, params, linear.symmetry, 0.5)
    np.testing.assert_allclose(expected + expected.T, flow, atol=1e-12)
    turning = abs(forces[0, 1] - forces[1, 0])
    assert turning < 1e-12 if name == "isotropic" else turning > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISE)
def test_sgd_settles_where_the_noise_only_turns_the_axis(name):
    """32 seeds, extrapolated from η and η/2: at the noise equilibrium only if the noise is isotropic."""
    problem, params = minimum(name)
    there = settled(problem, params)
    element = motion_along(problem, there)[0]
    np.testing.assert_allclose(element, -element.T, atol=1e-10)
    means, errors = [], []
    for halvings in (1, 2):
        rate, steps = 0.02 / 2**halvings, 30_000 * 4**halvings

        def run(key, rate=rate, steps=steps):
            return ne.simulate(
                problem, ne.SGD(rate, 1), there, steps, key=key, observe={"q": grams}, every=steps // 400
            ).observed["q"]

        seen = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(halvings), 32))[:, 200:].mean(axis=1))
        means.append(seen.mean(axis=0))
        errors.append(seen.std(axis=0, ddof=1) / 32**0.5)
    mean, error = 2 * means[1] - means[0], np.hypot(2 * errors[1], errors[0])
    assert np.all(np.abs(mean - grams(there)) < 3 * error)
    shift = np.abs(mean - grams(params)) / error
    assert np.all(shift < 3) if name == "isotropic" else np.max(shift) > 6
