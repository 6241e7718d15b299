"""Redrawn data: balanced finite sets, steps of SGD on fresh redraws, and wrong input."""

import itertools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5.0)


def noisy(key, sample):
    x, y = sample
    return x, y + 0.5 * jax.random.normal(key)


def squared(w, sample):
    x, y = sample
    return (x @ w - y) ** 2


PROBLEM = ne.Problem(squared, ne.Redrawn((X, Y), noisy), weight_decay=0.25)


@pytest.mark.parametrize("n", [10, 13, 3], ids=["whole-rounds", "with-a-rest", "rest-only"])
def test_a_sampled_problem_visits_every_sample_equally_often(n):
    finite = PROBLEM.sampled(jax.random.key(1), n)
    assert (finite.is_population, finite.num_samples, finite.weight_decay) == (False, n, 0.25)
    index = (finite.data[0][:, 0] / 2).astype(int).tolist()  # the inputs tell the samples apart
    whole = n // 5 * 5
    assert index[:whole] == list(range(5)) * (n // 5)
    assert index[whole:] == sorted(set(index[whole:]))
    noise = np.asarray(finite.data[1]) - Y[np.asarray(index)]
    assert len(np.unique(noise)) == n
    assert np.std(noise) < 1.5  # a sum of n squares would exceed 9n·0.25 with probability < 1e-9


def test_the_rest_is_a_random_subset():
    rests = {
        tuple((PROBLEM.sampled(key, 7).data[0][5:, 0] / 2).astype(int).tolist())
        for key in jax.random.split(jax.random.key(0), 100)
    }
    assert rests == set(itertools.combinations(range(5), 2))  # each of the ten missing has probability 0.9^100


def test_more_rounds_go_on_where_fewer_ended():
    few, many = (PROBLEM.sampled(jax.random.key(1), n).data[1] for n in (10, 25))
    np.testing.assert_array_equal(few, many[:10])
    assert not np.array_equal(few, PROBLEM.sampled(jax.random.key(2), 10).data[1])


def test_the_redraws_have_the_law_of_redraw():
    labels = PROBLEM.sampled(jax.random.key(1), 5 * 2000).data[1].reshape(2000, 5)
    np.testing.assert_allclose(labels.mean(0), Y, atol=5 * 0.5 / 2000**0.5)
    np.testing.assert_allclose(labels.var(0), 0.25, rtol=5 * (2 / 2000) ** 0.5)


MODES = pytest.mark.parametrize("replacement", [True, False], ids=["with-replacement", "without-replacement"])


@MODES
def test_sgd_redraws_every_sample_of_every_batch(replacement):
    """With ℓ = ⟨w, sample⟩ a step shows the batch itself: distinct noise, around S of the N samples."""
    data = ne.Redrawn(np.eye(5), lambda key, z: jnp.concatenate([z, jax.random.normal(key, (1,))]))
    problem = ne.Problem(lambda w, z: jnp.sum(w * z), data)
    run = ne.simulate(
        problem, ne.SGD(4.0, 4, replacement), jnp.zeros(6), 200, key=jax.random.key(3), observe={"w": lambda w: w}
    )
    batches = -np.diff(run.observed["w"], axis=0)
    counts = np.rint(batches[:, :5])
    np.testing.assert_allclose(batches[:, :5], counts, atol=1e-12)
    np.testing.assert_array_equal(counts.sum(1), 4)
    assert (counts.max() > 1) == replacement
    sums = batches[:, 5]  # of four independent normal numbers
    assert len(np.unique(sums)) == 200
    np.testing.assert_allclose([sums.mean(), sums.var() / 4], [0, 1], atol=5 * np.sqrt([4 / 200, 2 / 200]).max())


def test_twice_the_same_sample_in_a_batch_is_redrawn_twice():
    one = ne.Redrawn(np.zeros(1), lambda key, z: z + jax.random.normal(key))
    visited = one.visit(jax.random.key(0), jnp.zeros(6, int))
    assert len(np.unique(np.asarray(visited))) == 6


def test_a_redraw_without_noise_is_sgd_on_the_data():
    """The law of the indices is that of finite data: enumerate all batches of two."""
    silent = ne.Problem(squared, ne.Redrawn((X, Y), lambda key, z: z))
    w = jnp.array([0.3, -0.2])
    gradients = np.asarray(2 * (X @ w - Y)[:, None] * X)
    pairs = np.array([gradients[list(pair)].mean(0) for pair in itertools.combinations(range(5), 2)])
    step = jax.jit(lambda key: ne.simulate(silent, ne.SGD(0.1, 2, replacement=False), w, 1, key=key).params)
    chosen = set()
    for key in jax.random.split(jax.random.key(0), 60):
        distance = np.abs(w - 0.1 * pairs - step(key)).max(1)
        assert distance.min() < 1e-13
        chosen.add(int(distance.argmin()))
    assert len(chosen) == 10


class Noise(eqx.Module):
    size: float

    def __call__(self, key, y):
        return y + self.size * jax.random.normal(key)


def test_numbers_of_a_redraw_never_recompile():
    @chex.assert_max_traces(n=1)
    def loss(w, y):
        return (w - y) ** 2

    ends = []
    for size in (0.0, 0.5, 1.0):
        problem = ne.Problem(loss, ne.Redrawn(jnp.ones(4), Noise(size)))
        ends.append(float(ne.simulate(problem, ne.SGD(0.5, 2), jnp.zeros(()), 1, key=jax.random.key(0)).params))
    np.testing.assert_allclose(ends[0], 1.0)
    np.testing.assert_allclose(ends[2] - 1, 2 * (ends[1] - 1), rtol=1e-12)
    assert ends[1] != ends[0]


def test_the_numbers_of_a_run_depend_on_its_key_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(jax.vmap(lambda key: ne.simulate(PROBLEM, ne.SGD(0.01, 3), jnp.ones(2), 20, key=key).params))
    np.testing.assert_allclose(run(keys)[:1], run(keys[:1]), rtol=1e-13)


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("risk", lambda: PROBLEM.risk(jnp.ones(2))),
        ("num_samples", lambda: PROBLEM.num_samples),
        ("noise_moments", lambda: ne.noise_moments(PROBLEM, jnp.ones(2), ne.scaling())),
        ("gradient_covariance", lambda: ne.gradient_covariance(PROBLEM, jnp.ones(2))),
        ("sample_noise", lambda: ne.sample_noise(PROBLEM, jnp.ones(2), jax.random.key(0))),
        ("noether_flow", lambda: ne.noether_flow(PROBLEM, jnp.ones(2), ne.scaling(), 0.1)),
        ("relaxation_rates", lambda: ne.relaxation_rates(PROBLEM, jnp.ones(2), ne.scaling(), 0.1)),
        ("find_equilibrium", lambda: ne.find_equilibrium(PROBLEM, jnp.ones(2), ne.scaling(), 0.1)),
        ("symmetry_violation", lambda: ne.symmetry_violation(PROBLEM, jnp.ones(2), ne.scaling())),
        ("check_symmetry", lambda: ne.check_symmetry(PROBLEM, jnp.ones(2), ne.scaling())),
        ("GD", lambda: ne.simulate(PROBLEM, ne.GD(0.1), jnp.ones(2), 1)),
        ("SDE", lambda: ne.simulate(PROBLEM, ne.SDE(0.1, 2), jnp.ones(2), 1, key=jax.random.key(0))),
        ("GradientFlow", lambda: ne.simulate(PROBLEM, ne.GradientFlow(0.1), jnp.ones(2), 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_an_expectation_refuses_redrawn_data(name, call):
    message = rf"{name} needs an expectation .* data of this problem are redrawn .*problem\.sampled\(key, n\)"
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_without_replacement_must_fit():
    with pytest.raises(ValueError, match="batch_size is 6 without replacement and the data hold 5 samples"):
        ne.simulate(PROBLEM, ne.SGD(0.1, 6, replacement=False), jnp.ones(2), 1, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.Redrawn((X, Y[:3]), noisy), r"leaves of data differ in length \(data\[0\]: 5, data\[1\]: 3\)"),
        (lambda: ne.Redrawn((), noisy), "data has no array"),
        (lambda: ne.Redrawn(1.0, noisy), "data is float; expected an array"),
        (lambda: ne.Redrawn((X, Y), Y), r"got ndarray; expected a function redraw\(key, sample\)"),
        (lambda: ne.Redrawn(ne.Stream(jax.random.normal), noisy), "the data are Stream already"),
        (lambda: PROBLEM.sampled(jax.random.key(0), 0), "n is 0; expected an integer of at least 1"),
        (lambda: PROBLEM.sampled(None, 3), "sampled needs random numbers and got no key"),
    ],
    ids=["lengths", "empty", "number", "no-function", "stream", "n", "key"],
)
def test_bad_redrawn_data_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
