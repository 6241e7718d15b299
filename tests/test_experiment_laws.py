"""What studies hold measurements against, checked on small cases with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from experiments.deep_linear.cases import SIZE, teacher
from experiments.deep_linear.dead_mode import NOISE, dead_mode
from experiments.equalisation.rounding import predicted_error, rounded, sensitivities
from experiments.lora.adapters import Adapter, conditioning
from experiments.lora.study import predicted_changes
from experiments.weak_order.study import order_limit
from noise_equilibrium.models import deep_linear


@pytest.mark.parametrize(("grid", "steps"), [("tensor", [6.35 / 127] * 2), ("channel", [6.35 / 127, 1.27 / 127])])
def test_weights_are_rounded_to_the_nearest_of_their_grid(grid, steps):
    weight = jnp.array([[6.35, 0.26], [-1.27, 0.994]])
    found = np.asarray(rounded({"w": weight, "b": jnp.array([0.123])}, 8, grid)["w"])
    whole = found / np.array(steps)[:, None]
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    assert np.all(np.abs(found - weight) <= np.array(steps)[:, None] / 2 + 1e-12)
    assert np.asarray(rounded({"b": jnp.array([0.123])}, 8, grid)["b"]) == 0.123  # a bias is kept


@pytest.mark.parametrize("grid", ["tensor", "channel"])
@pytest.mark.parametrize("fewer", [0, 3])
def test_the_law_of_rounding_errors_on_a_linear_map(grid, fewer):
    """Of many random maps: the mean of error² over the law is 1 within four standard errors."""
    x = jax.random.normal(jax.random.key(0), (20, 5))
    logits = lambda params, x: params["w"] @ x  # noqa: E731

    def ratio(weight):
        params = {"w": weight}
        gap = rounded(params, 8, grid, fewer)["w"] - params["w"]
        law = predicted_error(params, sensitivities(logits, params, x), 8, grid, fewer)
        return jnp.mean(jnp.sum((x @ gap.T) ** 2, axis=1)) / law

    ratios = np.asarray(jax.jit(jax.vmap(ratio))(jax.random.normal(jax.random.key(1), (4000, 4, 5))))
    error = ratios.std(ddof=1) / len(ratios) ** 0.5
    assert error < 0.02
    assert abs(ratios.mean() - 1) < 4 * error


def test_the_conditioning_of_an_adapter_is_that_of_its_jacobian():
    draw = np.random.default_rng(0)
    b, a = draw.normal(size=(5, 2)), draw.normal(size=(2, 4))
    # Row-major: vec(dB A) = (I ⊗ Aᵀ) vec dB.
    values = np.linalg.svd(np.concatenate([np.kron(np.eye(5), a.T), np.kron(b, np.eye(4))], axis=1), compute_uv=False)
    reached = values[: 2 * (5 + 4) - 4]  # the dimension of matrices of rank 2
    assert values[len(reached)] < 1e-9 * values[0]
    np.testing.assert_allclose(
        conditioning([Adapter(jnp.asarray(b), jnp.asarray(a))]), reached[0] / reached[-1], rtol=1e-9
    )


def test_expected_steps_between_records_are_summed_not_integrated():
    step, rates = np.array([0, 1, 2, 5, 11]), np.array([2.0, -0.5])
    law = (1 + rates[:, None] * step)[:, :, None]
    every = (1 + rates[:, None] * np.arange(11)).cumsum(axis=1)
    found = predicted_changes(step, law)[:, :, 0]
    np.testing.assert_allclose(found[:, 1:], every[:, step[1:] - 1], rtol=1e-12)
    assert np.all(found[:, 0] == 0)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_in_the_limit_of_small_rates(order):
    rates = np.array([0.04, 0.02, 0.01])
    exact, error = order_limit(-3 * rates**order, 0.01 * rates**order)
    np.testing.assert_allclose(exact, order, rtol=1e-12)
    assert error > 0
    curved = rates**order * (1 + 5 * rates)
    finite = np.log2(curved[1] / curved[2])
    assert abs(order_limit(curved, curved)[0] - order) < abs(finite - order) / 5


def test_the_error_of_an_order_is_that_of_many_draws():
    rates, draws = np.array([0.04, 0.02, 0.01]), 4000
    spreads = 0.01 * rates
    seen = rates + spreads * np.random.default_rng(0).normal(size=(draws, 3))
    found = np.std([order_limit(one, spreads)[0] for one in seen])
    # A standard deviation from so many draws is right to 1/√(2 draws); four of them, and the curvature of log.
    assert abs(found / order_limit(rates, spreads)[1] - 1) < 4 / (2 * draws) ** 0.5 + 1e-3


@pytest.mark.parametrize(("depth", "ratio"), [(3, 0.0), (3, 0.7), (5, 0.7)])
def test_the_rates_of_a_dead_mode_are_those_of_its_charges_and_of_the_mean_gradient(depth, ratio):
    rate = 1e-3
    with jax.enable_x64(True):
        V = teacher(jax.random.key(4))
        mode = dead_mode(V, np.eye(SIZE), NOISE * np.eye(SIZE), depth)
        data = ne.data.LinearTeacher(V, np.eye(SIZE), NOISE * np.eye(SIZE)).noise_matched()
        problem, params = ne.Problem(deep_linear.loss, data), mode.start(ratio, rate)
        (u, v), (first, *_, last) = mode.ends, mode.hidden
        w, p = u @ params[-1] @ last, first @ params[0] @ v
        links = np.prod(
            [
                above @ weight @ below
                for weight, below, above in zip(params[1:-1], mode.hidden, mode.hidden[1:], strict=False)
            ]
        )
        np.testing.assert_allclose(links, ratio * rate * mode.threshold, atol=1e-12)
        # The charge of q is ‖W_{i+1} q‖² − ‖qᵀW_i‖²: of the last one w² less a link's, of the first a link's less p².
        lower, *_, upper = (
            ne.expected_charge_step(problem, params, one, ne.SGD(rate, 1)) for one in deep_linear.symmetries(depth)
        )
        rtol = 1e-6 + 5 * links**2  # the noise that passes through the links
        np.testing.assert_allclose(last @ upper @ last, -2 * rate**2 * mode.decay[0] * w**2, rtol=rtol)
        np.testing.assert_allclose(first @ lower @ first, 2 * rate**2 * mode.decay[1] * p**2, rtol=rtol)
        gradient = jax.grad(problem.risk)(params)
        np.testing.assert_allclose(-u @ gradient[-1] @ last, mode.growth * links * p, rtol=1e-5, atol=1e-15)
        np.testing.assert_allclose(-first @ gradient[0] @ v, mode.growth * links * w, rtol=1e-5, atol=1e-15)
        # Both together are a linear system of (w, p), whose larger eigenvalue is the exponent.
        (decay_w, decay_p), force = mode.decay, mode.growth * links / rate
        np.testing.assert_allclose(
            mode.exponent(ratio), np.linalg.eigvalsh([[-decay_w, force], [force, -decay_p]])[-1], rtol=1e-8
        )
        assert abs(mode.exponent(1.0)) < 1e-12 * decay_w
