"""Moments of parts of the data: they add up exactly, and estimate those of a population with honest error bars."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne

PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4)}
DATA = (normal(3, 12, 4), normal(4, 12, 2))
ROTATION, SCALING = ne.double_rotation(leaf("u"), leaf("w")), ne.scaling()
MATRIX = ne.exponential_symmetry(np.diag(np.r_[np.ones(6), -np.ones(12)]))


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


def problem_of(rows):
    return ne.Problem(linear, jax.tree.map(lambda x: x[rows], DATA))


def assert_close(ours, theirs, relative):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=relative * max(float(np.max(np.abs(two))), 1e-300))


@pytest.mark.parametrize("symmetry", [ROTATION, SCALING, MATRIX], ids=["rotation", "scaling", "matrix"])
@pytest.mark.parametrize("cuts", [(0, 6, 12), (0, 1, 2, 5, 12)], ids=["halves", "uneven"])
def test_parts_add_up_to_the_whole(symmetry, cuts):
    parts = [ne.partial_moments(problem_of(slice(a, b)), PARAMS, symmetry) for a, b in itertools.pairwise(cuts)]
    together = sum(parts)
    assert int(together.count) == 12
    assert_close(together.moments(), ne.noise_moments(problem_of(slice(None)), PARAMS, symmetry), 1e-13)


def test_the_order_of_the_parts_does_not_matter_and_sequences_are_kept():
    symmetries = [ROTATION, MATRIX]
    cuts = (slice(0, 3), slice(3, 9), [9, 10, 11])
    a, b, c = (ne.partial_moments(problem_of(rows), PARAMS, symmetries) for rows in cuts)
    assert_close(((a + b) + c).moments(), (c + (b + a)).moments(), 1e-13)
    assert_close((a + b + c).moments(), ne.noise_moments(problem_of(slice(None)), PARAMS, symmetries), 1e-13)


def test_batches_of_one_size_are_compiled_once():
    @chex.assert_max_traces(n=1)
    def loss(p, z):
        return linear(p, z)

    for start in (0, 4, 8):
        batch = jax.tree.map(lambda x, start=start: x[start : start + 4], DATA)
        ne.partial_moments(ne.Problem(loss, batch), PARAMS, ROTATION)


def test_a_large_mean_does_not_spoil_the_noise_of_the_whole():
    """Single precision: parts are centred at their own means, so that nothing is lost in between."""
    x = 1000 + normal(5, 4096)
    exact = np.var(x)

    def loss(p, z):
        return p * z

    parts = [ne.partial_moments(ne.Problem(loss, x[i : i + 1]), jnp.asarray(1.0), SCALING) for i in range(64)]
    np.testing.assert_allclose(sum(parts).moments().noise_plus, np.var(x[:64]), rtol=1e-12)
    halves = [jnp.asarray(x[:2048], jnp.float32), jnp.asarray(x[2048:], jnp.float32)]
    single = sum(ne.partial_moments(ne.Problem(loss, half), jnp.asarray(1, jnp.float32), SCALING) for half in halves)
    np.testing.assert_allclose(single.moments().noise_plus, exact, atol=1000**2 * 1e-6)


# --- estimates of a population ---------------------------------------------------------------------------------------


def test_unbiased_moments_divide_by_one_less():
    """E over all samples of two with replacement of a population of four values is the population's own covariance."""
    values = np.array([0.5, -1.0, 2.0, 4.0])
    pairs = [np.array([a, b]) for a in values for b in values]
    moments = [
        ne.partial_moments(ne.Problem(lambda p, z: p * z, pair), jnp.asarray(1.5), SCALING).moments(unbiased=True)
        for pair in pairs
    ]
    np.testing.assert_allclose(np.mean([m.noise_plus for m in moments]), np.var(values), rtol=1e-12)
    np.testing.assert_allclose(np.mean([m.mean_plus for m in moments]), np.mean(values) ** 2, rtol=1e-12)


@pytest.mark.parametrize("symmetry", [ROTATION, MATRIX], ids=["rotation", "matrix"])
def test_the_standard_error_is_the_jackknife_over_batches(symmetry):
    data = (normal(7, 24, 4), normal(8, 24, 2))
    estimate = ne.estimate_moments(ne.Problem(linear, data), PARAMS, symmetry, batches=4)

    def unbiased(rows):
        part = ne.partial_moments(ne.Problem(linear, jax.tree.map(lambda x: x[rows], data)), PARAMS, symmetry)
        return part.moments(unbiased=True)

    assert_close(estimate.value, unbiased(np.arange(24)), 1e-12)
    kept = [unbiased(np.delete(np.arange(24), slice(6 * b, 6 * b + 6))) for b in range(4)]
    error = jax.tree.map(lambda *leaves: jnp.sqrt(3 * jnp.var(jnp.stack(leaves), axis=0)), *kept)
    assert_close(estimate.standard_error.noise, error.noise, 1e-10)
    assert_close(estimate.standard_error.mean, error.mean, 1e-10)
    np.testing.assert_array_equal(estimate.standard_error.weight_plus, 0)
    assert (int(estimate.count), estimate.batches) == (24, 4)


def gaussian_stream():
    def draw(key):
        x, e = jax.random.split(key)
        return jax.random.normal(x, (4,)), 0.5 * jax.random.normal(e, (2,))

    return ne.Problem(linear, ne.Stream(draw))


def exact_rotation_noise():
    """M_U = 4 W (E[‖r‖²xxᵀ] − KᵀK) Wᵀ and M_W = 4 Uᵀ (E[‖x‖²rrᵀ] − KKᵀ) U for Σ_x = I, Σ_ε = I/4, r = UWx − ε."""
    u, w = PARAMS["u"], PARAMS["w"]
    delta = u @ w
    inputs = (np.trace(delta.T @ delta) + 0.5) * np.eye(4) + 2 * delta.T @ delta - delta.T @ delta
    residuals = delta @ (4 * np.eye(4) + 2 * np.eye(4)) @ delta.T + 4 * 0.25 * np.eye(2) - delta @ delta.T
    return 4 * w @ inputs @ w.T, 4 * u.T @ residuals @ u


def test_the_moments_of_a_stream_lie_within_their_error_bars():
    """Of the 2 × 6 distinct entries the largest deviation stays below 4.5 standard errors, at a fixed key."""
    problem = gaussian_stream().sampled(jax.random.key(1), 20_000)
    estimate = ne.estimate_moments(problem, PARAMS, ROTATION)
    for ours, error, exact in zip(
        estimate.value.noise, estimate.standard_error.noise, exact_rotation_noise(), strict=True
    ):
        assert np.max(np.abs(ours - exact) / error) < 4.5
        assert np.max(error / np.abs(np.diag(exact)).max()) < 0.05


@pytest.mark.slow
def test_the_error_bars_of_a_stream_have_the_right_size():
    """Over 200 estimates the deviations scatter with the standard errors that were claimed: within 5 of their own."""
    runs = [
        ne.estimate_moments(gaussian_stream().sampled(jax.random.key(k), 1024), PARAMS, ROTATION, batches=16)
        for k in range(200)
    ]
    exact = exact_rotation_noise()[0]
    values = np.stack([run.value.noise[0] for run in runs])
    claimed = np.sqrt(np.mean([np.square(run.standard_error.noise[0]) for run in runs], axis=0))
    scatter = np.std(values, axis=0, ddof=1)
    np.testing.assert_array_less(np.abs(np.mean(values, axis=0) - exact), 5 * scatter / np.sqrt(200))
    # A standard deviation over 200 runs has a relative error of about √(κ − 1)/(2√200) ~ 0.07 at a kurtosis of 5.
    np.testing.assert_allclose(scatter / claimed, 1, atol=0.35)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_added_or_estimated_is_refused():
    part = ne.partial_moments(problem_of(slice(0, 1)), PARAMS, ROTATION)
    other = ne.partial_moments(problem_of(slice(1, 3)), PARAMS, SCALING)
    elsewhere = ne.partial_moments(problem_of(slice(1, 3)), jax.tree.map(lambda x: 2 * x, PARAMS), ROTATION)
    for wrong in (other, elsewhere):
        with pytest.raises(ValueError, match="two parts are of different symmetries or parameters"):
            part + wrong
        with pytest.raises(ValueError, match="the parts are of different symmetries or parameters"):
            ne.combine_moments([part, wrong])
    with pytest.raises(ValueError, match="needs at least 2 samples, and this part holds 1"):
        part.moments(unbiased=True)
    with pytest.raises(ValueError, match="got 1 parts; expected at least 2"):
        ne.combine_moments([part])
    for batches in (1, 13):
        with pytest.raises(ValueError, match=f"batches is {batches} and there are 12 samples"):
            ne.estimate_moments(problem_of(slice(None)), PARAMS, ROTATION, batches=batches)
    with pytest.raises(ValueError, match=r"partial_moments needs an expectation.*a Stream"):
        ne.partial_moments(gaussian_stream(), PARAMS, ROTATION)
    with pytest.raises(ValueError, match="expected a Symmetry, or a sequence of at least one"):
        ne.partial_moments(problem_of(slice(None)), PARAMS, [])


def test_a_sample_that_spoils_an_estimate_is_named_by_its_place_among_all():
    data = (DATA[0].copy(), DATA[1])
    data[0][9] = np.nan
    with pytest.raises(ValueError, match="the loss of sample 9 is nan"):
        ne.estimate_moments(ne.Problem(linear, data), PARAMS, ROTATION, batches=3)
