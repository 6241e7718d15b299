"""Traces with a generator, charge rates of single samples, and the noise of a minibatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import per_sample_gradients
from noise_equilibrium._per_sample import _chunks

PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4)}
DATA = (normal(3, 5, 4), normal(4, 5, 2))
SIZE = 18
GENERATOR = np.diag(np.linspace(-1, 2, SIZE)) + 0.1 * np.ones((SIZE, SIZE))


def loss(p, z):
    return squared(p["u"] @ jnp.tanh(p["w"] @ z[0]), z[1])


def escaping(p, z):
    return squared(p["u"] @ jnp.tanh(jnp.sin(p["w"]) @ z[0]), z[1])


PROBLEM = ne.Problem(loss, DATA)
SYMMETRIES = {
    "scaling": ne.scaling(),
    "neurons": ne.neuron_rescaling((leaf("u"), 1), (leaf("w"), 0)),
    "rotation": ne.double_rotation(leaf("u"), leaf("w")),
    "blocks": ne.Symmetry([ne.Leg(leaf("w"), 1, -1, blocks=2)], "symmetric"),
    "matrix": ne.exponential_symmetry(GENERATOR),
    "function": ne.exponential_symmetry(lambda v: jnp.asarray(GENERATOR, v.dtype) @ v),
}
every_symmetry = pytest.mark.parametrize("name", SYMMETRIES)


@every_symmetry
def test_the_trace_is_that_of_the_dense_covariance(name):
    """Tr[ΣA] over a basis of elements: the inner product of B with what is returned."""
    symmetry = SYMMETRIES[name]
    trace = ne.noise_trace(PROBLEM, PARAMS, symmetry)
    covariance = np.asarray(ne.gradient_covariance(PROBLEM, PARAMS))
    _, unflatten = ne.flatten(PARAMS)
    element = normal(6, *trace.shape)
    element = element + np.swapaxes(element, -1, -2) if np.ndim(trace) > 1 and name != "neurons" else element
    matrix = jax.vmap(lambda e: ne.flatten(symmetry.generator(unflatten(e), element))[0])(jnp.eye(SIZE)).T
    np.testing.assert_allclose(np.sum(element * trace), np.trace(covariance @ matrix), rtol=1e-11)


def test_without_a_symmetry_it_is_the_trace_of_the_covariance():
    total = np.trace(ne.gradient_covariance(PROBLEM, PARAMS))
    np.testing.assert_allclose(ne.noise_trace(PROBLEM, PARAMS), total, rtol=1e-12)
    np.testing.assert_allclose(ne.noise_trace(PROBLEM, PARAMS, batch_size=4), total / 4, rtol=1e-12)


@every_symmetry
@pytest.mark.parametrize("of", [loss, escaping], ids=["factors", "tapped"])
def test_the_charge_rate_of_a_sample_is_the_charge_of_its_gradient(name, of):
    symmetry, problem = SYMMETRIES[name], ne.Problem(of, DATA)
    rates = ne.charge_rates(problem, PARAMS, symmetry)
    gradients = per_sample_gradients(problem, PARAMS)
    expected = [symmetry.charge({"u": gradients[0][i], "w": gradients[1][i]}) for i in range(5)]
    np.testing.assert_allclose(rates, expected, rtol=1e-10, atol=1e-12 * np.max(np.abs(expected)))


def test_the_mean_charge_rate_is_that_of_the_moments():
    moments = ne.noise_moments(PROBLEM, PARAMS, SYMMETRIES["rotation"])
    total = moments.noise_plus + moments.mean_plus - moments.noise_minus - moments.mean_minus
    rates = ne.charge_rates(PROBLEM, PARAMS, SYMMETRIES["rotation"])
    np.testing.assert_allclose(jnp.mean(rates, axis=0), total, atol=1e-12 * float(jnp.max(jnp.abs(total))))


@pytest.mark.parametrize("name", ["rotation", "function"])
def test_charge_rates_in_chunks_keep_the_order_of_the_samples(monkeypatch, name):
    data = (normal(3, 7, 4), normal(4, 7, 2))
    whole = ne.charge_rates(ne.Problem(escaping, data), PARAMS, SYMMETRIES[name])
    monkeypatch.setattr(_chunks, "CHUNK_BYTES", 3 * 12 * 8)
    chunked = ne.charge_rates(ne.Problem(lambda p, z: escaping(p, z), data), PARAMS, SYMMETRIES[name])
    np.testing.assert_allclose(chunked, whole, rtol=1e-12)


def test_a_charge_rate_is_an_observable_and_obeys_the_exact_step():
    """At S = 1 without decay, C(θ') − C(θ) = η² gᵀAg for the sample that was drawn."""
    symmetry = ne.double_rotation(leaf("u"), leaf("w"))
    problem = ne.Problem(lambda p, z: squared(p["u"] @ (p["w"] @ z[0]), z[1]), DATA)
    run = ne.simulate(
        problem,
        ne.SGD(0.01, 1),
        PARAMS,
        6,
        key=jax.random.key(0),
        observe={"charge": symmetry.charge, "rates": lambda p: ne.charge_rates(problem, p, symmetry)},
    )
    steps = np.diff(run.observed["charge"], axis=0)
    gaps = np.abs(steps[:, None] - 0.01**2 * run.observed["rates"][:-1]).max(axis=(2, 3))
    assert np.max(np.min(gaps, axis=1)) < 1e-14  # one of the samples explains each step
    assert np.median(gaps) > 1e-6
