"""The gradient noise scale: equal to its definition, unbiased, and never a division by zero."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_move_along import loss, relu_problem

import noise_equilibrium as ne


def test_every_parameter_has_the_trace_and_the_squared_gradient_of_the_definition():
    problem, params = relu_problem()
    found = ne.gradient_noise_scale(problem, params)
    each = jax.vmap(jax.grad(loss), (None, 0))(params, problem.data)
    count = problem.num_samples

    def definition(gradients):
        rows = gradients.reshape(count, -1)
        mean = rows.mean(0)
        trace = ((rows - mean) ** 2).sum() / (count - 1)
        return trace, (mean**2).sum() - trace / count

    expected = [definition(leaf) for leaf in jax.tree.leaves(each)]
    np.testing.assert_allclose(jax.tree.leaves(found.trace), [trace for trace, _ in expected], rtol=1e-11)
    squares = jax.tree.leaves(found.squared_gradient)
    np.testing.assert_allclose(squares, [square for _, square in expected], rtol=1e-9)
    assert jax.tree.structure(found.trace) == jax.tree.structure(params)
    scale = sum(trace for trace, _ in expected) / sum(square for _, square in expected)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-9)


def test_the_mean_over_all_batches_is_that_of_the_population():
    """Exactly unbiased: over all 5³ batches of three draws from five samples."""
    problem, params = relu_problem()
    population = jax.tree.map(lambda leaf: leaf[:5], problem.data)
    each = jax.vmap(jax.grad(loss), (None, 0))(params, population)
    rows = jnp.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(each)], axis=1)
    batches = jnp.asarray(list(itertools.product(range(5), repeat=3)))

    def of_batch(indices):
        batch = ne.Problem(loss, jax.tree.map(lambda leaf: leaf[indices], population))
        noise = ne.gradient_noise_scale(batch, params)
        return sum(jax.tree.leaves(noise.trace)), sum(jax.tree.leaves(noise.squared_gradient))

    trace, square = jax.vmap(of_batch)(batches)
    np.testing.assert_allclose(trace.mean(), rows.var(0).sum(), rtol=1e-10)
    np.testing.assert_allclose(square.mean(), (rows.mean(0) ** 2).sum(), rtol=1e-9)
    assert jnp.any(square < 0)  # an unbiased estimate of a small square is negative at times


def test_the_scale_is_nan_where_the_gradient_drowns_in_its_noise():
    noise = ne.gradient_noise_scale(ne.Problem(lambda w, z: w * z, jnp.array([1.0, -1.0])), jnp.array(0.5))
    assert float(noise.squared_gradient) == -1.0
    assert jnp.isnan(noise.scale)
    nothing = ne.gradient_noise_scale(ne.Problem(lambda w, z: w**2 * z, jnp.array([1.0, 2.0])), jnp.array(0.0))
    assert float(nothing.trace) == 0.0
    assert jnp.isnan(nothing.scale)


def test_a_module_in_single_precision_inside_jit():
    with jax.enable_x64(False):
        model = eqx.nn.MLP(3, 2, 16, 2, key=jax.random.key(0))
        keys = jax.random.split(jax.random.key(1))
        data = jax.random.normal(keys[0], (50, 3)), jax.random.normal(keys[1], (50, 2))
        problem = ne.Problem(lambda m, z: jnp.sum((m(z[0]) - z[1]) ** 2), data)
        scale = eqx.filter_jit(lambda model: ne.gradient_noise_scale(problem, model).scale)(model)
        assert scale.dtype == jnp.float32
        exact = ne.gradient_noise_scale(problem, model).scale
        np.testing.assert_allclose(scale, exact, rtol=1e-5)


def test_what_has_no_noise_to_measure_is_refused():
    with pytest.raises(ValueError, match="got a single sample; expected at least 2"):
        ne.gradient_noise_scale(ne.Problem(lambda w, z: w * z, jnp.array([1.0])), jnp.array(0.5))
    stream = ne.Problem(lambda w, z: w * z, ne.Stream(jax.random.normal))
    with pytest.raises(ValueError, match=r"gradient_noise_scale needs an expectation over a finite data set"):
        ne.gradient_noise_scale(stream, jnp.array(0.5))
    with pytest.warns(UserWarning, match="does not depend on the sample"):
        ne.gradient_noise_scale(ne.Problem(lambda w, z: w**2, jnp.ones(3)), jnp.array(0.5))
