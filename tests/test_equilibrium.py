"""Noise equilibria: closed forms, every singular case, invariance along the orbit, and what stops the search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from problems import (
    BLOCKS,
    DIAGONAL,
    DOWN,
    NEURONS,
    SCALAR,
    SYMMETRIES,
    UP,
    relu_loss,
    scale_free_loss,
    scale_free_problem,
    status,
)

import noise_equilibrium as ne
from noise_equilibrium._group import _psd
from noise_equilibrium.models import two_layer_linear as linear

NOISE_SCALE = 0.05
WHOLE = ne.scaling()
linear_problem = functools.partial(problems.linear_problem, samples=24)


def with_decay(problem, decay):
    return ne.Problem(problem.loss, problem.data, decay)


def grams(params):
    """U Uᵀ and WᵀW, which do not depend on the basis of the hidden axis."""
    return params.up @ params.up.T, params.down.T @ params.down


def assert_same_point(first, second, rtol=1e-9):
    for a, b in zip(grams(first), grams(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * float(jnp.max(jnp.abs(b))))


def assert_same_loss(start, end, rtol=1e-12):
    """U W is unchanged, relative to the factors it is a product of."""
    size = float(jnp.linalg.norm(start.up) * jnp.linalg.norm(start.down))
    np.testing.assert_allclose(end.up @ end.down, start.up @ start.down, rtol=0, atol=rtol * size)


def random_element(d, seed=5):
    """A symmetric matrix whose exponential has condition number 10."""
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return jnp.asarray((vectors * np.linspace(-0.5, 0.5, d) * np.log(10)) @ vectors.T)


def random_invertible(d, seed=6):
    """An invertible matrix that is not symmetric, of condition number 10."""
    left, right = (np.linalg.qr(np.random.default_rng(seed + i).normal(size=(d, d)))[0] for i in range(2))
    return (left * np.geomspace(0.3, 3, d)) @ right


# (d_y, d, d_x), and how many directions die on the + and on the − legs
SHAPES = {
    "5-3-5": ((5, 3, 5), 0, 0),
    "3-5-3": ((3, 5, 3), 0, 0),
    "4-5-3": ((4, 5, 3), 1, 0),
    "3-4-5": ((3, 4, 5), 0, 1),
    "10-100-10": ((10, 100, 10), 0, 0),
}


@pytest.mark.parametrize(
    "name", ["5-3-5", "4-5-3", *(pytest.param(n, marks=pytest.mark.slow) for n in ("3-5-3", "3-4-5", "10-100-10"))]
)
def test_the_closed_form_balances_the_flow_and_keeps_the_loss(name):
    shape, plus_die, minus_die = SHAPES[name]
    problem, start = linear_problem(*shape)
    for decay in (0.0, 0.05, 1.0):
        found = ne.find_equilibrium(with_decay(problem, decay), start, linear.symmetry, NOISE_SCALE)
        assert status(found) == (ne.Status.LIMIT if plus_die + minus_die else ne.Status.CONVERGED)
        assert found.residual <= 1e-9
        assert_same_loss(start, found.params)
        np.testing.assert_allclose(jnp.trace(found.to_zero), plus_die, atol=1e-10)
        np.testing.assert_allclose(jnp.trace(found.to_infinity), minus_die, atol=1e-10)
        np.testing.assert_allclose(found.element, found.element.T, rtol=0, atol=1e-12)
        if status(found) == ne.Status.CONVERGED:
            acted = linear.symmetry.act(start, found.element)
            for one, other in zip(acted, found.params, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * float(jnp.max(jnp.abs(other))))


@pytest.mark.parametrize("name", ["5-3-5", "3-5-3", "4-5-3", "3-4-5"])
def test_the_equilibrium_does_not_depend_on_the_point_of_the_orbit(name):
    shape, _, _ = SHAPES[name]
    d = shape[1]
    problem, start = linear_problem(*shape, decay=0.05)
    found = ne.find_equilibrium(problem, start, linear.symmetry, NOISE_SCALE)
    matrix = random_invertible(d)
    elsewhere = [
        linear.symmetry.act(start, random_element(d)),
        linear.Params(start.up @ matrix, jnp.asarray(np.linalg.solve(matrix, start.down))),
    ]
    for point in elsewhere:
        again = ne.find_equilibrium(problem, point, linear.symmetry, NOISE_SCALE)
        assert again.residual <= 1e-9
        assert again.status == found.status
        assert_same_point(again.params, found.params)
        assert_same_loss(point, again.params)


def test_a_product_of_low_rank_has_a_finite_limit():
    """At U W = V of rank 2 with full U, W is empty on the direction that dies on the + leg."""
    problem, start = linear_problem(5, 3, 5)
    low = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)) @ np.random.default_rng(1).normal(size=(2, 5)))
    up = jnp.concatenate([low[:, :2], start.up[:, :1]], axis=1)  # the first two columns span the range of V
    start = linear.Params(up, jnp.linalg.pinv(up) @ low)
    for decay in (0.0, 0.05, 1.0):
        found = ne.find_equilibrium(with_decay(problem, decay), start, linear.symmetry, NOISE_SCALE)
        assert status(found) == ne.Status.LIMIT
        assert found.residual <= 1e-9
        assert_same_loss(start, found.params)
        np.testing.assert_allclose(jnp.trace(found.to_zero), 1, atol=1e-10)
        np.testing.assert_allclose(jnp.trace(found.to_infinity), 0, atol=1e-10)
        assert jnp.linalg.matrix_rank(found.params.up) == 2


def test_factors_of_low_rank_that_miss_each_other_die_on_both_sides():
    """rank U = rank W = 2 on an axis of 3, rank U W = 1: one direction of each leg dies and one is the core."""
    problem, _ = linear_problem(5, 3, 5)
    draw = np.random.default_rng(0)
    vectors = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    start = linear.Params(
        jnp.asarray(draw.normal(size=(5, 2)) @ vectors[:, :2].T), jnp.asarray(vectors[:, 1:] @ draw.normal(size=(2, 5)))
    )
    for decay in (0.0, 0.05, 1.0):
        found = ne.find_equilibrium(with_decay(problem, decay), start, linear.symmetry, NOISE_SCALE)
        assert status(found) == ne.Status.LIMIT
        assert found.residual <= 1e-9
        assert_same_loss(start, found.params)
        np.testing.assert_allclose(jnp.trace(found.to_zero), 1, atol=1e-10)
        np.testing.assert_allclose(jnp.trace(found.to_infinity), 1, atol=1e-10)
        np.testing.assert_allclose(jnp.trace(found.to_zero @ found.to_infinity), 0, atol=1e-10)


def test_inputs_in_a_subspace_diverge_without_decay_and_converge_with_it():
    """W is not empty where its inputs vanish: P → 0 there would blow it up, unless decay holds it."""
    problem, start = linear_problem(5, 3, 5)
    x, y = problem.data
    problem = ne.Problem(linear.loss, (x.at[:, 2:].set(0), y))
    found = ne.find_equilibrium(problem, start, linear.symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.DIVERGES
    assert_same_loss(start, found.params)
    for decay in (0.05, 1.0):
        found = ne.find_equilibrium(with_decay(problem, decay), start, linear.symmetry, NOISE_SCALE)
        assert status(found) == ne.Status.CONVERGED
        assert found.residual <= 1e-9
        assert_same_loss(start, found.params)


def test_the_scalar_equilibrium_is_equivariant():
    """λ*(e^{sA}θ) = λ*(θ) − s, and for every neuron of a diagonal symmetry alike."""
    problem, start = linear_problem(3, 4, 2, decay=0.05)
    for symmetry, shift in ((SCALAR, jnp.asarray(0.7)), (DIAGONAL, jnp.array([0.7, -1.1, 0.0, 2.0]))):
        found = ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
        shifted = ne.find_equilibrium(problem, symmetry.act(start, shift), symmetry, NOISE_SCALE)
        assert status(found) == status(shifted) == ne.Status.CONVERGED
        np.testing.assert_allclose(shifted.element, found.element - shift, rtol=0, atol=1e-12)
        for one, other in zip(shifted.params, found.params, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
        for one, other in zip(symmetry.act(start, found.element), found.params, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_one_rescaled_pair_is_at_the_hand_formula(decay):
    """e^{4λ*} = (2γw² + σ²Var(a)w²)/(2γu² + σ²Var(a)u²) = w²/u² with g_u = a w, g_w = a u: |u| = |w|."""
    data = jnp.array([0.3, -1.0, 2.0])
    problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, data, decay)
    start = {"u": jnp.asarray(4.0), "w": jnp.asarray(-0.5)}
    found = ne.find_equilibrium(problem, start, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), NOISE_SCALE)
    np.testing.assert_allclose(found.element, np.log(0.5 / 4) / 2, rtol=1e-14)
    np.testing.assert_allclose([found.params["u"], found.params["w"]], [2**0.5, -(2**0.5)], rtol=1e-14)


def test_a_rescaling_is_at_the_hand_formula_with_the_dense_covariance():
    problem, start = linear_problem(3, 4, 2, decay=0.05)
    covariance = np.diag(ne.gradient_covariance(problem, start))
    noise_up, noise_down = covariance[: start.up.size].sum(), covariance[start.up.size :].sum()
    lowers = 2 * 0.05 * float(jnp.sum(start.up**2)) + NOISE_SCALE * noise_down
    raises = 2 * 0.05 * float(jnp.sum(start.down**2)) + NOISE_SCALE * noise_up
    found = ne.find_equilibrium(problem, start, SCALAR, NOISE_SCALE)
    np.testing.assert_allclose(found.element, np.log(raises / lowers) / 4, rtol=1e-13)


def test_powers_of_one_size_other_than_one_are_balanced_too():
    problem, start = linear_problem(3, 4, 2, decay=0.05)
    plain = ne.find_equilibrium(problem, start, SCALAR, NOISE_SCALE)
    symmetry = ne.Symmetry([ne.Leg(UP, power=2), ne.Leg(DOWN, power=-2)], "scalar")
    found = ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
    np.testing.assert_allclose(found.element, plain.element / 2, rtol=1e-13)
    assert_same_point(found.params, plain.params, rtol=1e-13)


def test_scaling_with_decay_is_at_its_closed_form():
    """‖θ*‖⁴ = σ²‖θ‖²Tr Σ/(2γ)."""
    problem, start = scale_free_problem(decay=0.2)
    found = ne.find_equilibrium(problem, start, WHOLE, NOISE_SCALE)
    trace = jnp.trace(ne.gradient_covariance(problem, start))
    expected = NOISE_SCALE * jnp.sum(start**2) * trace / (2 * 0.2)
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-12
    np.testing.assert_allclose(jnp.sum(found.params**2) ** 2, expected, rtol=1e-13)
    np.testing.assert_allclose(found.params / jnp.linalg.norm(found.params), start / jnp.linalg.norm(start), rtol=1e-13)


def test_scaling_without_decay_diverges_and_moves_nothing():
    problem, start = scale_free_problem(decay=0.0)
    found = ne.find_equilibrium(problem, start, WHOLE, NOISE_SCALE)
    assert status(found) == ne.Status.DIVERGES
    assert found.element == jnp.inf
    assert bool(jnp.all(found.params == start))


def test_scaling_with_decay_alone_shrinks_to_nothing():
    """One sample, no noise: the norm decays, the limit θ = 0 is finite."""
    problem, start = scale_free_problem(decay=0.2)
    alone = ne.Problem(scale_free_loss, jax.tree.map(lambda a: a[:1], problem.data), 0.2)
    found = ne.find_equilibrium(alone, start, WHOLE, NOISE_SCALE)
    assert found.element == -jnp.inf
    assert bool(jnp.all(found.params == 0))


@pytest.mark.parametrize("symmetry", SYMMETRIES.values(), ids=SYMMETRIES)
def test_decay_without_noise_balances_the_weights(symmetry):
    """With one sample there is no noise, and weight decay alone drives the charge to 0."""
    problem, start = linear_problem(3, 2, 3, samples=1, decay=0.1)
    found = ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-12
    np.testing.assert_allclose(symmetry.charge(found.params), 0, atol=1e-12)
    assert_same_loss(start, found.params)


@pytest.mark.parametrize("symmetry", SYMMETRIES.values(), ids=SYMMETRIES)
def test_without_noise_and_decay_nothing_moves(symmetry):
    problem, start = linear_problem(3, 2, 3, samples=1)
    found = ne.find_equilibrium(problem, start, symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.NO_NOISE
    assert found.residual == 0
    assert bool(jnp.all(found.element == 0))
    for one, other in zip(found.params, start, strict=True):
        assert bool(jnp.all(one == other))


def relu_problem(decay):
    keys = jax.random.split(jax.random.key(1), 5)
    data = jax.random.normal(keys[0], (12, 2)), jax.random.normal(keys[1], (12, 2))
    params = {
        "w": jax.random.normal(keys[2], (4, 2)),
        "b": jax.random.normal(keys[3], (4,)),
        "u": jax.random.normal(keys[4], (2, 4)),
    }
    params["b"] = params["b"].at[2].set(-100.0)  # a dead neuron
    return ne.Problem(relu_loss, data, decay), params


def test_relu_neurons_are_balanced_and_a_dead_one_rests():
    problem, start = relu_problem(decay=0.0)
    found = ne.find_equilibrium(problem, start, NEURONS, NOISE_SCALE)
    moments = ne.noise_moments(problem, found.params, NEURONS)
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-12
    np.testing.assert_allclose(moments.noise_plus, moments.noise_minus, rtol=1e-12)
    np.testing.assert_allclose(problem.risk(found.params), problem.risk(start), rtol=1e-12)
    assert found.element[2] == 0
    assert bool(jnp.all(found.params["w"][2] == start["w"][2]))
    assert bool(jnp.all(found.params["u"][:, 2] == start["u"][:, 2]))
    assert found.element.tolist().count(0.0) == 1


def test_decay_balances_a_dead_neuron():
    problem, start = relu_problem(decay=0.1)
    found = ne.find_equilibrium(problem, start, NEURONS, NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    np.testing.assert_allclose(NEURONS.charge(found.params)[2], 0, atol=1e-11)
    np.testing.assert_allclose(problem.risk(found.params) - problem.risk(start), 0.1 * decay_gain(found.params, start))


def decay_gain(end, start):
    return sum(float(jnp.sum(a**2) - jnp.sum(b**2)) for a, b in zip(end.values(), start.values(), strict=True))


def test_a_neuron_without_output_weights_loses_its_input_weights_under_decay():
    """u_j = 0: no noise on w_j, nothing raises the charge, and w_j → 0 keeps the loss."""
    problem, start = relu_problem(decay=0.1)
    start["u"] = start["u"].at[:, 2].set(0)
    found = ne.find_equilibrium(problem, start, NEURONS, NOISE_SCALE)
    assert status(found) == ne.Status.LIMIT
    assert found.element[2] == -jnp.inf
    assert found.to_zero.tolist() == [0, 0, 1, 0]
    assert bool(jnp.all(found.params["w"][2] == 0))
    assert found.params["b"][2] == 0


def test_blocks_are_balanced_each_on_its_own():
    """d = 4 hidden units in two blocks of 2: the equilibrium of each block is that of the other one kept fixed."""
    problem, start = linear_problem(5, 4, 5, decay=0.05)
    found = ne.find_equilibrium(problem, start, BLOCKS, NOISE_SCALE)
    assert found.element.shape == found.to_zero.shape == (2, 2, 2)
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-10
    assert_same_loss(start, found.params)
    x, y = problem.data
    for block in (slice(0, 2), slice(2, 4)):
        rest = np.array([i for i in range(4) if i not in range(4)[block]])
        targets = y - x @ (start.up[:, rest] @ start.down[rest]).T
        part = linear.Params(start.up[:, block], start.down[block])
        single = ne.find_equilibrium(ne.Problem(linear.loss, (x, targets), 0.05), part, linear.symmetry, NOISE_SCALE)
        assert_same_point(linear.Params(found.params.up[:, block], found.params.down[block]), single.params)


def test_the_equilibrium_is_the_point_of_least_noise_and_norm():
    """Φ = 2γ‖θ‖² + σ²Tr Σ: no nearby point of the orbit has less, and dΦ/dλ = −G on every charge."""
    decay = 0.05
    problem, start = linear_problem(3, 2, 4, decay=decay)

    def potential(params):
        norm = sum(jnp.sum(array**2) for array in params)
        return 2 * decay * norm + NOISE_SCALE * jnp.trace(ne.gradient_covariance(problem, params))

    @jax.jit
    def along(params, element):
        def on_the_orbit(element):  # elements are symmetric
            return potential(linear.symmetry.act(params, (element + element.T) / 2))

        return jax.value_and_grad(on_the_orbit)(element)

    zero = jnp.zeros((2, 2))
    flow = ne.noether_flow(problem, start, linear.symmetry, NOISE_SCALE)
    _, slope = along(start, zero)
    np.testing.assert_allclose(slope, -flow, rtol=1e-9, atol=1e-12)
    found = ne.find_equilibrium(problem, start, linear.symmetry, NOISE_SCALE)
    least, slope = along(found.params, zero)
    np.testing.assert_allclose(slope, 0, atol=1e-9 * float(least))
    for seed in range(5):
        element = random_element(2, seed)
        assert along(found.params, 0.3 * element)[0] > least
        assert along(found.params, -0.3 * element)[0] > least


def independent_samples(V, root_x, root_noise):
    """Every pair of x ∈ ±√d_x·(columns) and ε ∈ ±√d_y·(columns): x and ε independent, with exact covariances."""
    d_out, d_in = V.shape
    x = np.sqrt(d_in) * np.concatenate([root_x.T, -root_x.T])
    noise = np.sqrt(d_out) * np.concatenate([root_noise.T, -root_noise.T])
    pairs = list(itertools.product(x, noise))
    x, noise = (np.array(part) for part in zip(*pairs, strict=True))
    return jnp.asarray(x), jnp.asarray(x @ V.T + noise)


def test_a_linear_network_at_its_minimum_is_aligned():
    """W Σ̄_x Wᵀ = Uᵀ Σ̄_ε U, Eq. (14), bars divided by the trace; x and ε are exactly independent in these data."""
    draw = np.random.default_rng(0)
    root_x, root_noise = draw.normal(size=(3, 3)), draw.normal(size=(4, 4))
    up, down = jnp.asarray(draw.normal(size=(4, 5))), jnp.asarray(draw.normal(size=(5, 3)))
    problem = ne.Problem(linear.loss, independent_samples(np.asarray(up @ down), root_x, root_noise))
    found = ne.find_equilibrium(problem, linear.Params(up, down), linear.symmetry, NOISE_SCALE).params
    cov_x, cov_noise = root_x @ root_x.T, root_noise @ root_noise.T
    inputs = found.down @ (cov_x / np.trace(cov_x)) @ found.down.T
    outputs = found.up.T @ (cov_noise / np.trace(cov_noise)) @ found.up
    np.testing.assert_allclose(inputs, outputs, rtol=0, atol=1e-11 * float(jnp.max(jnp.abs(inputs))))


def every_batch_change(problem, params, symmetry, rate, size, replacement):
    """The mean change of the charge over every minibatch, and the mean size of its terms."""
    count = problem.num_samples
    choose = itertools.product(range(count), repeat=size) if replacement else itertools.combinations(range(count), size)
    theta, unflatten = ne.flatten(params)
    gradient = jax.vmap(lambda x, y: ne.flatten(jax.grad(problem.loss)(params, (x, y)))[0])(*problem.data)
    batches = gradient[np.array(list(choose))].mean(axis=1)
    after = theta - rate * (batches + 2 * problem.weight_decay * theta)
    charges = jax.vmap(lambda theta: symmetry.charge(unflatten(theta)))(after)
    return jnp.mean(charges, 0) - symmetry.charge(params)


DISCRETE = {
    "scalar-2-without": (SCALAR, ne.SGD(0.1, 2, replacement=False)),
    "diagonal-2-with": (DIAGONAL, ne.SGD(0.1, 2)),
    "symmetric-1": (linear.symmetry, ne.SGD(0.1, 1)),
    "symmetric-2-with": (linear.symmetry, ne.SGD(0.1, 2)),
    "symmetric-2-without": (linear.symmetry, ne.SGD(0.1, 2, replacement=False)),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_the_discrete_equilibrium_has_no_drift_over_every_minibatch(name):
    symmetry, law = DISCRETE[name]
    for decay in (0.0, 0.1):
        problem, start = linear_problem(3, 2, 3, samples=4, decay=decay)
        found = ne.find_equilibrium(problem, start, symmetry, law)
        assert status(found) == ne.Status.CONVERGED
        change = every_batch_change(problem, found.params, symmetry, 0.1, law.batch_size, law.replacement)
        np.testing.assert_allclose(change, 0, atol=1e-12)
        np.testing.assert_allclose(ne.expected_charge_step(problem, found.params, symmetry, law), 0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_gd_has_an_equilibrium_of_its_own_wherever_its_gradient_is_not_zero(decay):
    problem, start = linear_problem(3, 2, 3, samples=4, decay=decay)
    found = ne.find_equilibrium(problem, start, DIAGONAL, ne.GD(0.1))
    assert status(found) == ne.Status.CONVERGED
    assert found.residual <= 1e-12
    after = jax.tree.map(lambda p, g: p - 0.1 * g, found.params, jax.grad(problem.risk)(found.params))
    np.testing.assert_allclose(DIAGONAL.charge(after), DIAGONAL.charge(found.params), rtol=0, atol=1e-12)


def test_the_law_of_an_sde_is_its_noise_scale():
    problem, start = linear_problem(3, 2, 3, decay=0.1)
    by_number = ne.find_equilibrium(problem, start, linear.symmetry, 0.05)
    by_sde = ne.find_equilibrium(problem, start, linear.symmetry, ne.SDE(0.2, 2))
    np.testing.assert_allclose(by_sde.element, by_number.element, rtol=1e-12, atol=1e-14)


def test_the_discrete_law_tends_to_the_continuous_one():
    """λ* differs by O(η) at fixed η/S: ten times smaller a step, ten times smaller a difference."""
    problem, start = linear_problem(3, 2, 3, decay=0.1)
    continuous = ne.find_equilibrium(problem, start, SCALAR, 0.5e-4).element
    coarse, fine = (
        abs(ne.find_equilibrium(problem, start, SCALAR, ne.SGD(1e-4 * size, size)).element - continuous)
        for size in (10, 1)
    )
    np.testing.assert_allclose(coarse / fine, 10, rtol=0.05)  # the next order of η


def test_bad_numbers_are_a_status_and_harm_no_neighbour():
    problem, start = linear_problem(3, 2, 3)
    bad = linear.Params(start.up.at[0, 0].set(jnp.nan), start.down)
    infinite = linear.Params(start.up, start.down.at[1, 1].set(jnp.inf))
    other = linear.Params(start.up[:, ::-1], 2 * start.down)
    batch = jax.tree.map(lambda *arrays: jnp.stack(arrays), start, bad, infinite, other)
    clean = jax.tree.map(lambda *arrays: jnp.stack(arrays), start, start, start, other)
    for symmetry in SYMMETRIES.values():
        find = jax.vmap(lambda params: ne.find_equilibrium(problem, params, symmetry, NOISE_SCALE))  # noqa: B023
        found, reference = find(batch), find(clean)
        assert found.status.tolist() == [0, ne.Status.NON_FINITE_INPUT, ne.Status.NON_FINITE_INPUT, 0]
        for kept, given in zip(found.params, batch, strict=True):
            np.testing.assert_array_equal(kept[1:3], given[1:3])
        for with_bad, without in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
            np.testing.assert_array_equal(with_bad[jnp.array([0, 3])], without[jnp.array([0, 3])])


def test_bad_data_are_a_status():
    problem, start = linear_problem(3, 2, 3)
    x, y = problem.data
    found = ne.find_equilibrium(ne.Problem(linear.loss, (x, y.at[3].set(jnp.nan))), start, SCALAR, NOISE_SCALE)
    assert status(found) == ne.Status.NON_FINITE_INPUT
    for one, other in zip(found.params, start, strict=True):
        assert bool(jnp.all(one == other))


def asymmetric_loss(params, sample):
    return linear.loss(params, sample) + jnp.sum(params.up[0] * sample[1][0]) ** 2


@pytest.mark.parametrize("symmetry", SYMMETRIES.values(), ids=SYMMETRIES)
def test_a_loss_without_the_symmetry_does_not_converge(symmetry):
    problem, start = linear_problem(3, 2, 3)
    found = ne.find_equilibrium(ne.Problem(asymmetric_loss, problem.data), start, symmetry, NOISE_SCALE)
    assert status(found) == ne.Status.NOT_CONVERGED
    assert found.residual > 1e-3


def test_under_jit_and_vmap_it_is_what_it_is_alone():
    problem, start = linear_problem(4, 5, 3)
    other = linear.Params(start.up[:, ::-1], 2 * start.down)
    both = jax.tree.map(lambda *arrays: jnp.stack(arrays), start, other)
    scales, decays = jnp.array([0.05, 0.2]), jnp.array([0.0, 0.1])

    @jax.jit
    @jax.vmap
    def find(params, scale, decay):
        return ne.find_equilibrium(with_decay(problem, decay), params, linear.symmetry, scale)

    together = find(both, scales, decays)
    for i, params in enumerate((start, other)):
        alone = ne.find_equilibrium(with_decay(problem, float(decays[i])), params, linear.symmetry, float(scales[i]))
        assert together.status[i] == alone.status
        here = jax.tree.map(lambda array: array[i], together.params)  # noqa: B023
        assert_same_point(here, alone.params, rtol=1e-10)
        for one, single in zip(here, alone.params, strict=True):
            np.testing.assert_allclose(one, single, rtol=0, atol=1e-9)


@pytest.mark.float32
@pytest.mark.parametrize(
    "name",
    ["5-3-5", pytest.param("3-5-3", marks=pytest.mark.slow), "4-5-3", pytest.param("3-4-5", marks=pytest.mark.slow)],
)
def test_single_precision_is_enough(name):
    shape, plus_die, minus_die = SHAPES[name]
    problem, start = linear_problem(*shape)
    for decay in (0.0, 0.05, 1.0):
        found = ne.find_equilibrium(with_decay(problem, decay), start, linear.symmetry, NOISE_SCALE)
        assert status(found) == (ne.Status.LIMIT if plus_die + minus_die else ne.Status.CONVERGED)
        assert found.residual <= 1e-3
        assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(found) if array.dtype != jnp.int32)
        assert_same_loss(start, found.params, rtol=1e-5)
        np.testing.assert_allclose(jnp.trace(found.to_zero), plus_die, atol=1e-5)
        np.testing.assert_allclose(jnp.trace(found.to_infinity), minus_die, atol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize(
    "name", ["4-5-3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("5-3-5", "3-5-3"))]
)
def test_single_precision_is_enough_far_from_balance(name):
    """Legs a factor 10 out of balance: their R has eigenvalues 10⁴ apart."""
    shape, plus_die, minus_die = SHAPES[name]
    single, start = linear_problem(*shape)
    width = start.up.shape[1]
    errors = []
    for seed in range(3):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
        element = turn @ np.diag(np.linspace(-1, 1, width) * np.log(10)) @ turn.T
        moved = linear.symmetry.act(start, jnp.asarray(element, jnp.float32))
        found = ne.find_equilibrium(single, moved, linear.symmetry, NOISE_SCALE)
        assert status(found) == (ne.Status.LIMIT if plus_die + minus_die else ne.Status.CONVERGED)
        back = linear.symmetry.act(moved, found.element)
        with jax.enable_x64(True):
            double, exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (single.data, moved))
            exact = ne.find_equilibrium(ne.Problem(linear.loss, double), exact, linear.symmetry, NOISE_SCALE).params
        if not plus_die + minus_die:
            np.testing.assert_allclose(found.params.up, back.up, atol=2e-3 * float(jnp.max(jnp.abs(back.up))))
        errors.append(max(gram_error(found.params.up.T, exact.up.T), gram_error(found.params.down, exact.down)))
    # Where directions have no limit, how well they are told from the weak ones varies with the order of summation.
    assert max(errors) < (5e-3 if plus_die + minus_die else 1e-4)


def gram_error(found, exact):
    """‖F ᵀF − EᵀE‖/‖EᵀE‖, in double precision."""
    found, exact = (np.asarray(array, np.float64) for array in (found, exact))
    return np.linalg.norm(found.T @ found - exact.T @ exact) / np.linalg.norm(exact.T @ exact)


def test_the_equilibrium_needs_finite_data():
    _, start = linear_problem(3, 2, 3)
    stream = ne.Problem(linear.loss, ne.Stream(lambda key: (jax.random.normal(key, (3,)), jnp.zeros(3))))
    with pytest.raises(ValueError, match=r"find_equilibrium needs an expectation .* problem\.sampled\(key, n\)"):
        ne.find_equilibrium(stream, start, linear.symmetry, NOISE_SCALE)


def test_a_nan_flow_at_the_answer_is_not_converged():
    """The second term breaks the symmetry and is only defined where the start is."""

    def loss(p, z):
        return (p["u"] * p["w"] - z) ** 2 + 1e-3 * z * jnp.sqrt(p["u"] - 1.2)

    params = {"u": jnp.array(2.0), "w": jnp.array(0.5)}
    symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
    found = ne.find_equilibrium(ne.Problem(loss, jnp.array([0.0, 3.0])), params, symmetry, 0.01)
    assert jnp.isnan(found.residual)
    assert found.status == ne.Status.NOT_CONVERGED


def test_a_traced_decay_outside_the_theory_is_a_status():
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (6, 2)), jax.random.normal(keys[1], (6, 2))
    params = linear.init(keys[2], 2, 3, 2)

    def status(decay):
        return ne.find_equilibrium(ne.Problem(linear.loss, data, decay), params, linear.symmetry, ne.SGD(1.0, 1)).status

    codes = jax.vmap(status)(jnp.array([0.1, 2.0, -0.1]))
    assert codes[0] != ne.Status.NON_FINITE_INPUT
    assert codes[1:].tolist() == [ne.Status.NON_FINITE_INPUT] * 2


@pytest.mark.float32
@pytest.mark.parametrize("down", [jnp.bfloat16, jnp.float32], ids=["half", "mixed"])
def test_half_precision_is_balanced_in_single_and_kept_in_half(down):
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (40, 3)), jax.random.normal(keys[1], (40, 3))
    params = linear.init(keys[2], 3, 4, 3)
    half = linear.Params(params.up.astype(jnp.bfloat16), params.down.astype(down))

    def loss(p, z):
        return linear.loss(linear.Params(p.up.astype(jnp.float32), p.down.astype(jnp.float32)), z)

    problem = ne.Problem(loss, data)
    assert ne.noise_moments(problem, half, linear.symmetry).noise_plus.dtype == jnp.float32
    found = ne.find_equilibrium(problem, half, linear.symmetry, 0.01)
    assert (found.params.up.dtype, found.params.down.dtype) == (jnp.bfloat16, down)
    assert found.status in (ne.Status.CONVERGED, ne.Status.LIMIT)
    assert found.residual < 0.02  # the rounding of bfloat16 is 2⁻⁸


@pytest.mark.parametrize("rank", [0, 1, 6])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_largest_eigenvalue_is_found_without_a_decomposition(rank, scale):
    """Never too small, and too large by at most rank^{1/32}, at sizes whose 32nd power no number can hold."""
    root = np.random.default_rng(0).normal(size=(6, rank))
    matrix = scale * root @ root.T
    exact = np.linalg.eigvalsh(matrix)[-1] if rank else 0.0
    found = float(_psd.largest(jnp.asarray(matrix)))
    assert exact * (1 - 1e-13) <= found <= exact * max(rank, 1) ** (1 / 32) * (1 + 1e-13)
