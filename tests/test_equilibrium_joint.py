"""Several symmetries at once: no charge flows at the joint equilibrium, and every start on the orbit finds the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import status

import noise_equilibrium as ne
from noise_equilibrium._equilibrium import _turns

NOISE_SCALE = 0.05


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# --- deep linear networks --------------------------------------------------------------------------------------------


def deep_loss(weights, sample):
    h, y = sample
    for weight in weights:
        h = weight @ h
    return jnp.sum((h - y) ** 2)


def layer(index):
    return lambda weights: weights[index]


def deep_problem(widths, decay=0.0, samples=60, seed=0):
    weights = [normal(seed + i, b, a) / a**0.5 for i, (a, b) in enumerate(itertools.pairwise(widths))]
    return ne.Problem(deep_loss, (normal(90, samples, widths[0]), normal(91, samples, widths[-1])), decay), weights


def pairs(widths):
    return [ne.double_rotation(layer(i + 1), layer(i)) for i in range(len(widths) - 2)]


def product(weights):
    total = weights[0]
    for weight in weights[1:]:
        total = weight @ total
    return total


def grams(weights):
    """Grams of every prefix and suffix, which rotations of the hidden layers do not change."""
    prefixes = itertools.accumulate(weights, lambda before, weight: weight @ before)
    suffixes = itertools.accumulate(weights[::-1], lambda after, weight: after @ weight)
    return [m.T @ m for m in prefixes] + [m @ m.T for m in suffixes]


def relative_flows(problem, params, symmetries, law=NOISE_SCALE):
    """From the public moments, so that the residual is not judged by itself."""
    flows = []
    for symmetry in symmetries:
        moments = ne.noise_moments(problem, params, symmetry)
        decay = problem.weight_decay
        raises = 2 * decay * moments.weight_minus + law * moments.noise_plus
        lowers = 2 * decay * moments.weight_plus + law * moments.noise_minus
        flows.append(float(jnp.linalg.norm(raises - lowers) / (jnp.linalg.norm(raises) + jnp.linalg.norm(lowers))))
    return flows


WIDTHS = [
    pytest.param((5, 4, 3, 4), marks=pytest.mark.slow),
    pytest.param((4, 6, 7, 5), marks=pytest.mark.slow),
    pytest.param((3, 5, 4, 5, 3), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("widths", WIDTHS, ids=lambda widths: "-".join(map(str, widths)))
def test_all_pairs_of_a_deep_linear_network_are_balanced_from_ten_starts(widths):
    symmetries = pairs(widths)
    for decay in (0.0, 0.05):
        problem, start = deep_problem(widths, decay)
        found = ne.find_equilibrium(problem, start, symmetries, NOISE_SCALE)
        assert status(found) in (ne.Status.CONVERGED, ne.Status.LIMIT)
        assert max(relative_flows(problem, found.params, symmetries)) <= 1e-9
        assert found.residual <= 1e-9
        assert 2 <= int(found.sweeps) <= 60
        np.testing.assert_allclose(product(found.params), product(start), atol=1e-11)
        draw = np.random.default_rng(1)
        for _ in range(10):
            elsewhere = start
            for symmetry, element in zip(symmetries, found.element, strict=True):
                step = 0.2 * draw.normal(size=element.shape)
                elsewhere = symmetry.act(elsewhere, jnp.asarray(step + step.T))
            again = ne.find_equilibrium(problem, elsewhere, symmetries, NOISE_SCALE)
            assert again.status == found.status
            for one, other in zip(grams(again.params), grams(found.params), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * float(jnp.max(jnp.abs(other))))
        if status(found) == ne.Status.CONVERGED:
            acted = start
            for symmetry, element in zip(symmetries, found.element, strict=True):
                acted = symmetry.act(acted, element)
            for one, other in zip(acted, found.params, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.slow
def test_directions_that_die_are_counted():
    """4 units after 5 inputs and before 3 units: one direction has no way out, and its inputs die."""
    problem, start = deep_problem((5, 4, 3, 4))
    found = ne.find_equilibrium(problem, start, pairs((5, 4, 3, 4)), NOISE_SCALE)
    assert status(found) == ne.Status.LIMIT
    np.testing.assert_allclose([jnp.trace(p) for p in found.to_zero], [0, 0], atol=1e-10)
    np.testing.assert_allclose([jnp.trace(p) for p in found.to_infinity], [1, 0], atol=1e-10)
    assert [int(jnp.linalg.matrix_rank(weight)) for weight in found.params] == [3, 3, 3]


@pytest.mark.slow
def test_the_joint_equilibrium_is_that_of_theorem_5_4():
    """At W_D⋯W_1 = V with x and ε independent: √Σ_ε V √Σ_x = L S' Rᵀ gives every prefix and suffix."""
    draw = np.random.default_rng(0)
    root_x, root_noise = (m @ m.T / 3 + np.eye(3) / 3 for m in draw.normal(size=(2, 3, 3)))
    widths = (3, 4, 5, 3)
    _, start = deep_problem(widths)
    V = np.asarray(product(start))
    x = np.sqrt(3) * np.concatenate([root_x.T, -root_x.T])
    noise = np.sqrt(3) * np.concatenate([root_noise.T, -root_noise.T])
    x, noise = (np.array(part) for part in zip(*itertools.product(x, noise), strict=True))
    problem = ne.Problem(deep_loss, (jnp.asarray(x), jnp.asarray(x @ V.T + noise)))
    found = ne.find_equilibrium(problem, start, pairs(widths), NOISE_SCALE)
    assert found.residual <= 1e-9
    left, values, right = np.linalg.svd(root_noise @ V @ root_x)
    trace_x, trace_noise = np.trace(root_x @ root_x), np.trace(root_noise @ root_noise)
    s = (values.sum() / np.sqrt(trace_x * trace_noise)) ** (1 / 3)
    first = found.params[0] @ root_x
    np.testing.assert_allclose(first.T @ first, s**2 * trace_x / values.sum() * (right.T * values) @ right, atol=1e-9)
    last = root_noise @ found.params[2]
    np.testing.assert_allclose(last @ last.T, s**2 * trace_noise / values.sum() * (left * values) @ left.T, atol=1e-9)
    middle = np.linalg.svd(found.params[1], compute_uv=False)
    np.testing.assert_allclose(middle[:3], s, rtol=1e-9)


# --- a deep ReLU network with biases ---------------------------------------------------------------------------------


def relu_loss(params, sample):
    h, y = sample
    for weight, bias in zip(params["w"][:-1], params["b"], strict=True):
        h = jax.nn.relu(weight @ h + bias)
    return jnp.sum((params["w"][-1] @ h - y) ** 2)


def neurons(index):
    rows = [(lambda p: p["w"][index], 0), (lambda p: p["b"][index], 0)]
    return ne.neuron_rescaling(rows, (lambda p: p["w"][index + 1], 1))


def test_all_neurons_of_a_deep_relu_network_are_balanced_and_a_dead_one_rests():
    """Two hidden layers; the bias of the second does not scale with the first, and belongs to its own neurons."""
    widths, symmetries = (3, 4, 3, 2), [neurons(0), neurons(1)]
    start = {
        "w": [normal(i, b, a) for i, (a, b) in enumerate(itertools.pairwise(widths))],
        "b": [0.3 * normal(7, 4).at[2].set(-200.0), 0.3 * normal(8, 3)],
    }
    for decay in (0.0, 0.05):
        problem = ne.Problem(relu_loss, (normal(9, 40, 3), normal(10, 40, 2)), decay)
        found = ne.find_equilibrium(problem, start, symmetries, NOISE_SCALE)
        assert status(found) == ne.Status.CONVERGED
        assert max(relative_flows(problem, found.params, symmetries)) <= 1e-9
        data = ne.Problem(relu_loss, problem.data)
        np.testing.assert_allclose(data.risk(found.params), data.risk(start), rtol=1e-12)
        draw = np.random.default_rng(1)
        for _ in range(10):
            shifts = [jnp.asarray(0.5 * draw.normal(size=element.shape)) for element in found.element]
            elsewhere = start
            for symmetry, shift in zip(symmetries, shifts, strict=True):
                elsewhere = symmetry.act(elsewhere, shift)
            again = ne.find_equilibrium(problem, elsewhere, symmetries, NOISE_SCALE)
            alive = np.arange(4) != 2 if decay == 0 else np.full(4, True)
            for place, keep in enumerate((alive, np.full(3, True))):
                expected = found.element[place] - shifts[place]
                np.testing.assert_allclose(again.element[place][keep], expected[keep], atol=1e-9)
        assert (found.element[0][2] == 0) == (decay == 0)


# --- two numbers: scaling, and rescaling of two halves ---------------------------------------------------------------

HALVES = [ne.scaling(), ne.rescaling(lambda p: p["u"], lambda p: p["w"])]


def halves_loss(params, sample):
    """Depends on u wᵀ/(‖u‖‖w‖) only."""
    u, w = (params[name] / jnp.linalg.norm(params[name]) for name in "uw")
    return (jnp.dot(u, sample[0]) * jnp.dot(w, sample[1]) - sample[2]) ** 2


def halves_problem(decay=0.1, samples=5):
    data = (normal(0, samples, 2), normal(1, samples, 3), normal(2, samples))
    return ne.Problem(halves_loss, data, decay), {"u": normal(3, 2), "w": 2 * normal(4, 3)}


@pytest.mark.slow
def test_scaling_and_rescaling_together_balance_each_half():
    """‖u‖ and ‖w‖ each reach their own scaling equilibrium: ‖u*‖⁴ = σ²‖u‖² Tr Σ_u/(2γ)."""
    problem, start = halves_problem()
    found = ne.find_equilibrium(problem, start, HALVES, NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    covariance = np.diag(ne.gradient_covariance(problem, start))
    for name, own in (("u", covariance[:2]), ("w", covariance[2:])):
        expected = NOISE_SCALE * jnp.sum(start[name] ** 2) * own.sum() / 0.2
        np.testing.assert_allclose(jnp.sum(found.params[name] ** 2) ** 2, expected, rtol=1e-10)
    acted = HALVES[1].act(HALVES[0].act(start, found.element[0]), found.element[1])
    for name in "uw":
        np.testing.assert_allclose(acted[name], found.params[name], rtol=1e-11)


@pytest.mark.slow
def test_matrices_may_stand_beside_legs():
    """The same two generators, one of them as a dense A."""
    problem, start = halves_problem()
    by_legs = ne.find_equilibrium(problem, start, HALVES, NOISE_SCALE)
    dense = ne.exponential_symmetry(np.diag([1.0, 1, -1, -1, -1]))
    found = ne.find_equilibrium(problem, start, [HALVES[0], dense], NOISE_SCALE)
    assert status(found) == ne.Status.CONVERGED
    np.testing.assert_allclose(found.element, by_legs.element, atol=1e-10)


@pytest.mark.parametrize(
    "law",
    [
        ne.SGD(0.1, 2, replacement=False),
        pytest.param(ne.SGD(0.1, 2), marks=pytest.mark.slow),
        pytest.param(ne.GD(0.1), marks=pytest.mark.slow),
    ],
    ids=["without", "with", "gd"],
)
def test_the_joint_discrete_equilibrium_has_no_drift_over_every_minibatch(law):
    problem, start = halves_problem(samples=4)
    found = ne.find_equilibrium(problem, start, HALVES, law)
    assert status(found) == ne.Status.CONVERGED
    theta, unflatten = ne.flatten(found.params)
    gradient = jax.vmap(lambda z: ne.flatten(jax.grad(halves_loss)(found.params, z))[0])(problem.data)
    choose = itertools.product if getattr(law, "replacement", False) else itertools.combinations
    size = getattr(law, "batch_size", 4)
    batches = choose(range(4), **{"repeat": size}) if choose is itertools.product else choose(range(4), size)
    after = theta - 0.1 * (gradient[np.array(list(batches))].mean(axis=1) + 0.2 * theta)
    for symmetry in HALVES:
        charges = jax.vmap(lambda theta: symmetry.charge(unflatten(theta)))(after)  # noqa: B023
        np.testing.assert_allclose(jnp.mean(charges), symmetry.charge(found.params), atol=1e-11)


@pytest.mark.slow
def test_joint_derivatives_three_ways():
    """Implicit (forward and reverse), finite differences, and the closed form of each half; mixed second ones too."""
    problem, start = halves_problem()
    direction = jax.tree.map(lambda leaf: 0.3 * jnp.cos(jnp.arange(1.0, 1 + leaf.size)), start)
    weights = jnp.sin(jnp.arange(1.0, 6.0))

    def moved(t):
        params = jax.tree.map(lambda a, b: a + t[0] * b, start, direction)
        x, y, target = problem.data
        return params, (x, y, target * (1 + t[1])), 0.1 * (1 + t[2]), NOISE_SCALE * (1 + t[3])

    def solved(t):
        params, data, decay, scale = moved(t)
        found = ne.find_equilibrium(ne.Problem(halves_loss, data, decay), params, HALVES, scale)
        return jnp.dot(weights, ne.flatten(found.params)[0])

    def closed(t):
        params, data, decay, scale = moved(t)
        squares = jnp.diag(ne.gradient_covariance(ne.Problem(halves_loss, data), params))
        out = []
        for name, own in (("u", squares[:2]), ("w", squares[2:])):
            norm = jnp.sum(params[name] ** 2)
            fourth = scale * norm * jnp.sum(own) / (2 * decay)
            out.append(params[name] * (fourth / norm**2) ** 0.25)
        return jnp.dot(weights, jnp.concatenate(out))

    @jax.jit
    def derivatives(t, along):
        gradient, mixed = jax.jvp(jax.grad(solved), (t,), (along,))
        return solved(t), gradient, mixed

    zero, along, step = jnp.zeros(4), jnp.array([0.7, 0.4, -0.6, 0.5]), 1e-3
    value, gradient, mixed = derivatives(zero, along)
    np.testing.assert_allclose(value, closed(zero), rtol=1e-10)
    exact, exact_mixed = jax.jit(lambda t: jax.jvp(jax.grad(closed), (t,), (along,)))(zero)
    np.testing.assert_allclose(gradient, exact, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(mixed, exact_mixed, rtol=1e-7, atol=1e-8)
    low2, low, high, high2 = (float(derivatives(k * step * along, along)[0]) for k in (-2, -1, 1, 2))
    numerical = (low2 - 8 * low + 8 * high - high2) / (12 * step)
    np.testing.assert_allclose(jnp.dot(gradient, along), numerical, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jit(lambda t: jax.jvp(solved, (t,), (along,))[1])(zero), numerical, rtol=1e-7)


def test_a_joint_gradient_is_that_of_the_closed_form():
    """In γ, σ² and a number that the loss closes over: ‖u*‖⁴ = σ²‖u‖² Tr Σ_u/(2γ)."""
    problem, start = halves_problem()

    def loss_at(level):
        return lambda params, z: halves_loss(params, (z[0], z[1], level * z[2]))

    def solved(t):
        moved = ne.Problem(loss_at(1 + t[2]), problem.data, 0.1 * (1 + t[0]))
        return jnp.sum(ne.find_equilibrium(moved, start, HALVES, NOISE_SCALE * (1 + t[1])).params["u"] ** 2)

    def closed(t):
        own = jnp.trace(ne.gradient_covariance(ne.Problem(loss_at(1 + t[2]), problem.data), start)[:2, :2])
        return jnp.sqrt(NOISE_SCALE * (1 + t[1]) * jnp.sum(start["u"] ** 2) * own / (0.2 * (1 + t[0])))

    zero = jnp.zeros(3)
    np.testing.assert_allclose(jax.grad(solved)(zero), jax.grad(closed)(zero), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(3, 3, 3, 3), (5, 4, 3, 4)], ids=["regular", "singular"])
def test_derivatives_of_deep_networks_are_finite_differences(widths):
    """Of Grams, which do not depend on the rotation of an axis; rank-deficient layers included."""
    problem, start = deep_problem(widths, 0.05, samples=40)
    directions = [0.3 * normal(20 + i, *weight.shape) for i, weight in enumerate(start)]
    outputs = 0.1 * normal(30, 40, widths[-1])

    def functional(t):
        weights = [weight + t[0] * direction for weight, direction in zip(start, directions, strict=True)]
        x, y = problem.data
        moved = ne.Problem(deep_loss, (x, y + t[1] * outputs), 0.05 * (1 + t[2]))
        found = ne.find_equilibrium(moved, weights, pairs(widths), NOISE_SCALE * (1 + t[3]))
        return sum(jnp.sum(jnp.sin(jnp.arange(gram.size)) * gram.ravel()) for gram in grams(found.params))

    zero, along, step = jnp.zeros(4), jnp.array([0.7, 0.4, -0.6, 0.5]), 1e-3

    @jax.jit
    def derivatives(t):
        gradient, mixed = jax.jvp(jax.grad(functional), (t,), (along,))
        return functional(t), gradient, mixed

    def differences(index, unit):
        low2, low, high, high2 = (np.asarray(derivatives(k * step * unit)[index]) for k in (-2, -1, 1, 2))
        return (low2 - 8 * low + 8 * high - high2) / (12 * step)

    _, gradient, mixed = derivatives(zero)
    numerical = np.array([differences(0, unit) for unit in jnp.eye(4)])
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-8 * np.max(np.abs(numerical)))
    second = differences(1, along)
    np.testing.assert_allclose(mixed, second, rtol=1e-6, atol=1e-7 * np.max(np.abs(second)))


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_outcomes_of_a_joint_search_under_vmap():
    """Bad numbers harm no neighbour; what has no limit is left alone; without noise nothing moves."""
    problem, start = halves_problem()
    bad = start | {"u": start["u"].at[0].set(jnp.nan)}
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, bad, start, start)

    @jax.jit
    @jax.vmap
    def find(params, decay, targets):
        data = (jnp.zeros_like(problem.data[0]), problem.data[1], targets)
        moved = ne.Problem(halves_loss, data if targets is None else (*problem.data[:2], targets), decay)
        return ne.find_equilibrium(moved, params, HALVES, NOISE_SCALE)

    found = find(batch, jnp.array([0.1, 0.1, 0.0, -0.1]), jnp.tile(problem.data[2], (4, 1)))
    expected = [ne.Status.CONVERGED, ne.Status.NON_FINITE_INPUT, ne.Status.DIVERGES, ne.Status.NON_FINITE_INPUT]
    assert found.status.tolist() == expected
    alone = ne.find_equilibrium(problem, start, HALVES, NOISE_SCALE)
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-11)
    np.testing.assert_array_equal(found.params["u"][1], bad["u"])
    np.testing.assert_array_equal(found.params["w"][3], start["w"])
    # Under γ = 0 the whole grows without end, and the halves are balanced against each other all the same.
    assert found.element[0][2] == jnp.inf
    grown = ne.Problem(halves_loss, problem.data)
    flow = ne.noether_flow(grown, jax.tree.map(lambda leaf: leaf[2], found.params), HALVES[1], NOISE_SCALE)
    np.testing.assert_allclose(flow, 0, atol=1e-10)
    quiet = ne.Problem(halves_loss, jax.tree.map(lambda leaf: leaf[:1], problem.data))
    resting = ne.find_equilibrium(quiet, start, HALVES, NOISE_SCALE)
    assert status(resting) == ne.Status.NO_NOISE
    np.testing.assert_array_equal(resting.params["u"], start["u"])


def test_a_loss_without_the_symmetries_does_not_converge():
    problem, start = halves_problem()
    broken = ne.Problem(lambda p, z: halves_loss(p, z) + z[2] * jnp.sum(p["u"]), problem.data, 0.1)
    found = ne.find_equilibrium(broken, start, HALVES, NOISE_SCALE)
    assert status(found) == ne.Status.NOT_CONVERGED
    assert found.residual == 1


def test_matrices_on_one_axis_commute_with_nothing_else_there():
    problem, start = deep_problem((3, 3, 3))
    rotation = ne.double_rotation(layer(1), layer(0))
    for other in (ne.neuron_rescaling((layer(1), 1), (layer(0), 0)), rotation):
        with pytest.raises(ValueError, match=r"two symmetries act on axis 1 of params\[1\].* do not commute"):
            ne.find_equilibrium(problem, start, [rotation, other], NOISE_SCALE)


def _chain(p, z):
    return (p["u"] * p["v"] * p["w"] - z) ** 2


CHAIN = [ne.rescaling(lambda p: p["u"], lambda p: p["v"]), ne.rescaling(lambda p: p["v"], lambda p: p["w"])]


def test_a_sweep_is_traced_once_where_nothing_is_differentiated(monkeypatch):
    traced, sweep = [], _turns._sweep
    monkeypatch.setattr(_turns, "_sweep", lambda *parts: traced.append(1) or sweep(*parts))
    start = {name: jnp.array(value) for name, value in (("u", 2.0), ("v", 0.5), ("w", 1.5))}
    problem = ne.Problem(lambda p, z: _chain(p, z), jnp.array([0.5, 1.0, 2.5]))  # a loss of its own: nothing is cached
    jax.make_jaxpr(lambda p: ne.find_equilibrium(problem, p, CHAIN, 0.01).params)(start)
    assert len(traced) == 1


@pytest.mark.slow
def test_the_value_beside_a_derivative_is_that_without_one():
    start = {name: jnp.array(value) for name, value in (("u", 2.0), ("v", 0.5), ("w", 1.5))}
    problem = ne.Problem(_chain, jnp.array([0.5, 1.0, 2.5]))

    def end(p):
        return ne.find_equilibrium(problem, p, CHAIN, 0.01).params

    alone = end(start)
    beside, _ = jax.jvp(end, (start,), (jax.tree_util.tree_map(jnp.ones_like, start),))
    for name in start:
        np.testing.assert_allclose(beside[name], alone[name], rtol=1e-12)
