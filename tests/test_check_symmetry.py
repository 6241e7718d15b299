"""A loss and its symmetry, sample by sample: Eq. (3)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import per_sample_gradients
from noise_equilibrium._symmetry._check import _second_order
from noise_equilibrium.models import two_layer_linear as linear


def data_and_params():
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (7, 3)), jax.random.normal(keys[1], (7, 2))
    return data, linear.init(keys[2], 3, 4, 2)


def broken(params, sample):
    return linear.loss(params, sample) + 0.01 * params.up[0, 0] ** 2


def brute_force(problem, params):
    gradients = per_sample_gradients(problem, params)
    rows = np.concatenate([np.reshape(gradient, (len(gradient), -1)) for gradient in gradients], axis=1)
    worst = 0.0
    for k, m in itertools.combinations_with_replacement(range(4), 2):
        element = np.zeros((4, 4))
        element[k, m] = element[m, k] = 1
        tangent = np.asarray(ne.flatten(linear.symmetry.generator(params, jnp.asarray(element)))[0])
        ratio = np.abs(rows @ tangent) / np.linalg.norm(tangent) / np.linalg.norm(rows, axis=1)
        worst = max(worst, ratio.max())
    return worst


def test_a_symmetric_loss_passes():
    data, params = data_and_params()
    problem = ne.Problem(linear.loss, data)
    assert ne.symmetry_violation(problem, params, linear.symmetry) < 1e-14
    ne.check_symmetry(problem, params, linear.symmetry)


def test_the_violation_is_the_maximum_over_samples_and_elements():
    data, params = data_and_params()
    problem = ne.Problem(broken, data)
    violation = ne.symmetry_violation(problem, params, linear.symmetry)
    np.testing.assert_allclose(violation, brute_force(problem, params), rtol=1e-12)


def test_the_error_names_sample_element_size_and_threshold():
    data, params = data_and_params()
    with pytest.raises(
        ne.SymmetryError, match=r"at sample \d, .* for the element B\[0, \d\]; expected at most 1.49e-08"
    ):
        ne.check_symmetry(ne.Problem(broken, data), params, linear.symmetry)


def test_a_nan_is_a_violation_and_a_vanishing_gradient_is_none():
    symmetry = ne.rescaling(lambda p: p[0], lambda p: p[1])
    params = (jnp.array(2.0), jnp.array(3.0))
    samples = jnp.array([0.0, 1.0])
    ne.check_symmetry(ne.Problem(lambda p, z: z * p[0] * p[1], samples), params, symmetry)
    with pytest.raises(ne.SymmetryError, match=r"at sample 0, .* is nan"):
        ne.check_symmetry(ne.Problem(lambda p, z: p[0] * p[1] * jnp.log(z - 0.5), samples), params, symmetry)


@pytest.mark.slow
def test_the_second_order_holds_the_activations_of_one_chunk_of_samples():
    params = {"u": jnp.ones((1, 3)), "w": jnp.ones((3, 2))}
    bound = ne.double_rotation((lambda p: p["u"], 1), (lambda p: p["w"], 0)).bind(params)

    def loss(p, x):
        return jnp.sum(jnp.sin(p["u"] @ p["w"] @ x)) ** 2

    def held(count):
        check = jax.jit(lambda data: _second_order(ne.Problem(loss, data), params, bound))
        data = jax.ShapeDtypeStruct((count, 2, 500), float)
        return check.lower(data).compile().memory_analysis().temp_size_in_bytes

    assert held(64 * 20) < 1.2 * held(64)
