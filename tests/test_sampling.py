"""Shuffled epochs, schedules, SVAG and optax: what a step sees, and the laws that follow from it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

KEY = jax.random.key(3)


def batches_seen(problem, dynamics, steps, rate):
    """With ℓ = ⟨w, z⟩ and one-hot samples a step shows how often each sample was in its batch."""
    run = ne.simulate(problem, dynamics, jnp.zeros(7), steps, key=KEY, observe={"w": lambda w: w})
    return np.rint(-np.diff(run.observed["w"], axis=0) * dynamics.batch_size / rate).astype(int)


@pytest.mark.parametrize("redrawn", [False, True], ids=["finite", "redrawn"])
def test_an_epoch_sees_no_sample_twice_and_leaves_others_out_every_time(redrawn):
    data = np.eye(7)
    problem = ne.Problem(lambda w, z: jnp.sum(w * z), ne.Redrawn(data, lambda key, z: z) if redrawn else data)
    seen = batches_seen(problem, ne.SGD(0.5, 3, "epoch"), 200, 0.5)
    np.testing.assert_array_equal(seen.sum(1), 3)
    epochs = seen.reshape(100, 2, 7).sum(1)  # ⌊7/3⌋ steps
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [[0, 1, 1, 1, 1, 1, 1]] * 100)
    left_out = np.bincount(np.argmin(epochs, axis=1), minlength=7)
    assert np.all(np.abs(left_out - 100 / 7) < 5 * np.sqrt(100 / 7))
    assert len(np.unique(seen, axis=0)) > 20  # of 35 subsets


def test_a_whole_epoch_is_a_permutation_and_the_epochs_differ():
    problem = ne.Problem(lambda w, z: jnp.sum(w * z), np.eye(7))
    run = ne.simulate(problem, ne.SGD(1.0, 1, "epoch"), jnp.zeros(7), 21, key=KEY, observe={"w": lambda w: w})
    orders = np.argmax(-np.diff(run.observed["w"], axis=0), axis=1).reshape(3, 7)
    np.testing.assert_array_equal(np.sort(orders, axis=1), [range(7)] * 3)
    assert len(np.unique(orders, axis=0)) == 3


def test_runs_that_stand_at_different_places_of_an_epoch_can_go_on_together():
    """A step number that is batched renews only the permutations that are due."""
    problem = ne.Problem(lambda w, z: jnp.sum((w - z) ** 2), np.eye(7))
    sgd = ne.SGD(0.1, 2, "epoch")

    def run(steps):
        return ne.simulate(problem, sgd, jnp.zeros(7), steps, key=KEY)

    starts = [ne.simulate(problem, sgd, jnp.zeros(7), steps, key=KEY, every=max(steps, 1)) for steps in (1, 2)]
    ends = jax.vmap(
        lambda p, s, d: (
            ne.resume(
                problem, sgd, eqx.tree_at(lambda t: (t.params, t.state, t.diverged_at), starts[0], (p, s, d)), 8
            ).params
        )
    )(
        *(
            jax.tree.map(lambda *x: jnp.stack(x), *[getattr(t, name) for t in starts])
            for name in ("params", "state", "diverged_at")
        )
    )
    np.testing.assert_allclose(ends, [run(9).params, run(10).params], rtol=1e-13)


def test_shuffled_sgd_can_be_differentiated_backwards():
    problem = ne.Problem(lambda w, z: jnp.sum((w - z) ** 2) / 2, np.eye(7))

    def end(start):
        return jnp.sum(ne.simulate(problem, ne.SGD(0.1, 2, "epoch"), start, 10, key=KEY).params)

    np.testing.assert_allclose(jax.grad(end)(jnp.ones(7)), 0.9**10, rtol=1e-12)


def test_the_law_of_a_charge_for_epochs_is_that_without_replacement():
    problem = ne.Problem(linear.loss, (np.ones((7, 2)), np.ones((7, 2))), 0.1)
    laws = [ne.SGD(0.1, 3, mode).charge_law(problem) for mode in (False, "epoch")]
    assert laws[0].noise == laws[1].noise == pytest.approx((7 - 3) / (7 - 1) / 3, rel=1e-15)
    assert laws[0].scale == laws[1].scale


def test_the_charge_of_shuffled_sgd_moves_as_the_law_says():
    """Mean over seeds of one epoch at a small η against the expected step; the error of the law is O(η) of it."""
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (8, 2)), jax.random.normal(keys[1], (8, 2))
    problem, params = ne.Problem(linear.loss, data), linear.init(keys[2], 2, 2, 2, std=0.5)
    sgd = ne.SGD(1e-3, 2, "epoch")
    expected = ne.expected_charge_step(problem, params, linear.symmetry, sgd) * 4
    end = jax.jit(jax.vmap(lambda key: linear.symmetry.charge(ne.simulate(problem, sgd, params, 4, key=key).params)))
    moved = end(jax.random.split(KEY, 4000)) - linear.symmetry.charge(params)
    error = np.abs(moved.mean(0) - expected)
    allowed = 5 * moved.std(0) / 4000**0.5 + 0.02 * np.abs(expected).max()
    assert bool(jnp.all(error < allowed))
    other = 4 * ne.expected_charge_step(problem, params, linear.symmetry, ne.SGD(1e-3, 2))
    assert bool(jnp.any(np.abs(other - expected) > 2 * allowed))  # so the factor (N−S)/(N−1) is seen


# --- schedules -------------------------------------------------------------------------------------------------------


SCHEDULES = {
    "warmup": optax.warmup_cosine_decay_schedule(0.01, 0.1, 4, 10),
    "decay": optax.exponential_decay(0.1, 3, 0.5),
    "piecewise": optax.piecewise_constant_schedule(0.1, {3: 0.5, 6: 0.1}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_sets_the_steps_the_time_and_the_noise_scale(name):
    schedule = SCHEDULES[name]
    rates = [float(schedule(step)) for step in range(10)]
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.zeros(1))
    run = ne.simulate(problem, ne.SGD(schedule, 1), jnp.asarray(1.0), 10, key=KEY, every=5)
    np.testing.assert_allclose(run.params, np.prod(1 - np.array(rates)), rtol=1e-6)
    np.testing.assert_allclose(run.time, [0, sum(rates[:5]), sum(rates)], rtol=1e-6)
    for dynamics in (ne.SGD(schedule, 4), ne.SDE(schedule, 4), ne.SVAG(schedule, 4, 2)):
        np.testing.assert_allclose([dynamics.noise_scale_at(s) for s in range(10)], np.array(rates) / 8, rtol=1e-6)
    assert ne.GD(schedule).noise_scale_at(3) == ne.GradientFlow(schedule).noise_scale_at(3) == 0


def test_without_a_schedule_the_noise_scale_is_the_same_at_every_step():
    for dynamics in (ne.SGD(0.1, 5), ne.SDE(0.1, 5), ne.SVAG(0.1, 5, 3)):
        assert dynamics.noise_scale_at(7) == dynamics.noise_scale == 0.01


# --- SVAG ------------------------------------------------------------------------------------------------------------


def svag_problem(decay=0.0):
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (5, 2)), jax.random.normal(keys[1], (5, 2))
    return ne.Problem(linear.loss, data, decay), linear.init(keys[2], 2, 3, 2)


@pytest.mark.parametrize("replacement", [True, "epoch"])
def test_svag_at_l_1_is_sgd(replacement):
    problem, params = svag_problem(0.1)
    one, two = (
        ne.simulate(problem, dynamics, params, 7, key=KEY)
        for dynamics in (ne.SVAG(0.05, 2, 1, replacement), ne.SGD(0.05, 2, replacement))
    )
    np.testing.assert_allclose(ne.flatten(one.params)[0], ne.flatten(two.params)[0], rtol=1e-12)
    np.testing.assert_allclose(one.time, two.time, rtol=1e-14)


def test_l_steps_of_svag_have_the_mean_and_the_noise_of_one_step_of_sgd():
    """A linear loss: the gradient of sample i is z_i at every point, so moments are exact up to sampling."""
    z = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
    problem, eta, size, l = ne.Problem(lambda w, z: jnp.sum(w * z), z), 0.3, 2, 4  # noqa: E741
    end = jax.jit(jax.vmap(lambda key: ne.simulate(problem, ne.SVAG(eta, size, l), jnp.zeros(2), l, key=key).params))
    ends = np.asarray(end(jax.random.split(KEY, 40_000)))
    covariance = eta**2 / size * np.cov(z.T, bias=True)
    standard_error = np.sqrt(np.diag(covariance) / len(ends))
    assert np.all(np.abs(ends.mean(0) + eta * z.mean(0)) < 5 * standard_error)
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(
        np.cov(ends.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=5 * 2 / len(ends) ** 0.5
    )


def test_the_charge_law_of_svag_goes_from_that_of_sgd_to_that_of_the_sde():
    problem, params = svag_problem(0.1)

    def flow(law):
        return ne.noether_flow(problem, params, linear.symmetry, law)

    sgd, sde = flow(ne.SGD(0.05, 2)), flow(ne.SDE(0.05, 2))
    np.testing.assert_allclose(flow(ne.SVAG(0.05, 2, 1)), sgd, rtol=1e-12)
    gaps = [float(jnp.linalg.norm(flow(ne.SVAG(0.05, 2, l)) - sde)) for l in (1, 10, 100)]  # noqa: E741
    np.testing.assert_allclose(gaps, gaps[0] / np.array([1, 10, 100]), rtol=1e-9)


def test_the_expected_charge_step_of_svag_is_the_mean_over_all_batches():
    """S = 1: all pairs of samples, each equally likely."""
    problem, params = svag_problem(0.1)
    eta, l = 0.05, 3.0  # noqa: E741
    flat, unflatten = ne.flatten(params)
    gradients = jax.vmap(lambda *z: ne.flatten(jax.grad(linear.loss)(params, z))[0])(*problem.data)
    plus, minus = (1 + np.sqrt(2 * l - 1)) / 2, (1 - np.sqrt(2 * l - 1)) / 2
    charges = [
        linear.symmetry.charge(unflatten(flat - eta / l * (plus * a + minus * b + 0.2 * flat)))
        for a in gradients
        for b in gradients
    ]
    expected = np.mean(charges, axis=0) - linear.symmetry.charge(params)
    step = ne.expected_charge_step(problem, params, linear.symmetry, ne.SVAG(eta, 1, l))
    np.testing.assert_allclose(step, expected, rtol=0, atol=1e-13)


# --- optax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [True, False, "epoch"])
def test_optax_sgd_is_sgd(replacement):
    problem, params = svag_problem(0.1)
    ours = ne.simulate(problem, ne.SGD(0.05, 2, replacement), params, 9, key=KEY)
    theirs = ne.simulate(problem, ne.Optax(optax.sgd(0.05), 2, replacement), params, 9, key=KEY)
    np.testing.assert_allclose(ne.flatten(theirs.params)[0], ne.flatten(ours.params)[0], rtol=1e-12)
    assert theirs.time.tolist() == list(range(10))


def test_momentum_and_adam_are_what_a_loop_by_hand_gives():
    data = np.array([1.0, 3.0])
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, data, 0.25)
    for optimizer in (optax.sgd(0.1, momentum=0.9), optax.adam(0.1)):
        w = jnp.asarray(0.5)
        state = optimizer.init(w)
        for _ in range(6):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(w - 2.0 + 2 * 0.25 * w, state, w)
            w = w + updates
        run = ne.simulate(problem, ne.Optax(optimizer, 2, replacement=False), jnp.asarray(0.5), 6, key=KEY)
        np.testing.assert_allclose(run.params, w, rtol=1e-12)


def test_an_optimiser_gets_the_loss_of_its_batch():
    """Polyak's step size needs the value: on w²/2 with f* = 0 it is value/‖g‖² = 1/2, and w halves at every step."""
    problem = ne.Problem(lambda w, z: z * w**2 / 2, np.ones(3))
    run = ne.simulate(problem, ne.Optax(optax.polyak_sgd(max_learning_rate=10.0), 2), jnp.asarray(8.0), 3, key=KEY)
    np.testing.assert_allclose(run.params, 1.0, rtol=1e-6)


def test_an_optimiser_leaves_what_is_no_parameter():
    class Model(eqx.Module):
        weight: jax.Array
        table: jax.Array
        activation: object

    model = Model(jnp.ones(2), jnp.arange(2), jnp.tanh)
    problem = ne.Problem(lambda m, z: jnp.sum(m.activation(m.weight * z[m.table])), np.ones((3, 2)))
    run = ne.simulate(problem, ne.Optax(optax.adam(0.1), 2), model, 2, key=KEY)
    assert run.params.activation is jnp.tanh
    np.testing.assert_array_equal(run.params.table, [0, 1])
    assert bool(jnp.all(run.params.weight < 0.9))


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda d: d.noise_scale, "noise_scale needs"),
        (lambda d: d.noise_scale_at(0), "noise_scale_at needs"),
        (lambda d: d.charge_law(svag_problem()[0]), "a law of the charge needs"),
    ],
    ids=["noise_scale", "noise_scale_at", "charge_law"],
)
def test_an_optimiser_has_no_learning_rate_to_ask_for(ask, what):
    with pytest.raises(ValueError, match=rf"{what} a learning rate.*SGD\(learning_rate, batch_size\)"):
        ask(ne.Optax(optax.adam(0.1), 2))


def run_one(dynamics):
    problem, params = svag_problem()
    return ne.simulate(problem, dynamics, params, 1, key=KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.SVAG(0.1, 2, 0.5), r"l is 0.5; expected a number ≥ 1 \(1 is SGD\)"),
        (lambda: ne.SVAG(0.1, 2, float("nan")), "l is nan"),
        (lambda: ne.SVAG(0.1, 2, optax.constant_schedule(2.0)), "l is .*; expected a number ≥ 1"),
        (lambda: ne.SVAG(0.0, 2, 2), "learning_rate is 0.0; expected a number > 0"),
        (lambda: ne.Optax(0.1, 2), "optimizer is 0.1; expected one of optax"),
        (lambda: ne.Optax(optax.sgd(0.1), 0), "batch_size is 0; expected an integer of at least 1"),
        (
            lambda: run_one(ne.SGD(0.1, 6, "epoch")),
            "batch_size is 6",
        ),
        (
            lambda: run_one(ne.Optax(optax.sgd(0.1), 6, False)),
            "is 6",
        ),
        (
            lambda: run_one(ne.SVAG(0.1, 2, jnp.ones(2))),
            "has shape",
        ),
    ],
)
def test_bad_dynamics_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
