"""The loop: exact charge laws along whole runs, recording, divergence, and randomness that a batch does not change."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium._dynamics._draws import draw_batch
from noise_equilibrium._problem import weighted_gradient
from noise_equilibrium.models import two_layer_linear as linear

CHARGE = linear.symmetry.charge
linear_problem = functools.partial(problems.linear_problem, 2, 3, 2, samples=8, std=0.5)


def charge_law_errors(problem, params, dynamics, steps):
    """The largest violation of C(θ') = (1−2ηγ)²C(θ) + η²ĝᵀAĝ at one step, and of its recursion; in units of ‖θ‖²."""
    rate, size = dynamics.learning_rate, dynamics.batch_size
    weights = jnp.full((size,), 1 / size)
    batches = dynamics.batches
    shrink = (1 - 2 * rate * problem.weight_decay) ** 2

    def advance(carry, step):
        params, state, recursion = carry
        key = jax.random.fold_in(jax.random.key(4), step)
        samples, _ = draw_batch(batches, problem, state, key, step)
        gradient = linear.Params(*weighted_gradient(problem, params, samples, weights))
        after, state = dynamics.step(problem, params, state, key, step)
        gain = rate**2 * CHARGE(gradient)
        recursion = shrink * recursion + gain
        norm = sum(jnp.sum(array**2) for array in after)
        single = jnp.max(jnp.abs(CHARGE(after) - shrink * CHARGE(params) - gain)) / norm
        accumulated = jnp.max(jnp.abs(CHARGE(after) - recursion)) / norm
        return (after, state, recursion), (single, accumulated)

    start = (params, dynamics.init(problem, params), CHARGE(params))
    (end, _, _), (single, accumulated) = jax.jit(lambda start: jax.lax.scan(advance, start, jnp.arange(steps)))(start)
    assert bool(jnp.all(jnp.isfinite(end.up)))
    return float(jnp.max(single)), float(jnp.max(accumulated))


@pytest.mark.parametrize(
    ("decay", "replacement", "data"),
    [
        (0.0, True, "finite"),
        (0.05, False, "finite"),
        (0.05, "epoch", "finite"),
        (0.05, True, "redrawn"),
        (0.0, "epoch", "redrawn"),
        (0.05, True, "stream"),
    ],
    ids=lambda value: str(value),
)
def test_the_discrete_charge_law_is_exact_at_every_step(decay, replacement, data):
    problem, params = linear_problem(decay=decay)
    if data == "redrawn":
        redrawn = ne.Redrawn(problem.data, lambda key, z: (z[0], z[1] + 0.3 * jax.random.normal(key, z[1].shape)))
        problem = ne.Problem(problem.loss, redrawn, decay)
    if data == "stream":
        teacher = ne.data.LinearTeacher(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        problem = ne.Problem(problem.loss, ne.Stream(teacher), decay)
    single, accumulated = charge_law_errors(problem, params, ne.SGD(0.05, 2, replacement), steps=50_000)
    assert single <= 1e-14
    assert accumulated <= 1e-12


@pytest.mark.float32
def test_the_discrete_charge_law_in_single_precision():
    problem, params = linear_problem()
    single, accumulated = charge_law_errors(problem, params, ne.SGD(0.05, 2), steps=50_000)
    assert single <= 1e-6
    assert accumulated <= 1e-5


def test_simulate_takes_these_very_steps():
    problem, params = linear_problem()
    dynamics = ne.SGD(0.05, 2)
    key = jax.random.key(4)
    by_hand = params
    for step in range(5):
        by_hand, _ = dynamics.step(problem, by_hand, (), jax.random.fold_in(key, step), step)
    run = ne.simulate(problem, dynamics, params, 5, key=key)
    for one, other in zip(run.params, by_hand, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_gd_moves_the_charge_by_the_squares_of_its_gradients_alone():
    problem, params = linear_problem()

    def gradient_charge(params):
        return CHARGE(jax.grad(problem.risk)(params))

    run = ne.simulate(problem, ne.GD(0.05), params, 200, observe={"charge": CHARGE, "gain": gradient_charge})
    gains = jnp.cumsum(run.observed["gain"][:-1], axis=0)
    np.testing.assert_allclose(run.observed["charge"][1:], CHARGE(params) + 0.05**2 * gains, rtol=0, atol=1e-13)


def test_weight_decay_shrinks_the_charge_under_gradient_flow_at_the_exact_rate():
    problem, params = linear_problem(decay=0.1)
    run = ne.simulate(problem, ne.GradientFlow(0.02), params, 60, observe={"charge": CHARGE}, every=20)
    decayed = jnp.exp(-4 * 0.1 * run.time)[:, None, None] * CHARGE(params)
    np.testing.assert_allclose(run.observed["charge"], decayed, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(decayed))))


def training_problem():
    """An autoencoder with label noise, Σ_x = I, from a random initialisation."""
    d = 6
    teacher = ne.data.LinearTeacher(jnp.eye(d), jnp.eye(d), jnp.eye(d))
    return ne.Problem(linear.loss, teacher.moment_matched(jax.random.key(0), 12)), linear.init(
        jax.random.key(1), d, 8, d
    )


def test_gradient_flow_keeps_the_charge_where_gd_at_a_tenth_of_the_step_loses_it():
    problem, params = training_problem()
    rate = 0.008

    def loss_of_charge(dynamics, steps):
        run = ne.simulate(problem, dynamics, params, steps, observe={"charge": CHARGE}, every=steps)
        first, last = run.observed["charge"]
        np.testing.assert_allclose(problem.risk(run.params), 6, rtol=1e-6)  # at the minimum only the noise is left
        return float(jnp.linalg.norm(last - first) / jnp.linalg.norm(first))

    assert loss_of_charge(ne.GD(rate), 1250) >= 1e-2
    assert loss_of_charge(ne.GradientFlow(10 * rate), 125) <= 1e-6


def test_the_error_of_gradient_flow_falls_at_least_twelvefold_when_dt_halves():
    problem, params = training_problem()

    def end(dt):
        return ne.flatten(ne.simulate(problem, ne.GradientFlow(dt), params, round(1.6 / dt)).params)[0]

    exact = end(0.005)
    errors = [float(jnp.linalg.norm(end(dt) - exact)) for dt in (0.08, 0.04)]
    assert errors[1] > 1e-12  # above rounding
    assert errors[0] / errors[1] >= 12


def test_records_are_kept_every_k_steps_and_start_with_the_start():
    problem, params = linear_problem()
    observe = {
        "charge": CHARGE,
        "several": lambda params: {"norm": jnp.sum(params.up**2), "pair": (params.up[0], jnp.argmax(params.up))},
    }
    run = ne.simulate(problem, ne.SGD(0.05, 2), params, 12, key=jax.random.key(0), observe=observe, every=3)
    full = ne.simulate(problem, ne.SGD(0.05, 2), params, 12, key=jax.random.key(0), observe=observe)
    assert run.step.tolist() == [0, 3, 6, 9, 12]
    np.testing.assert_allclose(run.time, 0.05 * np.arange(0, 13, 3), rtol=1e-15)
    assert run.diverged_at == -1
    for sparse, dense in zip(jax.tree.leaves(run.observed), jax.tree.leaves(full.observed), strict=True):
        np.testing.assert_allclose(sparse, dense[::3], rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(run.observed["charge"][0], CHARGE(params))
    np.testing.assert_allclose(run.observed["charge"][-1], CHARGE(run.params), rtol=1e-13, atol=1e-15)
    assert run.observed["several"]["pair"][0].shape == (5, 3)
    assert run.observed["several"]["pair"][1].dtype == jnp.argmax(params.up).dtype


def test_a_module_with_functions_among_its_leaves_is_recorded_without_them():
    module = eqx.nn.MLP(2, 2, 3, 1, activation=jax.nn.relu, key=jax.random.key(1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
    problem = ne.Problem(lambda module, x: jnp.sum(module(x) ** 2), x)
    observe = {"params": lambda module: module, "mean": ne.running(lambda module: module)}
    run = ne.simulate(problem, ne.GD(0.1), module, 6, observe=observe, every=3)
    half = ne.simulate(problem, ne.GD(0.1), module, 3, observe=observe, every=3)
    rest = ne.resume(problem, ne.GD(0.1), half, 3, observe=observe, every=3)
    recorded = jax.tree.leaves(run.observed["params"])
    for rows, start, end in zip(recorded, *map(eqx_arrays, (module, run.params)), strict=True):
        np.testing.assert_array_equal(rows[0], start)
        np.testing.assert_array_equal(rows[-1], end)
    assert run.observed["params"].activation is None
    for whole, cut in zip(*(jax.tree.leaves(r.observed["mean"]) for r in (run, rest)), strict=True):
        np.testing.assert_array_equal(whole, cut)
    with pytest.raises(ValueError, match="returns functions only; expected a pytree with arrays"):
        ne.simulate(problem, ne.GD(0.1), module, 6, observe={"f": lambda module: module.activation})


def eqx_arrays(module):
    return jax.tree.leaves(eqx.filter(module, eqx.is_array))


@pytest.mark.float32
@pytest.mark.parametrize("scheduled", [False, True], ids=["rate", "schedule"])
def test_the_time_of_a_million_steps_is_as_exact_as_that_of_two(scheduled):
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, np.ones(1, np.float32))
    rate = np.float32(0.1)
    dynamics = ne.GD((lambda t: jnp.where(t % 2 == 0, rate, 3 * rate)) if scheduled else rate)
    run = ne.simulate(problem, dynamics, jnp.zeros(()), 10**6, every=10**5)
    mean = (float(rate) + float(np.float32(3) * rate)) / 2 if scheduled else float(rate)
    # Kahan's bound is twice the rounding of one number; a plain sum is off by 1e-2 here.
    np.testing.assert_allclose(run.time, mean * np.arange(0, 10**6 + 1, 10**5), rtol=np.finfo(np.float32).eps)


def test_no_steps_leave_the_start_and_one_record():
    problem, params = linear_problem()
    run = ne.simulate(problem, ne.SGD(0.05, 2), params, 0, key=jax.random.key(0), observe={"charge": CHARGE}, every=7)
    np.testing.assert_array_equal(run.params.up, params.up)
    np.testing.assert_array_equal(run.observed["charge"], CHARGE(params)[None])
    assert (run.step.tolist(), run.time.tolist(), int(run.diverged_at)) == ([0], [0.0], -1)


def test_nothing_but_records_grows_with_the_steps():
    problem, params = linear_problem()

    def shapes(steps):
        run = jax.eval_shape(lambda: ne.simulate(problem, ne.SGD(0.05, 2), params, steps, key=jax.random.key(0)))
        return [leaf.shape for leaf in jax.tree.leaves(run)]

    state = [(), (), (), (2,)]  # of the run: the step, the two numbers of the clock, the key
    assert shapes(6) == [(2, 3), (3, 2), (7,), (7,), (), *state]
    assert shapes(60) == [(2, 3), (3, 2), (61,), (61,), (), *state]

    def temporaries(steps):
        run = jax.jit(lambda params, key: ne.simulate(problem, ne.SGD(0.05, 2), params, steps, key=key, every=steps))
        return run.lower(params, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(100_000) == temporaries(10)


def quartic(w, z):
    return (w**2 - z) ** 2 / 4


def exploding_iterates(start, rate, steps):
    """GD on the quartic in plain Python: w ← w − η(w³ − w) with z = 1, until it overflows."""
    iterates = [start]
    for _ in range(steps):
        w = iterates[-1]
        with np.errstate(over="ignore", invalid="ignore"):
            iterates.append(w - np.float64(rate) * (w * w - 1) * w)
        if not np.isfinite(iterates[-1]):
            return iterates
    raise AssertionError("did not explode")


def test_a_diverging_run_is_frozen_at_its_last_finite_parameters():
    problem = ne.Problem(quartic, jnp.array([1.0]))
    iterates = exploding_iterates(np.float64(6.0), 0.1, 20)
    observe = {"w": lambda w: w, "sign": lambda w: jnp.where(w > 0, 1, -1)}
    run = ne.simulate(problem, ne.GD(0.1), jnp.asarray(6.0), 20, observe=observe)
    at = len(iterates) - 1
    assert run.diverged_at == at
    np.testing.assert_allclose(run.params, iterates[-2], rtol=1e-9)
    np.testing.assert_allclose(run.observed["w"][:at], iterates[:-1], rtol=1e-9)
    assert bool(jnp.all(jnp.isnan(run.observed["w"][at:])))
    assert run.observed["sign"][at:].tolist() == [int(np.sign(iterates[-2]))] * (21 - at)
    assert run.observed["sign"].dtype == jnp.asarray(1).dtype


@pytest.mark.parametrize(
    "dynamics",
    [ne.SGD(0.1, 2), ne.SDE(0.1, 2), ne.GD(0.1), ne.GradientFlow(0.05)],
    ids=["SGD", "SDE", "GD", "GradientFlow"],
)
def test_a_diverging_run_harms_no_neighbour(dynamics):
    """Bit-identical to the same batch with a benign run in its place, and equal to rounding to the run alone."""
    problem, params = linear_problem()
    keys = jax.random.split(jax.random.key(0), 3)
    bad = jax.tree.map(lambda array: 1e3 * array, params)
    other = jax.tree.map(lambda array: -0.5 * array, params)
    batch = jax.tree.map(lambda *arrays: jnp.stack(arrays), params, bad, other)
    clean = jax.tree.map(lambda *arrays: jnp.stack(arrays), params, params, other)

    def run(params, key):
        return ne.simulate(problem, dynamics, params, 30, key=key, observe={"charge": CHARGE}, every=5)

    many = jax.jit(jax.vmap(run))
    with_bad, without = many(batch, keys), many(clean, keys)
    assert with_bad.diverged_at[1] > 0
    assert bool(jnp.all(jnp.isfinite(with_bad.params.up)))
    neighbours = jnp.array([0, 2])
    assert with_bad.diverged_at[neighbours].tolist() == [-1, -1]
    for one, reference in zip(jax.tree.leaves(with_bad), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(one[neighbours], reference[neighbours])
    alone = run(params, keys[0])
    for one, single in zip(jax.tree.leaves(with_bad), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one[0], single, rtol=1e-10, atol=1e-12)


def test_a_start_that_is_not_finite_is_flagged_at_the_first_step():
    problem, params = linear_problem()
    bad = linear.Params(params.up.at[0, 0].set(jnp.nan), params.down)
    run = ne.simulate(problem, ne.GD(0.1), bad, 4, observe={"charge": CHARGE})
    assert run.diverged_at == 1
    np.testing.assert_array_equal(run.params.up, bad.up)


@pytest.mark.float32
@pytest.mark.parametrize("replacement", [True, False], ids=["with-replacement", "without-replacement"])
def test_a_run_does_not_depend_on_the_size_of_its_batch(replacement):
    problem, params = linear_problem(decay=0.05)
    keys = jax.random.split(jax.random.key(0), 12)
    run = jax.jit(
        jax.vmap(lambda key: ne.simulate(problem, ne.SGD(0.05, 3, replacement), params, 300, key=key).params.up)
    )
    everyone = run(keys)
    assert float(jnp.max(jnp.std(everyone, axis=0))) > 1e-2  # the runs themselves differ
    np.testing.assert_allclose(run(keys[:1]), everyone[:1], atol=1e-5)
    np.testing.assert_allclose(run(keys[:3]), everyone[:3], atol=1e-5)


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    problem, params = linear_problem()
    long, short = (
        ne.simulate(problem, ne.SDE(0.05, 2), params, steps, key=jax.random.key(0), observe={"charge": CHARGE})
        for steps in (20, 8)
    )
    np.testing.assert_allclose(short.observed["charge"], long.observed["charge"][:9], rtol=1e-12, atol=1e-14)


def test_a_stream_gives_fresh_samples_from_the_key_of_the_step():
    def draw(key):
        return jax.random.normal(key, (2,)), jnp.zeros(2)

    problem = ne.Problem(linear.loss, ne.Stream(draw))
    _, params = linear_problem()
    key = jax.random.key(5)
    run = ne.simulate(problem, ne.SGD(0.1, 2), params, 1, key=key)
    x, y = problem.data.batch(jax.random.fold_in(key, 0), 2)
    assert len(np.unique(np.asarray(x))) == 4
    finite = ne.Problem(linear.loss, (x, y))
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(finite.risk)(params))
    for one, other in zip(run.params, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize(
    "dynamics", [ne.GD(0.1), ne.SDE(0.1, 2), ne.GradientFlow(0.1)], ids=["GD", "SDE", "GradientFlow"]
)
def test_what_needs_an_expectation_refuses_a_stream(dynamics):
    problem = ne.Problem(linear.loss, ne.Stream(lambda key: (jax.random.normal(key, (2,)), jnp.zeros(2))))
    _, params = linear_problem()
    message = rf"{type(dynamics).__name__} needs an expectation .* problem\.sampled\(key, n\)"
    with pytest.raises(ValueError, match=message):
        ne.simulate(problem, dynamics, params, 1, key=jax.random.key(0))


SGD = ne.SGD(0.1, 2)
KEY = {"key": 0}  # stands for jax.random.key(0), made inside the test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dynamics": "SGD"}, "dynamics is 'SGD'; expected SGD, GD, Momentum, SDE, GradientFlow, SVAG or Optax"),
        ({"dynamics": 0.1}, "dynamics is 0.1"),
        ({"steps": -1}, "steps is -1; expected .*at least 0"),
        ({"steps": 10.5}, "steps is 10.5"),
        ({"every": 0}, "every is 0; expected an integer of at least 1"),
        ({"every": -2}, "every is -2"),
        ({"every": 3}, "every is 3 and steps is 10"),
        ({"every": 2.5}, "every is 2.5"),
        ({"observe": {"norm": 3}}, "observable 'norm' is 3; expected a function of params"),
        ({"observe": [CHARGE]}, "expected a dict of name → function of params"),
        ({"dynamics": ne.SGD(0.1, 9, replacement=False)}, "batch_size is 9 without replacement and the data hold 8"),
        ({"key": None}, r"SGD in simulate needs random numbers and got no key. Give key=jax.random.key\(seed\)"),
        ({"dynamics": ne.SDE(0.1, 2), "key": None}, "SDE in simulate needs random numbers and got no key"),
        ({"key": 7}, "SGD in simulate got 7 as its key; expected a JAX PRNG key"),
        ({"key": np.zeros(2)}, "got an array of dtype float64 and shape"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{k}" for k in value),
)
def test_bad_arguments_are_refused(arguments, message):
    problem, params = linear_problem()
    given = {"dynamics": SGD, "steps": 10, "key": jax.random.key(0)} | arguments
    with pytest.raises(ValueError, match=message):
        ne.simulate(problem, given.pop("dynamics"), params, given.pop("steps"), **given)


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg", "threefry4x32"])
def test_only_threefry_keys_are_accepted(implementation):
    problem, params = linear_problem()
    with pytest.raises(ValueError, match=f"got a key of implementation .*{implementation}; expected threefry2x32"):
        ne.simulate(problem, SGD, params, 1, key=jax.random.key(0, impl=implementation))


def test_several_keys_need_vmap():
    problem, params = linear_problem()
    with pytest.raises(ValueError, match=r"got \(3,\) keys; expected a single one. Use jax.vmap"):
        ne.simulate(problem, SGD, params, 1, key=jax.random.split(jax.random.key(0), 3))


def test_an_old_style_key_is_the_typed_one():
    problem, params = linear_problem()
    typed = ne.simulate(problem, SGD, params, 2, key=jax.random.key(3)).params
    old = ne.simulate(problem, SGD, params, 2, key=jax.random.PRNGKey(3)).params
    np.testing.assert_array_equal(old.up, typed.up)


def test_dynamics_without_noise_need_no_key():
    problem, params = linear_problem()
    assert ne.simulate(problem, ne.GD(0.1), params, 1).diverged_at == -1
    assert ne.simulate(problem, ne.GradientFlow(0.1), params, 1).diverged_at == -1
