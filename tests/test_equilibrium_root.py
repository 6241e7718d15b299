"""Equilibria along generators of any spectrum: Theorem 4.3 itself, roots far away, and every outcome of the search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import status

import noise_equilibrium as ne
from noise_equilibrium._group._root import Spectrum, flow_root

NOISE_SCALE = 0.05
POWERS = np.array([1.0, 0.3, -0.7, -1.2, 0.0])
DECAYS = [0.0, 1e-3, 1e-1]
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
GENERATOR = BASIS @ np.diag(POWERS) @ BASIS.T
SYMMETRY = ne.exponential_symmetry(GENERATOR)
# Logarithms of the coordinates move along POWERS: what these rows see of them is invariant.
INVARIANT = np.linalg.svd(POWERS[None])[2][1:]


def invariant_loss(theta, sample):
    x, y = sample
    features = INVARIANT @ jnp.log((theta @ BASIS) ** 2)
    return (jnp.dot(x, jnp.tanh(features)) - y) ** 2


def problem_and_start(decay=0.0, seed=0, samples=9):
    draw = np.random.default_rng(seed)
    data = jnp.asarray(draw.normal(size=(samples, 4))), jnp.asarray(draw.normal(size=samples))
    coordinates = draw.uniform(0.5, 1.5, 5) * draw.choice([-1, 1], 5)
    return ne.Problem(invariant_loss, data, decay), jnp.asarray(BASIS @ coordinates)


@pytest.mark.parametrize("decay", DECAYS)
def test_theorem_4_3_on_a_grid(decay):
    """G falls and C rises along the orbit; λ* is where G changes its sign; lemma B.1; dΦ/dλ = −G."""
    for seed in range(3):
        problem, start = problem_and_start(decay, seed)
        grid = jnp.linspace(-5, 5, 301)

        def along(element):
            there = SYMMETRY.act(start, element)  # noqa: B023
            covariance = ne.gradient_covariance(problem, there)  # noqa: B023
            flow = ne.noether_flow(problem, there, SYMMETRY, NOISE_SCALE)  # noqa: B023
            return flow, SYMMETRY.charge(there), jnp.trace(covariance @ GENERATOR)

        flow, charge, trace = jax.jit(jax.vmap(along))(grid)
        assert bool(jnp.all(jnp.diff(flow) < 0))
        assert bool(jnp.all(jnp.diff(charge) > 0))
        covariance = BASIS.T @ np.asarray(ne.gradient_covariance(problem, start)) @ BASIS
        by_lemma = np.exp(-2 * np.outer(grid, POWERS)) @ (POWERS * np.diag(covariance))
        size = np.exp(-2 * np.outer(grid, POWERS)) @ (np.abs(POWERS) * np.diag(covariance))
        assert np.max(np.abs(trace - by_lemma) / size) <= 1e-10
        found = ne.find_equilibrium(problem, start, SYMMETRY, NOISE_SCALE)
        assert status(found) == ne.Status.CONVERGED
        assert found.residual <= 1e-12
        assert bool(jnp.all((flow > 0) == (grid < found.element)))

    def potential(element):
        there = SYMMETRY.act(start, element)
        trace = jnp.trace(ne.gradient_covariance(problem, there))
        return 2 * decay * jnp.sum(there**2) + NOISE_SCALE * trace

    slope = jax.vmap(jax.grad(potential))(grid[100:201:20])
    np.testing.assert_allclose(slope, -flow[100:201:20], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", DECAYS)
def test_the_root_is_equivariant_and_its_point_is_its_action(decay):
    problem, start = problem_and_start(decay)
    found = ne.find_equilibrium(problem, start, SYMMETRY, NOISE_SCALE)
    np.testing.assert_allclose(SYMMETRY.act(start, found.element), found.params, rtol=1e-12)
    for shift in (-2.0, 0.3, 3.0):
        moved = ne.find_equilibrium(problem, SYMMETRY.act(start, jnp.asarray(shift)), SYMMETRY, NOISE_SCALE)
        np.testing.assert_allclose(moved.element, found.element - shift, rtol=0, atol=1e-12)


def test_derivatives_of_the_root_are_finite_differences():
    problem, start = problem_and_start()
    draw = np.random.default_rng(1)
    direction = [0.1 * draw.normal(size=leaf.shape) for leaf in (start, *problem.data)]

    @jax.jit
    def element(t, decay=0.02):
        data = (problem.data[0] + t[1] * direction[1], problem.data[1] + t[1] * direction[2])
        moved = ne.Problem(invariant_loss, data, decay * (1 + t[2]))
        found = ne.find_equilibrium(moved, start + t[0] * direction[0], SYMMETRY, NOISE_SCALE * (1 + t[3]))
        return found.element + jnp.sum(jnp.sin(jnp.arange(5.0)) * found.params)

    zero, step, along = jnp.zeros(4), 1e-3, jnp.array([0.7, 0.4, -0.6, 0.5])

    def differences(function, unit):
        low2, low, high, high2 = (np.asarray(function(k * step * unit)) for k in (-2, -1, 1, 2))
        return (low2 - 8 * low + 8 * high - high2) / (12 * step)

    gradient = jax.jit(jax.grad(element))
    numerical = np.array([differences(element, unit) for unit in jnp.eye(4)])
    np.testing.assert_allclose(gradient(zero), numerical, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jvp(element, (zero,), (along,))[1], numerical @ along, rtol=1e-7)
    mixed = jax.jit(lambda t: jax.jvp(jax.grad(element), (t,), (along,))[1])(zero)
    np.testing.assert_allclose(mixed, differences(gradient, along), rtol=1e-6, atol=1e-8)


def test_a_decay_of_zero_has_a_slope():
    """At γ = 0 the terms of the weights vanish, and their derivative in γ does not."""
    problem, start = problem_and_start()

    def element(decay):
        return ne.find_equilibrium(
            ne.Problem(invariant_loss, problem.data, decay), start, SYMMETRY, NOISE_SCALE
        ).element

    slope = jax.grad(element)(0.0)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (element(1e-6) - element(0.0)) / 1e-6, rtol=1e-4)


@pytest.mark.parametrize("distance", [-300.0, -30.0, 0.0, 30.0, 300.0])
def test_a_root_far_away_is_found_to_rounding(distance):
    draw = np.random.default_rng(0)
    sizes = jnp.array([1.0, 0.5, 0.01, 0.0, 1.0])
    lowers, raises = (jnp.asarray(draw.uniform(0.5, 2, 5)) for _ in range(2))
    near = flow_root(Spectrum(sizes, lowers, raises))
    far = flow_root(Spectrum(sizes, lowers * jnp.exp(-2 * distance * sizes), raises * jnp.exp(2 * distance * sizes)))
    np.testing.assert_allclose(far, near + distance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distance", [-300.0, 300.0])
def test_a_closed_form_far_away_does_not_overflow(distance):
    problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.3, -1.0, 2.0]))
    start = {"u": jnp.exp(-jnp.asarray(distance)), "w": jnp.exp(jnp.asarray(distance))}
    found = ne.find_equilibrium(problem, start, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    np.testing.assert_allclose(found.element, distance, rtol=1e-13)
    np.testing.assert_allclose([found.params["u"], found.params["w"]], 1, rtol=1e-12)


def spectra():
    """Powers, r and t with a known root: one size of power, one sign, one term each."""
    return {
        "one-size": ([2.0, 2.0, 2.0], [1.0, 2.0, 0.0], [0.0, 1.0, 5.0], np.log(6 / 3) / 8),
        "noise-alone": ([3.0, 2.0], [0.0, 0.5], [4.0, 0.0], np.log(3 * 4 / (2 * 0.5)) / (2 * (3 + 2))),
        "weights-alone": ([3.0, 2.0], [0.5, 0.0], [0.0, 4.0], np.log(2 * 4 / (3 * 0.5)) / (2 * (3 + 2))),
        "one-power": ([3.0], [2.0], [4.0], np.log(2) / 12),
    }


@pytest.mark.parametrize("name", spectra())
def test_the_root_is_at_its_closed_forms(name):
    sizes, lowers, raises, expected = spectra()[name]
    found = flow_root(Spectrum(*(jnp.asarray(values) for values in (sizes, lowers, raises))))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_a_wide_spectrum_is_bracketed_all_the_same():
    """Powers from 1e-6 to 1: the bracket is a million times wider than the root is large."""
    spectrum = Spectrum(jnp.array([1e-6, 1.0]), jnp.array([1e6, 1.0]), jnp.array([1.0, 1e8]))
    element = flow_root(spectrum)
    sides = [
        float(jnp.sum(spectrum.sizes * side * jnp.exp(sign * 2 * element * spectrum.sizes)))
        for side, sign in ((spectrum.lowers, 1), (spectrum.raises, -1))
    ]
    np.testing.assert_allclose(*sides, rtol=1e-13)


# --- homogeneous activations -----------------------------------------------------------------------------------------

UP, DOWN = (lambda p: p["u"]), (lambda p: p["w"])
SQUARES = {
    "scalar": ne.Symmetry([ne.Leg(DOWN, power=1), ne.Leg(UP, power=-2)], "scalar"),
    "diagonal": ne.Symmetry([ne.Leg(DOWN, 0, power=1), ne.Leg(UP, 1, power=-2)], "diagonal"),
}


def square_loss(p, z):
    """U (Wx)²: w_j → e^ρ w_j and u_j → e^{−2ρ} u_j change nothing."""
    return jnp.sum((p["u"] @ (p["w"] @ z[0]) ** 2 - z[1]) ** 2)


def square_problem(decay=0.0, samples=7):
    keys = jax.random.split(jax.random.key(0), 4)
    data = jax.random.normal(keys[0], (samples, 3)), jax.random.normal(keys[1], (samples, 2))
    start = {"w": jax.random.normal(keys[2], (2, 3)), "u": 0.3 * jax.random.normal(keys[3], (2, 2))}
    return ne.Problem(square_loss, data, decay), start


@pytest.mark.parametrize("name", SQUARES)
@pytest.mark.parametrize("decay", DECAYS)
def test_unequal_powers_are_balanced(name, decay):
    problem, start = square_problem(decay)
    symmetry = SQUARES[name]
    found = ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-12
    assert found.element.shape == symmetry.charge(start).shape
    flow = ne.noether_flow(problem, found.params, symmetry, NOISE_SCALE)
    np.testing.assert_allclose(flow, 0, atol=1e-12 * float(problem.risk(start)))
    for one, other in zip(
        jax.tree.leaves(symmetry.act(start, found.element)), jax.tree.leaves(found.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    if decay == 0:
        moments = ne.noise_moments(problem, start, symmetry)  # totals count the power
        np.testing.assert_allclose(found.element, jnp.log(moments.noise_plus / moments.noise_minus) / 6, rtol=1e-12)


def test_powers_of_one_size_agree_with_the_matrix_of_the_same_generator():
    """One orbit, three spellings: legs of ±1, the matrix A, and A with its sign and size changed."""
    keys = jax.random.split(jax.random.key(0), 2)
    problem = ne.Problem(lambda p, z: jnp.sum(p["u"] @ p["w"] - z) ** 2, jax.random.normal(keys[0], (5,)), 0.1)
    start = {"u": jax.random.normal(keys[1], (1, 2)), "w": jnp.array([[1.0], [3.0]])}
    diagonal = np.diag([1.0, 1.0, -1.0, -1.0])
    by_legs = ne.find_equilibrium(problem, start, ne.rescaling(UP, DOWN), NOISE_SCALE)
    for factor in (1.0, -2.0):
        found = ne.find_equilibrium(problem, start, ne.exponential_symmetry(factor * diagonal), NOISE_SCALE)
        np.testing.assert_allclose(found.element, by_legs.element / factor, rtol=1e-12)
        for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(by_legs.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


# --- the exact discrete law ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize(
    "law",
    [ne.SGD(0.1, 2), ne.SGD(0.1, 2, replacement=False), pytest.param(ne.GD(0.1), marks=pytest.mark.slow)],
    ids=["with", "without", "gd"],
)
@pytest.mark.parametrize("name", ["powers", "matrix"])
def test_theorem_d_1_over_every_minibatch(name, law, decay):
    """The mean of C(θ') − C(θ) over all minibatches vanishes at the discrete equilibrium and changes sign there."""
    problem, start = square_problem(decay, 4) if name == "powers" else problem_and_start(decay, samples=4)
    symmetry = SQUARES["scalar"] if name == "powers" else SYMMETRY
    found = ne.find_equilibrium(problem, start, symmetry, law)
    assert status(found) == ne.Status.CONVERGED

    def change(params):
        theta, unflatten = ne.flatten(params)
        gradient = jax.vmap(lambda z: ne.flatten(jax.grad(problem.loss)(params, z))[0])(problem.data)
        size = getattr(law, "batch_size", 4)
        with_replacement = getattr(law, "replacement", False)
        choose = (
            itertools.product(range(4), repeat=size) if with_replacement else itertools.combinations(range(4), size)
        )
        after = theta - 0.1 * (gradient[np.array(list(choose))].mean(axis=1) + 2 * decay * theta)
        return jnp.mean(jax.vmap(lambda theta: symmetry.charge(unflatten(theta)))(after)) - symmetry.charge(params)

    size = float(jnp.sum(ne.flatten(found.params)[0] ** 2))
    np.testing.assert_allclose(change(found.params), 0, atol=1e-12 * size)
    np.testing.assert_allclose(ne.expected_charge_step(problem, found.params, symmetry, law), 0, atol=1e-12 * size)
    assert (
        change(symmetry.act(found.params, jnp.asarray(-0.1))) > 0 > change(symmetry.act(found.params, jnp.asarray(0.1)))
    )


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_a_generator_of_one_sign_diverges_without_decay_and_not_with_it():
    """ℓ depends on the direction of θ alone: A = diag(2, 2) only ever raises C."""

    def loss(theta, z):
        return (jnp.dot(theta, z[0]) / jnp.linalg.norm(theta) - z[1]) ** 2

    data = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2))), jnp.arange(6.0)
    symmetry = ne.exponential_symmetry(2 * np.eye(2))
    start = jnp.array([1.0, 2.0])
    found = ne.find_equilibrium(ne.Problem(loss, data), start, symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.DIVERGES
    assert found.element == jnp.inf
    assert bool(jnp.all(found.params == start))
    found = ne.find_equilibrium(ne.Problem(loss, data, 0.1), start, symmetry, NOISE_SCALE)
    trace = jnp.trace(ne.gradient_covariance(ne.Problem(loss, data), start))
    np.testing.assert_allclose(jnp.sum(found.params**2) ** 2, NOISE_SCALE * jnp.sum(start**2) * trace / 0.2, rtol=1e-12)


def test_without_noise_every_point_is_an_equilibrium_of_a_matrix_too():
    problem, start = problem_and_start(samples=1)
    found = ne.find_equilibrium(problem, start, SYMMETRY, NOISE_SCALE)
    assert status(found) == ne.Status.NO_NOISE
    assert found.element == 0
    assert bool(jnp.all(found.params == start))


def test_a_leg_that_is_empty_dies_on_the_other_side():
    """u = 0: nothing raises C, and w → 0 keeps the loss."""
    problem, start = square_problem(0.1)
    start["u"] = jnp.zeros_like(start["u"])
    found = ne.find_equilibrium(problem, start, SQUARES["diagonal"], NOISE_SCALE)
    assert status(found) == ne.Status.LIMIT
    assert found.element.tolist() == [-np.inf] * 2
    assert bool(jnp.all(found.params["w"] == 0))


def test_bad_numbers_are_a_status_of_roots_too():
    problem, start = problem_and_start(0.1)
    batch = jnp.stack([start, start.at[1].set(jnp.nan), 2 * start])
    found = jax.vmap(lambda theta: ne.find_equilibrium(problem, theta, SYMMETRY, NOISE_SCALE))(batch)
    assert found.status.tolist() == [0, ne.Status.NON_FINITE_INPUT, 0]
    np.testing.assert_array_equal(found.params[1], batch[1])
    alone = ne.find_equilibrium(problem, 2 * start, SYMMETRY, NOISE_SCALE)
    np.testing.assert_allclose(found.params[2], alone.params, rtol=1e-12)


@pytest.mark.float32
def test_single_precision_roots_are_right_to_single_precision():
    with jax.enable_x64(True):
        problem, start = problem_and_start(0.1)
        exact = ne.find_equilibrium(problem, start, SYMMETRY, NOISE_SCALE).element
    data = tuple(np.asarray(leaf, np.float32) for leaf in problem.data)
    single = ne.Problem(invariant_loss, tuple(jnp.asarray(leaf) for leaf in data), 0.1)
    found = ne.find_equilibrium(single, jnp.asarray(np.asarray(start, np.float32)), SYMMETRY, NOISE_SCALE)
    assert found.element.dtype == jnp.float32
    assert status(found) == ne.Status.CONVERGED
    np.testing.assert_allclose(found.element, exact, atol=1e-5)


@pytest.mark.float32
def test_many_identical_samples_have_no_noise_in_single_precision():
    """The rounding of a sum over 30 000 samples is not noise."""
    draw = np.random.default_rng(0)
    x, y = (jnp.asarray(np.repeat(draw.normal(size=(1, d)), 30_000, 0), jnp.float32) for d in (3, 2))
    params = {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in (("u", (2, 4)), ("w", (4, 3)))}
    problem = ne.Problem(lambda p, z: jnp.sum((p["u"] @ (p["w"] @ z[0]) - z[1]) ** 2), (x, y))
    for symmetry in (ne.rescaling(UP, DOWN), ne.neuron_rescaling((UP, 1), (DOWN, 0)), ne.double_rotation(UP, DOWN)):
        assert status(ne.find_equilibrium(problem, params, symmetry, NOISE_SCALE)) == ne.Status.NO_NOISE


@pytest.mark.parametrize(
    ("symmetry", "message"),
    [
        (ne.exponential_symmetry(np.eye(4)), r"A has shape \(4, 4\) and the parameters are 5 numbers"),
        (ne.exponential_symmetry(lambda v: v), "find_equilibrium needs the eigenvalues of A"),
        ([], "expected one Symmetry, or a sequence of at least one"),
        ("scaling", "expected one Symmetry"),
        ([ne.scaling(), 3.0], "expected one Symmetry"),
    ],
    ids=["size", "matrix-free", "empty", "string", "not-all-symmetries"],
)
def test_a_symmetry_without_an_equilibrium_is_refused(symmetry, message):
    problem, start = problem_and_start()
    with pytest.raises(ValueError, match=message):
        ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
