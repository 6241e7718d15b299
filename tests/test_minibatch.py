"""The noise of a minibatch in every mode of sampling, against the enumeration of all batches."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import per_sample_gradients

N = 5
PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4)}
DATA = (normal(3, N, 4), normal(4, N, 2))
ROTATION = ne.double_rotation(leaf("u"), leaf("w"))


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


PROBLEM = ne.Problem(linear, DATA)
MODES = [(1, True), (2, True), (1, False), (2, False), (5, False), (1, "epoch"), (2, "epoch"), (5, "epoch")]
every_mode = pytest.mark.parametrize(("size", "replacement"), MODES, ids=lambda value: str(value))


def batches_of_every_step(count, size, replacement):
    """All equally likely batches, for each step of an epoch; one step where batches are independent."""
    if replacement == "epoch":
        orders = list(itertools.permutations(range(count)))
        return [[order[step * size :][:size] for order in orders] for step in range(count // size)]
    if replacement:
        return [list(itertools.product(range(count), repeat=size))]
    return [list(itertools.combinations(range(count), size))]


def over_batches(values, function, size, replacement):
    """The mean of a function of the minibatch means of `values`, over all batches of a step and over the steps."""
    steps = batches_of_every_step(len(values), size, replacement)
    means = [np.stack([np.mean(values[list(batch)], axis=0) for batch in batches]) for batches in steps]
    return np.mean([function(mean) for mean in means], axis=0)


def covariance(values):
    return np.cov(values, rowvar=False, bias=True)


@pytest.fixture(scope="module")
def gradients():
    """(N, P), in the order of `flatten`."""
    return np.concatenate([np.reshape(g, (N, -1)) for g in per_sample_gradients(PROBLEM, PARAMS)], axis=1)


@every_mode
def test_the_covariance_of_a_minibatch_is_that_of_all_minibatches(gradients, size, replacement):
    expected = over_batches(gradients, covariance, size, replacement)
    ours = ne.gradient_covariance(PROBLEM, PARAMS, batch_size=size, replacement=replacement)
    np.testing.assert_allclose(ours, expected, atol=1e-12 * np.max(np.abs(gradients)) ** 2)


@every_mode
def test_the_traces_of_a_minibatch_are_those_of_all_minibatches(gradients, size, replacement):
    expected = over_batches(gradients, covariance, size, replacement)
    total = ne.noise_trace(PROBLEM, PARAMS, batch_size=size, replacement=replacement)
    np.testing.assert_allclose(total, np.trace(expected), atol=1e-12 * np.max(np.abs(gradients)) ** 2)
    u, w = expected[:6, :6].reshape(2, 3, 2, 3), expected[6:, 6:].reshape(3, 4, 3, 4)
    signed = np.einsum("iaib->ab", u) - np.einsum("ajbj->ab", w)  # M₊ − M₋
    along = ne.noise_trace(PROBLEM, PARAMS, ROTATION, batch_size=size, replacement=replacement)
    np.testing.assert_allclose(along, signed, atol=1e-12 * np.max(np.abs(gradients)) ** 2)


@every_mode
def test_a_sample_of_minibatch_noise_is_scaled(gradients, size, replacement):
    """A draw of the same key, times the root of Cov ĝ / Σ."""
    one, batch = (
        ne.flatten(ne.sample_noise(PROBLEM, PARAMS, jax.random.key(0), **options))[0]
        for options in ({}, {"batch_size": size, "replacement": replacement})
    )
    ratio = np.trace(over_batches(gradients, covariance, size, replacement)) / np.trace(covariance(gradients))
    np.testing.assert_allclose(batch, one * np.sqrt(ratio), rtol=1e-12, atol=1e-12)


@every_mode
def test_the_law_of_sgd_is_the_mean_over_all_minibatches(gradients, size, replacement):
    """E[C(θ')] by taking every step; of an epoch every batch at the same θ."""
    rate, decay = 0.1, 0.2
    flat, unflatten = ne.flatten(PARAMS)

    def charges(means):
        return jax.vmap(lambda g: ROTATION.charge(unflatten(flat - rate * (g + 2 * decay * flat))))(means).mean(axis=0)

    expected = over_batches(gradients, charges, size, replacement) - ROTATION.charge(PARAMS)
    problem = ne.Problem(linear, DATA, decay)
    step = ne.expected_charge_step(problem, PARAMS, ROTATION, ne.SGD(rate, size, replacement))
    np.testing.assert_allclose(step, expected, atol=1e-12 * np.max(np.abs(expected)))


@pytest.mark.parametrize("replacement", [True, False, "epoch"])
def test_the_law_of_svag_amplifies_the_noise_of_its_batches(replacement):
    sgd, svag = (d.charge_law(PROBLEM) for d in (ne.SGD(0.1, 2, replacement), ne.SVAG(0.1, 2, 3.0, replacement)))
    np.testing.assert_allclose(svag.noise, 3 * sgd.noise, rtol=1e-15)


@pytest.mark.parametrize(("size", "replacement"), [(1, True), (2, True), (2, False), (2, "epoch"), (4, "epoch")])
def test_the_noise_of_redrawn_data_is_that_of_all_minibatches_and_all_redraws(size, replacement):
    """ℓ = θz, so the gradient is z itself: z_i + s_i ε with ε = ±1, N = 4."""
    centres, spreads = normal(5, 4), np.abs(normal(6, 4))
    values = np.stack([centres - spreads, centres + spreads], axis=1)
    problem, theta = ne.Problem(lambda p, z: p * z, centres), jnp.asarray(1.0)
    between = ne.noise_moments(problem, theta, ne.scaling())
    within = eqx.tree_at(lambda m: m.noise, between, (jnp.mean(spreads**2),))
    (steps, means) = batches_of_every_step(4, size, replacement), []
    for batches in steps:
        every = [
            np.mean([values[i, sign] for i, sign in zip(batch, signs, strict=True)])
            for batch in batches
            for signs in itertools.product((0, 1), repeat=size)
        ]
        means.append(np.var(every))
    ours = ne.RedrawnMoments(between, within, 4).of_batch(size, replacement)
    np.testing.assert_allclose(ours.noise_plus, np.mean(means), rtol=1e-12)
    np.testing.assert_array_equal(ours.mean_plus, between.mean_plus)


@pytest.mark.parametrize("replacement", [True, False, "epoch"])
def test_the_samples_of_a_stream_are_independent_in_every_mode(replacement):
    stream = ne.Problem(linear, ne.Stream(lambda key: (jax.random.normal(key, (4,)), jnp.ones(2))))
    assert ne.SGD(0.1, 8, replacement).charge_law(stream).noise == 1 / 8


# --- what is refused -------------------------------------------------------------------------------------------------


ASKED = {
    "covariance": lambda size, mode: ne.gradient_covariance(PROBLEM, PARAMS, batch_size=size, replacement=mode),
    "trace": lambda size, mode: ne.noise_trace(PROBLEM, PARAMS, batch_size=size, replacement=mode),
    "sample": lambda size, mode: ne.sample_noise(PROBLEM, PARAMS, jax.random.key(0), batch_size=size, replacement=mode),
    "redrawn": lambda size, mode: ne.RedrawnMoments((), (), N).of_batch(size, mode),
    "SGD": lambda size, mode: run(ne.SGD(0.1, size, mode)),
    "SVAG": lambda size, mode: run(ne.SVAG(0.1, size, 2, mode)),
    "Optax": lambda size, mode: run(ne.Optax(optax.sgd(0.1), size, mode)),
}
everywhere = pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)


def run(dynamics):
    return ne.simulate(PROBLEM, dynamics, PARAMS, 1, key=jax.random.key(0))


@everywhere
@pytest.mark.parametrize("mode", ["epohc", "Epoch", "", None, 1, 0, ["epoch"]], ids=repr)
def test_misspelt_modes_are_refused_everywhere(ask, mode):
    with pytest.raises(ValueError, match=r"replacement is .*; expected True \(independent draws\), False .*'epoch'"):
        ask(2, mode)


@everywhere
@pytest.mark.parametrize("size", [0, -1, 2.0, True, np.True_, "4", None, np.array([2])], ids=repr)
def test_sizes_that_are_no_size_are_refused_everywhere(ask, size):
    with pytest.raises(ValueError, match=r"batch_size is .*; expected an integer of at least 1"):
        ask(size, True)


@everywhere
@pytest.mark.parametrize("mode", [False, "epoch"])
def test_batches_that_do_not_fit_are_refused_everywhere(ask, mode):
    with pytest.raises(ValueError, match="batch_size is 6 without replacement and the data hold 5 samples"):
        ask(6, mode)


@everywhere
def test_a_traced_size_is_refused_everywhere(ask):
    with pytest.raises(ValueError, match=r"batch_size is traced .* make one call for each value"):
        jax.vmap(lambda size: jnp.sum(jnp.asarray(ask(size, True))))(jnp.array([1, 2]))


@everywhere
def test_sizes_and_modes_of_numpy_are_what_they_are(ask):
    ask(np.int64(2), np.False_)
