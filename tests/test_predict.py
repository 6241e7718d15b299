"""Predictions of where SGD ends, against closed forms, and against SGD itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import NEURONS, relu_loss

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear


def isotropic_problem():
    """Every pair of x and ε from ± columns: independent, Σ_x = I and Σ_ε = 0.2 I exactly."""
    V = np.random.default_rng(0).normal(size=(2, 3)) / 1.7
    x = np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
    noise = np.sqrt(2 * 0.2) * np.concatenate([np.eye(2), -np.eye(2)])
    x, noise = (np.array(part) for part in zip(*itertools.product(x, noise), strict=True))
    return ne.Problem(linear.loss, (jnp.asarray(x), jnp.asarray(x @ V.T + noise))), V


def start():
    return linear.init(jax.random.key(2), 3, 2, 2)


def grams(params):
    """What rotations of the hidden layer leave of the charge: U Uᵀ and WᵀW."""
    return jnp.concatenate([(params.up @ params.up.T).ravel(), (params.down.T @ params.down).ravel()])


def test_a_linear_network_is_predicted_at_its_closed_form():
    """U W = V and W Wᵀ/d_x = UᵀU/d_y; Tr∇²L by Proposition 5.3 and by 4√(d_y Tr Σ_x)‖V‖_*; ‖θ − θ_given‖."""
    problem, V = isotropic_problem()
    found = ne.predict(problem, start(), linear.symmetry, 0.01)
    assert ne.Status(int(found.status)) == ne.Status.CONVERGED
    assert found.slope < 1e-7
    up, down = found.params
    np.testing.assert_allclose(up @ down, V, atol=1e-7)
    np.testing.assert_allclose(down @ down.T / 3, up.T @ up / 2, atol=1e-7)
    np.testing.assert_allclose(found.charges, up.T @ up - down @ down.T, atol=1e-12)
    by_hand = 2 * (2 * jnp.sum(down**2) + 3 * jnp.sum(up**2))
    np.testing.assert_allclose(found.sharpness, by_hand, rtol=1e-10)
    np.testing.assert_allclose(found.sharpness, 4 * np.sqrt(2 * 3) * np.linalg.norm(V, "nuc"), rtol=1e-6)
    moved = ne.flatten(found.params)[0] - ne.flatten(start())[0]
    np.testing.assert_allclose(found.distance, jnp.linalg.norm(moved), rtol=1e-12)
    np.testing.assert_allclose(found.minimum.up @ found.minimum.down, V, atol=1e-7)


def test_a_prediction_may_have_several_symmetries():
    problem, _ = isotropic_problem()
    rows = [ne.neuron_rescaling((lambda p: p.up, 1), (lambda p: p.down, 0))]
    found = ne.predict(problem, start(), rows, ne.SGD(0.01, 1))
    assert ne.Status(int(found.status)) == ne.Status.CONVERGED
    np.testing.assert_allclose(found.charges[0], rows[0].charge(found.params), atol=1e-12)
    step = ne.expected_charge_step(problem, found.params, rows[0], ne.SGD(0.01, 1))
    np.testing.assert_allclose(step, 0, atol=1e-12)


def test_too_few_steps_down_are_a_status():
    problem, _ = isotropic_problem()
    found = ne.predict(problem, start(), linear.symmetry, 0.01, steps=2)
    assert ne.Status(int(found.status)) == ne.Status.NOT_CONVERGED
    assert found.slope > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "steps is 0"), ({"steps": 1.5}, "steps is 1.5"), ({"tolerance": 0.0}, "tolerance is 0.0")],
    ids=["no-steps", "broken-steps", "no-tolerance"],
)
def test_bad_settings_are_refused(arguments, message):
    problem, _ = isotropic_problem()
    with pytest.raises(ValueError, match=message):
        ne.predict(problem, start(), linear.symmetry, 0.01, **arguments)


def relu_problem():
    keys = jax.random.split(jax.random.key(1), 3)
    teacher = {
        "w": jnp.array([[1.0, 0.3], [-0.5, 1.0]]),
        "b": jnp.array([0.3, 0.2]),
        "u": jnp.array([[1.0, 0.4], [-0.3, 1.0]]),
    }
    x = jax.random.normal(keys[0], (500, 2))
    hidden = jax.nn.relu(x @ teacher["w"].T + teacher["b"])
    y = hidden @ teacher["u"].T + 0.4 * jax.random.normal(keys[1], (500, 2))
    begin = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(keys[2], leaf.shape), teacher)
    return ne.Problem(relu_loss, (x, y)), begin


def digits_problem():
    """One linear unit on handwritten digits: what no closed form covers. It starts a factor e^0.2 out of balance."""
    x, y = ne.data.digits()
    problem = ne.Problem(linear.loss, (jnp.asarray(x), jnp.asarray(y)))
    found = ne.predict(problem, linear.init(jax.random.key(0), 61, 1, 10), linear.symmetry, ne.SGD(0.04, 32))
    return problem, linear.symmetry.act(found.params, jnp.full((1, 1), 0.2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "relu", "digits"])
def test_long_runs_of_sgd_end_where_predicted(name):
    """Charges within 3 standard errors over 16 seeds, after the O(η) bias is extrapolated from η and η/2."""
    rate, batch, steps = 0.02, 1, 60_000
    if name == "linear":
        problem, begin, symmetry, observe = isotropic_problem()[0], start(), linear.symmetry, grams
    elif name == "relu":
        (problem, begin), symmetry, observe = relu_problem(), NEURONS, NEURONS.charge
    else:  # with a larger noise the bias is not linear any more
        (problem, begin), symmetry, observe = digits_problem(), linear.symmetry, linear.symmetry.charge
        rate, batch, steps = 0.04, 32, 510_000
    gaps, errors = [], []
    for halvings in range(2):
        sgd = ne.SGD(rate / 2**halvings, batch)
        found = ne.predict(problem, begin, symmetry, sgd)
        assert ne.Status(int(found.status)) == ne.Status.CONVERGED
        length = steps * 4**halvings  # the same rate × steps
        first = begin if name == "digits" else found.minimum

        def run(key, sgd=sgd, length=length, first=first):
            return ne.simulate(
                problem, sgd, first, length, key=key, observe={"q": observe}, every=length // 400
            ).observed["q"]

        rates = ne.relaxation_rates(problem, found.params, symmetry, sgd)
        assert jnp.min(rates) * sgd.learning_rate * length / 2 >= 8  # converged before the second half
        seen = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(halvings), 16))[:, 200:].mean(axis=1)
        gaps.append(np.asarray(seen.mean(axis=0) - observe(found.params)))
        errors.append(np.asarray(seen.std(axis=0, ddof=1) / 4))
    extrapolated = 2 * gaps[1] - gaps[0]
    assert np.all(np.abs(extrapolated) < 3 * np.hypot(2 * errors[1], errors[0]))
