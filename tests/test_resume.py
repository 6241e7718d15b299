"""A run in segments is the same run, bit for bit; and what accumulates along it."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from marks import slow_but

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

CHARGE = linear.symmetry.charge
KEY = jax.random.key(5)
linear_problem = functools.partial(problems.linear_problem, 2, 3, 2, samples=9, decay=0.05)
SCHEDULE = optax.warmup_cosine_decay_schedule(0.01, 0.1, 10, 20)
OBSERVE = {
    "charge": CHARGE,
    "timed": ne.timed(lambda p, t: t * p.up[0, 0]),
    "late": ne.running(CHARGE, 7),
    "thinned": ne.running(ne.timed(lambda p, t: t * p.up), 0, every=3),
    "when": ne.first_time(ne.timed(lambda p, t: t > jnp.array([0.3, 99.0]))),
}
DYNAMICS = {
    "SGD-epochs": ne.SGD(0.05, 2, "epoch"),
    "SGD-schedule": ne.SGD(SCHEDULE, 2),
    "SVAG": ne.SVAG(0.05, 2, 2.0, "epoch"),
    "SDE": ne.SDE(0.05, 2, 0.02),
    "GradientFlow": ne.GradientFlow(0.05),
    "Optax": ne.Optax(optax.adamw(SCHEDULE), 2, "epoch"),
}


def in_segments(problem, dynamics, params, segments, every, observe=OBSERVE):
    parts = []
    for steps in segments:
        part = (
            ne.resume(problem, dynamics, parts[-1], steps, observe=observe, every=every)
            if parts
            else ne.simulate(problem, dynamics, params, steps, key=KEY, observe=observe, every=every)
        )
        parts.append(part)
    return parts


def joined(parts, rows):
    return np.concatenate([rows(parts[0]), *(rows(part)[1:] for part in parts[1:])])


def assert_same_run(parts, whole, records=("charge", "timed")):
    for name in records:
        np.testing.assert_array_equal(joined(parts, lambda part: part.observed[name]), whole.observed[name])  # noqa: B023
    np.testing.assert_array_equal(joined(parts, lambda part: part.time), whole.time)
    np.testing.assert_array_equal(joined(parts, lambda part: part.step), whole.step)
    rest = [name for name in whole.observed if name not in records]
    for part, reference in zip(
        jax.tree.leaves(
            (parts[-1].params, parts[-1].state, parts[-1].diverged_at, [parts[-1].observed[n] for n in rest])
        ),
        jax.tree.leaves((whole.params, whole.state, whole.diverged_at, [whole.observed[n] for n in rest])),
        strict=True,
    ):
        np.testing.assert_array_equal(part, reference)


@pytest.mark.parametrize("name", slow_but(DYNAMICS, "SDE"))
def test_a_run_in_segments_is_the_same_to_the_last_bit(name):
    problem, params = linear_problem()
    whole = ne.simulate(problem, DYNAMICS[name], params, 24, key=KEY, observe=OBSERVE, every=4)
    assert_same_run(in_segments(problem, DYNAMICS[name], params, (8, 8, 8), 4), whole)


@pytest.mark.slow
@pytest.mark.float32
def test_segments_of_one_step_in_single_precision():
    problem, params = linear_problem()
    whole = ne.simulate(problem, ne.SGD(0.05, 2), params, 6, key=KEY, observe=OBSERVE)
    assert_same_run(in_segments(problem, ne.SGD(0.05, 2), params, [1] * 6, 1), whole)


@pytest.mark.optimised
def test_segments_under_vmap_and_jit():
    problem, params = linear_problem()
    keys, sgd = jax.random.split(KEY, 3), DYNAMICS["SGD-epochs"]

    def run(steps):
        return lambda key: ne.simulate(problem, sgd, params, steps, key=key, observe=OBSERVE, every=4)

    half = jax.jit(jax.vmap(run(8)))(keys)
    ends = jax.jit(jax.vmap(lambda part: ne.resume(problem, sgd, part, 16, observe=OBSERVE, every=4)))(half)
    whole = jax.jit(jax.vmap(run(24)))(keys)
    np.testing.assert_array_equal(ends.params.up, whole.params.up)
    np.testing.assert_array_equal(ends.observed["late"].mean, whole.observed["late"].mean)
    np.testing.assert_array_equal(ends.observed["when"].time, whole.observed["when"].time)


def test_a_run_that_diverged_stays_frozen_in_the_next_segment():
    problem = ne.Problem(lambda w, z: (w**2 - z) ** 2 / 4, jnp.array([1.0]))
    observe = {"w": lambda w: w, "mean": ne.running(lambda w: w), "big": ne.first_time(lambda w: w > 100)}
    whole = ne.simulate(problem, ne.GD(0.1), jnp.asarray(6.0), 20, observe=observe)
    assert 0 < whole.diverged_at < 10
    for segments in ((2, 18), (12, 8)):  # the divergence in the second segment, and in the first
        parts = [ne.simulate(problem, ne.GD(0.1), jnp.asarray(6.0), segments[0], observe=observe)]
        parts.append(ne.resume(problem, ne.GD(0.1), parts[0], segments[1], observe=observe))
        assert_same_run(parts, whole, records=("w",))


def test_another_learning_rate_takes_over_with_the_right_time():
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([0.0]))
    first = ne.simulate(problem, ne.GD(0.5), jnp.asarray(8.0), 2)
    second = ne.resume(problem, ne.GD(0.25), first, 2)
    third = ne.resume(problem, ne.GD(optax.constant_schedule(0.5)), second, 2)
    np.testing.assert_allclose(second.time, [1.0, 1.25, 1.5], rtol=1e-15)
    np.testing.assert_allclose(third.time, [1.5, 2.0, 2.5], rtol=1e-6)
    np.testing.assert_allclose(third.params, 8 * 0.25 * 0.75**2 * 0.25, rtol=1e-6)


def test_a_run_is_compiled_once_for_all_segments_of_a_length():
    problem, params = linear_problem()

    @chex.assert_max_traces(n=2)  # once for the start of a run, once for what follows
    def loss(params, sample):
        return linear.loss(params, sample)

    problem = ne.Problem(loss, problem.data)
    part = ne.simulate(problem, ne.SGD(0.05, 2), params, 2, key=KEY)
    part = ne.resume(problem, ne.SGD(0.05, 2), part, 2)
    ne.resume(problem, ne.SGD(0.02, 2), part, 2)


# --- what accumulates ------------------------------------------------------------------------------------------------


def test_running_moments_are_those_of_the_records():
    problem, params = linear_problem()
    observe = {
        "all": lambda p: {"up": p.up, "sign": p.up[0, 0] > 0},
        "mean": ne.running(lambda p: {"up": p.up, "sign": p.up[0, 0] > 0}, 0.6),
        "every": ne.running(lambda p: p.up, 4, every=5),
        "big": ne.running(lambda p: p.up + 1e6),
    }
    run = ne.simulate(problem, ne.SGD(0.1, 2), params, 50, key=KEY, observe=observe)
    up = np.asarray(run.observed["all"]["up"])
    for mean, variance, moments, rows in (
        (run.observed["mean"].mean["up"], run.observed["mean"].variance["up"], run.observed["mean"], up[31:]),
        (run.observed["every"].mean, run.observed["every"].variance, run.observed["every"], up[9::5]),
        (run.observed["big"].mean - 1e6, run.observed["big"].variance, run.observed["big"], up[1:]),
    ):
        assert moments.count == len(rows)
        exact = 1e-12 if moments is not run.observed["big"] else 1e-8  # that of 1e6 in double precision
        np.testing.assert_allclose(mean, rows.mean(0), rtol=0, atol=exact)
        np.testing.assert_allclose(variance, rows.var(0), rtol=0, atol=exact)
    second = run.observed["every"].second_moment
    np.testing.assert_allclose(second, (up[9::5] ** 2).mean(0), rtol=1e-12)
    sign = np.asarray(run.observed["all"]["sign"], float)[31:]
    np.testing.assert_allclose(run.observed["mean"].mean["sign"], sign.mean(), rtol=1e-13)


def test_an_average_of_nothing_is_not_a_number():
    problem, params = linear_problem()
    moments = ne.simulate(problem, ne.GD(0.1), params, 3, observe={"m": ne.running(lambda p: p.up[0], 10)}).observed[
        "m"
    ]
    assert moments.count == 0
    for value in (moments.mean, moments.variance, moments.second_moment):
        assert bool(jnp.all(jnp.isnan(value)))


def test_first_times_are_exact():
    """GD on w²/2 with η = 1/2 halves w: it first falls below 2^{-k} at step k + 1."""
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([0.0]))
    levels = jnp.array([2.0, 1.0, 0.25, 1e-9])
    observe = {"below": ne.first_time(lambda w: w < levels)}
    first = ne.simulate(problem, ne.GD(0.5), jnp.asarray(1.0), 8, observe=observe, every=4).observed["below"]
    assert first.step.tolist() == [0, 1, 3, -1]
    np.testing.assert_array_equal(first.time, [0.0, 0.5, 1.5, np.nan])
    assert first.step.dtype == jnp.int32


def test_a_divergence_freezes_what_accumulates_and_harms_no_neighbour():
    problem = ne.Problem(lambda w, z: (w**2 - z) ** 2 / 4, jnp.array([1.0]))
    observe = {"w": lambda w: w, "mean": ne.running(lambda w: w), "back": ne.first_time(lambda w: jnp.isinf(w))}
    run = jax.jit(jax.vmap(lambda w: ne.simulate(problem, ne.GD(0.1), w, 20, observe=observe)))
    both, calm = run(jnp.array([6.0, 1.5])), run(jnp.array([1.2, 1.5]))
    at = int(both.diverged_at[0])
    assert at > 0
    assert both.diverged_at[1] == -1
    moments = both.observed["mean"]
    assert moments.count.tolist() == [at - 1, 20]
    np.testing.assert_allclose(moments.mean[0], np.mean(both.observed["w"][0, 1:at]), rtol=1e-12)
    assert both.observed["back"].step.tolist() == [-1, -1]
    for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(calm), strict=True):
        np.testing.assert_array_equal(one[1], other[1])


def test_averages_need_no_memory_for_the_steps():
    problem, params = linear_problem()

    def temporaries(steps):
        observe = {"m": ne.running(CHARGE, 0.6), "t": ne.first_time(lambda p: p.up[0, 0] > 3)}
        run = jax.jit(
            lambda p, k: ne.simulate(problem, ne.SGD(0.05, 2, "epoch"), p, steps, key=k, observe=observe, every=steps)
        )
        return run.lower(params, KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(100_000) == temporaries(10)


@pytest.mark.float32
def test_averages_follow_the_dtype():
    problem, params = linear_problem()
    observe = {"m": ne.running(lambda p: (p.up, p.up.astype(jnp.bfloat16), jnp.argmax(p.up)))}
    moments = ne.simulate(problem, ne.GD(0.1), params, 2, observe=observe).observed["m"]
    assert [mean.dtype for mean in moments.mean] == [jnp.float32] * 3


# --- wrong input -----------------------------------------------------------------------------------------------------


def started(dynamics, **options):
    problem, params = linear_problem()
    return problem, ne.simulate(problem, dynamics, params, 2, **options)


def resumed(before, after, observe=None, steps=2, every=1, **options):
    problem, part = started(before, **options)
    return ne.resume(problem, after, part, steps, observe=observe, every=every)


SGD, GD = ne.SGD(0.1, 2), ne.GD(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.resume(*linear_problem()[:1], GD, linear_problem()[1], 2), "trajectory is Params; expected what"),
        (lambda: resumed(GD, SGD), "SGD needs random numbers and this run began without a key"),
        (lambda: resumed(SGD, ne.SGD(0.1, 2, "epoch"), key=KEY), "another state than that of SGD"),
        (lambda: resumed(SGD, ne.Optax(optax.adam(0.1), 2), key=KEY), "another state than that of Optax"),
        (lambda: resumed(GD, GD, {"m": ne.running(CHARGE)}), "'m' accumulates .* not observed before the break"),
        (
            lambda: resumed(GD, GD, {"m": ne.running(CHARGE, 0.5)}),
            "start is 0.5, a fraction .* expected a number of steps",
        ),
        (lambda: resumed(GD, GD, steps=-1), "steps is -1"),
        (lambda: resumed(GD, GD, every=3), "every is 3 and steps is 2"),
        (lambda: resumed(GD, "GD"), "dynamics is 'GD'"),
        (lambda: ne.running(CHARGE, 1.0), r"start is 1.0; expected a fraction in \[0, 1\)"),
        (lambda: ne.running(CHARGE, -1), "start is -1"),
        (lambda: ne.running(CHARGE, "late"), "start is 'late'"),
        (lambda: ne.running(CHARGE, every=0), "every is 0"),
        (lambda: ne.running(3.0), "running got 3.0; expected a function"),
        (lambda: ne.timed(3.0), "got 3.0; expected a function of params and time"),
        (lambda: ne.first_time("w > 0"), "first_time got 'w > 0'"),
        (
            lambda: started(GD, observe={"t": ne.first_time(CHARGE)}),
            "returns an array of dtype float64; expected a bool",
        ),
        (lambda: started(GD, observe={"m": ne.running(lambda p: "up")}), "observable 'm' returns str"),
        (lambda: started(GD, observe={"m": ne.running(lambda p: p.up + 0j)}), "averages real observables"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message), jax.numpy_dtype_promotion("standard"):
        make()


def test_a_trajectory_is_a_pytree_that_can_be_saved(tmp_path):
    problem, part = started(ne.SGD(0.1, 2, "epoch"), key=KEY)
    eqx.tree_serialise_leaves(tmp_path / "run", part)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "run", part)
    one, other = (ne.resume(problem, ne.SGD(0.1, 2, "epoch"), each, 3).params.up for each in (part, loaded))
    np.testing.assert_array_equal(one, other)
