"""One step of each dynamics against its formula, minibatches, and a contract that all dynamics fulfil."""

import functools
import itertools
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import scipy.stats

import noise_equilibrium as ne
from noise_equilibrium._dynamics._draws import draw_without_replacement
from noise_equilibrium._noise._sample import noise_weights

RATE, SIZE, DECAY = 0.1, 3, 0.2
linear_problem = functools.partial(problems.linear_problem, 3, 4, 2, samples=5, decay=DECAY)


def hand_gradients(params, x, y):
    """Per-sample gradients of ‖UWx − y‖² on paper: 2 r (Wx)ᵀ and 2 Uᵀ r xᵀ; rows of θ as `flatten` orders them."""
    up, down, x, y = (np.asarray(array) for array in (*params, x, y))
    residual = x @ (up @ down).T - y
    grad_up = 2 * np.einsum("ni,nj->nij", residual, x @ down.T)
    grad_down = 2 * np.einsum("ni,nj->nij", residual @ up, x)
    return np.concatenate([grad_up.reshape(len(x), -1), grad_down.reshape(len(x), -1)], axis=1)


def one_step(problem, dynamics, params, key=None, step=0):
    key = jax.random.key(1) if key is None else key
    after, _ = dynamics.step(problem, params, dynamics.init(problem, params), key, step)
    return ne.flatten(after)[0]


def test_a_step_of_gd():
    problem, params = linear_problem()
    theta, gradients = np.asarray(ne.flatten(params)[0]), hand_gradients(params, *problem.data)
    expected = theta - RATE * (gradients.mean(0) + 2 * DECAY * theta)
    np.testing.assert_allclose(one_step(problem, ne.GD(RATE), params), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("replacement", [True, False], ids=["with-replacement", "without-replacement"])
def test_a_step_of_sgd_is_that_of_one_of_the_minibatches(replacement):
    problem, params = linear_problem()
    theta, gradients = np.asarray(ne.flatten(params)[0]), hand_gradients(params, *problem.data)
    choose = itertools.combinations_with_replacement if replacement else itertools.combinations
    batches = np.array(list(choose(range(5), SIZE)))
    candidates = theta - RATE * (gradients[batches].mean(1) + 2 * DECAY * theta)
    step = jax.jit(lambda key: one_step(problem, ne.SGD(RATE, SIZE, replacement), params, key))
    chosen = set()
    for key in jax.random.split(jax.random.key(0), 20):
        distance = np.abs(candidates - step(key)).max(1)
        assert distance.min() < 1e-13
        chosen.add(int(distance.argmin()))
    assert len(chosen) > 5


@pytest.mark.parametrize("dt", [None, 0.02], ids=["dt-is-eta", "dt-given"])
def test_a_step_of_the_sde(dt):
    problem, params = linear_problem()
    theta, gradients = np.asarray(ne.flatten(params)[0]), hand_gradients(params, *problem.data)
    key = jax.random.key(7)
    time = RATE if dt is None else dt
    noise = np.sqrt(RATE / SIZE * time) * gradients.T @ np.asarray(noise_weights(key, 5, jnp.float64))
    expected = theta - time * (gradients.mean(0) + 2 * DECAY * theta) + noise
    dynamics = ne.SDE(RATE, SIZE, dt)
    np.testing.assert_allclose(one_step(problem, dynamics, params, key), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dt", [None, 0.02], ids=["dt-is-eta", "dt-given"])
def test_the_noise_of_an_sde_step_has_exactly_the_covariance_of_sgd(dt, monkeypatch):
    """The step is linear in its N normal numbers: put unit vectors for them, and add up the outer products."""
    problem, params = linear_problem()
    dynamics = ne.SDE(RATE, SIZE, dt)
    displacements = []
    for normals in [np.zeros(5), *np.eye(5)]:
        monkeypatch.setattr(jax.random, "normal", lambda *_, normals=normals, **__: jnp.asarray(normals))
        displacements.append(one_step(problem, dynamics, params))
    noise = np.array(displacements[1:]) - np.array(displacements[0])
    covariance = ne.gradient_covariance(problem, params)
    time = RATE if dt is None else dt
    np.testing.assert_allclose(noise.T @ noise, RATE * time / SIZE * covariance, rtol=0, atol=1e-14)


def test_a_step_of_gradient_flow_follows_the_exact_solution():
    """L_γ quadratic: θ(t) = m + e^{−(1+2γ)t}(θ₀ − m); the error of a step of order ≥ 5 is ~ dt⁶."""
    data = jnp.array([1.0, 3.0])
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, data, DECAY)
    rate, dt = 1 + 2 * DECAY, 0.1
    settled = 2 / rate
    exact = settled + np.exp(-rate * dt) * (5 - settled)
    np.testing.assert_allclose(one_step(problem, ne.GradientFlow(dt), jnp.asarray(5.0)), exact, rtol=1e-8)


def indices_of(population, size, keys):
    draw = jax.jit(jax.vmap(lambda key: draw_without_replacement(key, population, size)))
    return np.asarray(draw(jax.random.split(jax.random.key(3), keys)))


@pytest.mark.parametrize(
    ("population", "size"), [(5, 2), (5, 4), (6, 5)], ids=["few-of-5", "most-of-5", "permutation-of-6"]
)
def test_subsets_are_uniform(population, size):
    """A χ² test over every subset at a fixed key; both algorithms, which part at S² = 4N."""
    drawn = np.sort(indices_of(population, size, keys=4000), axis=1)
    subsets, counts = np.unique(drawn, axis=0, return_counts=True)
    assert subsets.tolist() == [list(subset) for subset in itertools.combinations(range(population), size)]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("population", "size"), [(3, 3), (8, 8), (100, 1)], ids=["few", "permutation", "one"])
def test_a_subset_has_different_indices_in_range(population, size):
    drawn = np.sort(indices_of(population, size, keys=50), axis=1)
    assert drawn.min() >= 0
    assert drawn.max() < population
    assert bool(np.all(np.diff(drawn, axis=1) > 0))


def test_the_noise_scale_is_half_the_rate_over_the_batch():
    assert ne.SGD(0.1, 5).noise_scale == ne.SDE(0.1, 5).noise_scale == ne.SDE(0.1, 5, dt=0.01).noise_scale == 0.01
    assert ne.GD(0.1).noise_scale == ne.GradientFlow(0.1).noise_scale == 0


SCHEDULE = optax.linear_schedule(0.2, 0.05, transition_steps=6)


@pytest.mark.parametrize(
    "dynamics",
    [ne.SGD(SCHEDULE, SIZE), ne.GD(SCHEDULE), ne.SDE(SCHEDULE, SIZE), ne.GradientFlow(SCHEDULE)],
    ids=["SGD", "GD", "SDE", "GradientFlow"],
)
def test_under_a_schedule_time_is_the_sum_of_the_steps(dynamics):
    problem, params = linear_problem()
    run = ne.simulate(problem, dynamics, params, 8, key=jax.random.key(0), every=2)
    elapsed = np.concatenate([[0], np.cumsum([float(SCHEDULE(step)) for step in range(8)])])
    np.testing.assert_allclose(run.time, elapsed[::2], rtol=1e-6)  # optax schedules count in single precision


def test_a_schedule_sets_the_size_of_every_step():
    data = jnp.array([0.0])
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, data)
    run = ne.simulate(problem, ne.GD(SCHEDULE), jnp.asarray(1.0), 8)
    np.testing.assert_allclose(run.params, np.prod([1 - float(SCHEDULE(step)) for step in range(8)]), rtol=1e-6)
    run = ne.simulate(problem, ne.GradientFlow(SCHEDULE), jnp.asarray(1.0), 8)
    np.testing.assert_allclose(run.params, np.exp(-float(run.time[-1])), rtol=1e-6)  # the error of the method


def test_a_schedule_with_a_branch_on_one_step_number():
    problem, params = linear_problem()
    schedule = lambda step: jax.lax.cond(step < 4, lambda: 0.1, lambda: 0.05)  # noqa: E731
    run = ne.simulate(problem, ne.GD(schedule), params, 8, every=4)
    np.testing.assert_allclose(run.time, [0, 0.4, 0.6], rtol=1e-12)


@pytest.mark.parametrize("dynamics", [ne.SGD(SCHEDULE, SIZE), ne.SDE(SCHEDULE, SIZE)], ids=["SGD", "SDE"])
def test_a_schedule_has_no_noise_scale(dynamics):
    with pytest.raises(ValueError, match=r"noise_scale refers to one learning rate, and this one is a schedule"):
        _ = dynamics.noise_scale


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.SGD(0.0, 2), "learning_rate is 0.0; expected a number > 0"),
        (lambda: ne.SGD(-0.1, 2), "learning_rate is -0.1"),
        (lambda: ne.GD(float("nan")), "learning_rate is nan"),
        (lambda: ne.SDE(0.0, 2), "learning_rate is 0.0"),
        (lambda: ne.SDE(0.1, 2, dt=0.0), "dt is 0.0; expected a number > 0"),
        (lambda: ne.GradientFlow(-1.0), "dt is -1.0"),
        (lambda: ne.SGD(0.1, 0), "batch_size is 0; expected an integer of at least 1"),
        (lambda: ne.SDE(0.1, -2), "batch_size is -2; expected an integer of at least 1"),
        (lambda: ne.SGD(0.1, 2.0), "batch_size is 2.0; expected an integer of at least 1"),
        (lambda: ne.SGD(0.1, True), "batch_size is True; expected an integer"),
        (lambda: ne.SGD(0.1, "4"), "batch_size is '4'; expected an integer"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_batch_size_may_be_any_integer():
    assert ne.SGD(0.1, np.int64(3)).batch_size == 3


class Module(eqx.Module):
    """Parameters beside leaves that are none: an activation, a name, an integer table, a Python number."""

    up: jax.Array
    down: jax.Array
    table: jax.Array
    activation: Any
    slope: float
    name: str = eqx.field(static=True)

    def __call__(self, x):
        return self.up @ (self.slope * self.activation(self.down @ x))


def dict_loss(params, sample):
    x, y = sample
    return jnp.sum((params["up"] @ jnp.tanh(params["down"] @ x) - y) ** 2)


def module_loss(params, sample):
    x, y = sample
    return jnp.sum((params(x) - y) ** 2)


DYNAMICS = {
    "SGD": lambda rate: ne.SGD(rate, SIZE),
    "SGD-without-replacement": lambda rate: ne.SGD(rate, SIZE, replacement=False),
    "SGD-epochs": lambda rate: ne.SGD(rate, SIZE, replacement="epoch"),
    "SVAG": lambda rate: ne.SVAG(rate, SIZE, 2.5),
    "Momentum": lambda rate: ne.Momentum(rate, 0.5, SIZE),
    "Optax": lambda rate: ne.Optax(optax.adamw(rate), SIZE, replacement=False),
    "GD": ne.GD,
    "SDE": lambda rate: ne.SDE(rate, SIZE, dt=0.05),
    "GradientFlow": ne.GradientFlow,
}


def setting(kind, dtype):
    """A loss, data and parameters of one dtype."""
    draw = np.random.default_rng(0)
    up, down, x, y = (
        jnp.asarray(draw.normal(size=shape), dtype) for shape in ((2, 3), (3, 2), (SIZE + 2, 2), (SIZE + 2, 2))
    )
    params = {"up": up, "down": down} if kind == "dict" else Module(up, down, jnp.arange(3), jnp.tanh, 0.5, "net")
    return ne.Problem(dict_loss if kind == "dict" else module_loss, (x, y), 0.1), params


@pytest.mark.parametrize(
    ("kind", "dtype"), [("dict", jnp.float32), ("module", jnp.float64)], ids=["dict-float32", "module-float64"]
)
@pytest.mark.parametrize("name", DYNAMICS)
def test_contract_of_dynamics(name, kind, dtype):
    """dtype and other leaves are kept, and vmap is a loop."""
    problem, params = setting(kind, dtype)
    arrays, rest = eqx.partition(params, eqx.is_inexact_array)

    def run(arrays, rate, key):
        return ne.simulate(problem, DYNAMICS[name](rate), eqx.combine(arrays, rest), 3, key=key)

    keys = jax.random.split(jax.random.key(2), 2)
    first, second = (run(arrays, rate, key) for rate, key in zip((0.1, 0.2), keys, strict=True))
    assert jax.tree.structure(first.params) == jax.tree.structure(params)
    for after, before in zip(jax.tree.leaves(first.params), jax.tree.leaves(params), strict=True):
        if eqx.is_inexact_array(before):
            assert after.dtype == dtype
            assert after.shape == before.shape
            assert not bool(jnp.any(after == before))
        else:
            assert after is before or bool(jnp.all(after == before))
    assert first.time.dtype == dtype

    rates = jnp.asarray([0.1, 0.2])

    def arrays_of(run):
        return eqx.filter((run.params, run.time, run.diverged_at), eqx.is_array)

    together = jax.jit(jax.vmap(lambda rate, key: arrays_of(run(arrays, rate, key))))(rates, keys)
    tolerance = 1e-13 if dtype == jnp.float64 else 1e-5
    for i, alone in enumerate((first, second)):
        for one, single in zip(jax.tree.leaves(together), jax.tree.leaves(arrays_of(alone)), strict=True):
            assert one.dtype == single.dtype
            np.testing.assert_allclose(one[i], single, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", DYNAMICS)
def test_numbers_that_only_scale_are_not_compiled_in(name):
    problem, params = setting("dict", jnp.float64)
    counted = chex.assert_max_traces(dict_loss, 2 if name == "GradientFlow" else 1)  # its solver starts and steps

    def run(rate, decay):
        return ne.simulate(
            ne.Problem(counted, problem.data, decay), DYNAMICS[name](rate), params, 3, key=jax.random.key(0)
        ).params

    if name == "Optax":  # the numbers inside an optimiser are compiled in, unless it is built inside a jit
        run = jax.jit(run)
    for rate, decay in ((0.1, 0.1), (0.2, 0.1), (0.15, 0.3)):
        run(rate, decay)


@pytest.mark.float32
@pytest.mark.parametrize("name", DYNAMICS)
def test_dynamics_run_in_single_precision(name):
    problem, params = setting("dict", jnp.float32)
    run = ne.simulate(problem, DYNAMICS[name](0.1), params, 3, key=jax.random.key(0))
    assert all(array.dtype == jnp.float32 for array in jax.tree.leaves((run.params, run.time)))
