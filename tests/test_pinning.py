"""Pinning numbers against dense matrices, exact symmetries, and where SGD rests on a broken orbit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

LAW = 0.01


def gelu(params, x):
    return params["u"] @ jax.nn.gelu(params["w"] @ x)


def tanh(params, x):
    return params["u"] @ jnp.tanh(params["w"] @ x)


def normed(params, x):
    """A layer norm with ε: but for ε, W → e^ρ W changes nothing."""
    hidden = params["w"] @ x
    hidden = hidden - jnp.mean(hidden)
    return params["u"] @ jnp.tanh(hidden / jnp.sqrt(jnp.mean(hidden**2) + 1e-2))


def biased(params, x):
    """ReLU with biases, which the rescaling below does not scale with their weights."""
    return params["u"] @ jax.nn.relu(params["w"] @ x + params["b"])


def down(params):
    return params["w"]


def up(params):
    return params["u"]


ROTATION, SCALAR = ne.double_rotation(up, down), ne.rescaling(up, down)
NETWORKS = {
    "gelu": (gelu, ROTATION, SCALAR),
    "tanh": (tanh, ROTATION, SCALAR),
    "layer-norm": (normed, ne.scaling(down), ne.scaling(down)),
    "biases": (biased, ne.neuron_rescaling((up, 1), (down, 0)), SCALAR),
}


@functools.cache
def at_minimum(name, scale=1.0):
    """A network at a minimum: each input twice, with labels as far above as below what the network says."""
    network = NETWORKS[name][0]
    keys = jax.random.split(jax.random.key(4), 5)
    x = scale * jax.random.normal(keys[0], (12, 3))
    params = {
        "w": 0.7 * jax.random.normal(keys[1], (3, 3)),
        "u": jax.random.normal(keys[2], (2, 3)),
    } | ({"b": 0.3 * jax.random.normal(keys[3], (3,))} if name == "biases" else {})
    off = 0.5 * jax.random.normal(keys[4], (12, 2))
    y = jax.vmap(network, (None, 0))(params, x)

    def loss(params, sample):
        return jnp.sum((network(params, sample[0]) - sample[1]) ** 2)

    return ne.Problem(loss, (jnp.concatenate([x, x]), jnp.concatenate([y + off, y - off]))), params


def dense(problem, params, symmetry):
    """2σ²Tr[A²Σ], d²L/dλ² = ⟨Aθ, HAθ⟩ + ⟨∇L, A²θ⟩ and ‖Aθ‖² of an element, from matrices."""
    theta, unflatten = ne.flatten(params)
    risk = lambda theta: problem.risk(unflatten(theta))  # noqa: E731
    slope, hessian, covariance = jax.jit(
        lambda theta: (jax.grad(risk)(theta), jax.hessian(risk)(theta), ne.gradient_covariance(problem, params))
    )(theta)

    @jax.jit
    def of(element):
        act = lambda vector: ne.flatten(symmetry.generator(unflatten(vector), element))[0]  # noqa: E731
        generator, moved = jax.vmap(act)(jnp.eye(len(theta))).T, act(theta)
        noise = 2 * LAW * jnp.trace(generator @ generator @ covariance)
        return noise, moved @ hessian @ moved + slope @ act(moved), moved @ moved

    return of


def elements(symmetry, params):
    """Places in the charge, and the elements that belong to them."""
    shape = jnp.shape(symmetry.charge(params))
    for place in np.ndindex(*shape):
        element = jnp.zeros(shape).at[place].set(1)
        yield place, element if len(shape) < 2 or place[0] == place[1] else element + element.T


@pytest.mark.parametrize("name", [n if n == "tanh" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_numbers_and_rates_are_those_of_dense_matrices(name):
    problem, params = at_minimum(name)
    symmetry = NETWORKS[name][1]
    found = ne.pinning(problem, params, symmetry, LAW)
    expected = dense(problem, params, symmetry)
    for place, element in elements(symmetry, params):
        noise, curvature, square = expected(element)
        np.testing.assert_allclose(found.noise[place], noise / square, rtol=1e-9)
        np.testing.assert_allclose(found.loss[place], curvature / square, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(found.number[place], noise / curvature, rtol=1e-7)


@pytest.mark.parametrize(
    "name", ["tanh", *(pytest.param(n, marks=pytest.mark.slow) for n in ("biases", "gelu", "layer-norm"))]
)
def test_a_weak_noise_moves_the_rest_point_by_the_linear_law(name):
    """λ = −(σ²/2) d Tr Σ/dλ / (d²L/dλ²): the noise of all parameters, for those not scaled change theirs too."""
    problem, params = at_minimum(name)
    symmetry = NETWORKS[name][2]
    law = 1e-5 * float(LAW / ne.pinning(problem, params, symmetry, LAW).number)
    found = ne.pinning(problem, params, symmetry, law)
    np.testing.assert_allclose(found.number, 1e-5, rtol=1e-6)
    moments = ne.noise_moments(problem, params, symmetry)
    curvature = found.loss * (moments.weight_plus + moments.weight_minus)
    theta = lambda element: symmetry.act(params, element)  # noqa: E731
    trace = lambda element: jnp.trace(ne.gradient_covariance(problem, theta(element)))  # noqa: E731
    predicted = -law / 2 * jax.grad(trace)(jnp.asarray(0.0)) / curvature
    rest = ne.rest_on_orbit(problem, params, symmetry, law)
    assert problems.status(rest) == ne.Status.CONVERGED
    np.testing.assert_allclose(rest.element, predicted, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("name", problems.SYMMETRIES)
def test_an_exact_symmetry_is_not_pinned_anywhere(name):
    problem, params = problems.linear_problem(3, 4, 2, 12)
    found = ne.pinning(problem, params, problems.SYMMETRIES[name], LAW)
    assert bool(jnp.all(jnp.isposinf(found.number)))
    assert bool(jnp.all(found.loss == 0))
    np.testing.assert_array_less(0, found.noise)


@pytest.mark.slow
@pytest.mark.float32
def test_an_exact_symmetry_is_not_pinned_in_single_precision():
    problem, params = problems.linear_problem(3, 4, 2, 12)
    assert bool(jnp.all(jnp.isposinf(ne.pinning(problem, params, linear.symmetry, LAW).number)))
    weights = {"w": jnp.ones((3, 2)), "b": jnp.ones(3), "u": jnp.ones((2, 3))}
    data = jax.random.normal(jax.random.key(0), (9, 2)), jax.random.normal(jax.random.key(1), (9, 2))
    relu = ne.Problem(problems.relu_loss, data)
    assert bool(jnp.all(jnp.isposinf(ne.pinning(relu, weights, problems.NEURONS, LAW).number)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diagonal", pytest.param("symmetric", marks=pytest.mark.slow)])
def test_under_an_exact_symmetry_it_rests_at_the_noise_equilibrium(name):
    problem, params = problems.linear_problem(3, 2, 3, 30, decay=0.05)
    symmetry, law = problems.SYMMETRIES[name], ne.SGD(0.05, 2)
    rest = ne.rest_on_orbit(problem, params, symmetry, law)
    found = ne.find_equilibrium(problem, params, symmetry, law)
    assert problems.status(rest) == problems.status(found) == ne.Status.CONVERGED
    np.testing.assert_allclose(rest.element, found.element, atol=1e-5)
    assert rest.slope < 1e-5


def test_the_smaller_the_inputs_of_tanh_the_less_the_loss_pins():
    numbers = [ne.pinning(*at_minimum("tanh", scale), SCALAR, LAW).number for scale in (0.3, 1.0)]
    assert numbers[0] > 3 * numbers[1]


def test_a_measurement_takes_the_place_of_problem_and_point():
    problem, params = at_minimum("tanh")
    again = ne.pinning(ne.measure(problem, params, SCALAR), LAW)
    np.testing.assert_allclose(ne.pinning(problem, params, SCALAR, LAW).number, again.number, rtol=1e-9)


@pytest.mark.slow
def test_the_share_of_the_noise_is_that_of_the_law():
    problem, params = at_minimum("tanh")
    whole = ne.pinning(problem, params, SCALAR, 0.1 / 8)
    for law in (ne.SGD(0.1, 4), ne.Momentum(0.05, 0.5, 4)):
        np.testing.assert_allclose(ne.pinning(problem, params, SCALAR, law).number, whole.number, rtol=1e-12)
    few = ne.pinning(problem, params, SCALAR, ne.SGD(0.1, 4, False))
    np.testing.assert_allclose(few.number / whole.number, 20 / 23, rtol=1e-12)


def product_loss(params, sample):
    """(uw − z)² and a penalty on w that breaks the rescaling; at u = w the noise is balanced."""
    return (params["u"] * params["w"] - sample) ** 2 + 0.02 * (params["w"] - 1.5) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.02, 0.0025], ids=["noise-wins", "loss-wins"])
def test_sgd_rests_where_the_entropic_loss_is_least(rate):
    """E[w² − u²] of SGD, from Π = 3.1 to 0.39, against the rest point: to four standard errors and η."""
    problem = ne.Problem(product_loss, jnp.array([0.2, 1.8, -0.4, 2.4]))
    params, dynamics = {"u": jnp.array(1 / 1.5), "w": jnp.array(1.5)}, ne.SGD(rate, 1)
    symmetry, steps = ne.rescaling(lambda p: p["w"], lambda p: p["u"]), int(800 / rate)
    predicted = symmetry.charge(ne.rest_on_orbit(problem, params, symmetry, dynamics).params)

    def one(key):
        observe = {"charge": ne.running(symmetry.charge, 0.8)}
        run = ne.simulate(problem, dynamics, params, steps, key=key, observe=observe, every=steps)
        return run.observed["charge"].mean

    seen = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 16)))
    assert abs(seen.mean() - float(predicted)) < seen.std() + rate  # four errors of the mean of 16
    pinned, balanced = float(symmetry.charge(params)), 0.0
    number = float(ne.pinning(problem, params, symmetry, dynamics).number)
    share = (seen.mean() - balanced) / (pinned - balanced)
    assert (share < 1 / 4) if number > 3 else (share > 2 / 3)
