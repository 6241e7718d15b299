"""The drift along the valley, where SGD settles, and the entropic loss: brute force, identities and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_rotation as rotation
from marks import slow_but
from problems import BLOCKS, SCALAR, SYMMETRIES

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

SCALE = 0.05
SLOW = pytest.mark.slow
motion_along = jax.jit(rotation.motion_along)
AWAY = jnp.array([[0.3, -0.1], [-0.1, -0.2]])


def away(name):
    """A minimum that is no equilibrium."""
    problem, params = rotation.minimum(name)
    return problem, linear.symmetry.act(params, AWAY)


def tanh_minimum(dtype=np.float64):
    """A network without a matrix symmetry, at a minimum: every input has targets with noise of either sign."""
    draw = np.random.default_rng(0)
    params = {"w": draw.normal(size=(2, 2)), "u": draw.normal(size=(1, 2))}
    x = draw.normal(size=(4, 2))
    noise = draw.normal(size=(4, 1)) * np.linspace(0.2, 1, 4)[:, None]
    y = np.tanh(x @ params["w"].T) @ params["u"].T
    data = np.concatenate([x, x]), np.concatenate([y + noise, y - noise])
    params, data = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, data))
    return ne.Problem(tanh_loss, data), params


def tanh_loss(params, sample):
    return jnp.sum((params["u"] @ jnp.tanh(params["w"] @ sample[0]) - sample[1]) ** 2)


def relu_minimum():
    """A ReLU network with its rescalings."""
    draw = np.random.default_rng(1)
    params = {"w": jnp.asarray(draw.normal(size=(3, 2))), "u": jnp.asarray(draw.normal(size=(2, 3)))}
    x = jnp.asarray(draw.normal(size=(6, 2)))
    y = jax.nn.relu(x @ params["w"].T) @ params["u"].T
    noise = jnp.asarray(draw.normal(size=(6, 2)) * np.linspace(0.2, 1, 6)[:, None])
    data = jnp.concatenate([x, x]), jnp.concatenate([y + noise, y - noise])
    return ne.Problem(relu_loss, data), params


def relu_loss(params, sample):
    return jnp.sum((params["u"] @ jax.nn.relu(params["w"] @ sample[0]) - sample[1]) ** 2)


NEURONS = ne.neuron_rescaling((lambda p: p["u"], 1), (lambda p: p["w"], 0))


def deep_loss(params, sample):
    return jnp.sum((params[2] @ (params[1] @ (params[0] @ sample[0])) - sample[1]) ** 2)


def deep_minimum():
    """Three linear layers with two double rotations, which share a parameter, and anisotropic noise."""
    problem, two = rotation.minimum("anisotropic")
    draw = np.random.default_rng(2)
    middle = jnp.asarray(np.eye(2) + 0.3 * draw.normal(size=(2, 2)))
    params = [jnp.linalg.solve(middle, two.down), middle, two.up]
    pairs = [ne.double_rotation(lambda p, i=i: p[i + 1], lambda p, i=i: p[i]) for i in range(2)]
    return ne.Problem(deep_loss, problem.data), params, pairs


def dot(first, second):
    return jnp.vdot(ne.flatten(first)[0], ne.flatten(second)[0])


# --- the drift -------------------------------------------------------------------------------------------------------


def brute_force(problem, params, scale):
    """The same with the third derivatives as a tensor, and Cov from a Kronecker system."""
    theta, unflatten = ne.flatten(params)

    def loss(theta):
        return jnp.mean(jax.vmap(problem.loss, (None, 0))(unflatten(theta), problem.data))

    hessian = np.asarray(jax.jit(jax.hessian(loss))(theta))
    third = np.asarray(jax.jit(jax.jacfwd(jax.hessian(loss)))(theta))
    values, vectors = np.linalg.eigh(hessian)
    across = vectors[:, values > 1e-6 * values[-1]]
    small = across.T @ hessian @ across
    eye = np.eye(len(small))
    sigma = across.T @ np.asarray(ne.gradient_covariance(problem, params)) @ across
    solution = np.linalg.solve(np.kron(small, eye) + np.kron(eye, small), sigma.ravel())
    covariance = across @ solution.reshape(len(small), -1) @ across.T
    along = np.eye(len(theta)) - across @ across.T
    decay = 2 * problem.weight_decay * along @ np.asarray(theta)
    return -scale * along @ np.einsum("ijk,ij->k", third, covariance) - decay


MINIMA = {
    "isotropic": lambda: away("isotropic"),
    "anisotropic": lambda: away("anisotropic"),
    "tanh": tanh_minimum,
    "relu": relu_minimum,
    "deep": lambda: deep_minimum()[:2],
}


@pytest.mark.parametrize("name", slow_but(MINIMA, "anisotropic", "tanh"))
def test_the_drift_is_that_of_third_derivatives(name):
    problem, params = MINIMA[name]()
    problem = ne.Problem(problem.loss, problem.data, 0.02)
    motion = ne.valley_motion(problem, params, SCALE)
    velocity = ne.flatten(motion.velocity)[0]
    np.testing.assert_allclose(velocity, brute_force(problem, params, SCALE), atol=1e-12)
    assert motion.share < 1e-12
    assert motion.slope < 1e-12
    assert motion.least > -1e-12
    assert motion.error == 0


FAMILIES = {
    "scalar": ("anisotropic", SCALAR, 1.0),
    "diagonal": ("anisotropic", SYMMETRIES["diagonal"], jnp.array([0.3, -1.0])),
    "symmetric": ("anisotropic", linear.symmetry, jnp.array([[0.3, 0.7], [0.7, -1.0]])),
    "blocks": ("anisotropic", BLOCKS, jnp.array([[[0.5]], [[2.0]]])),
    "relu": ("relu", NEURONS, jnp.array([1.0, -0.5, 2.0])),
    "deep": ("deep", deep_minimum()[2][1], jnp.array([[0.3, 0.7], [0.7, -1.0]])),
}


@pytest.mark.parametrize("name", slow_but(FAMILIES, "scalar", "diagonal", "symmetric", "blocks"))
def test_along_every_symmetry_the_drift_is_half_the_noether_flow(name):
    """⟨Aθ, v⟩ = σ² Tr[AΣ] − 2γ θᵀAθ, whatever Cov is."""
    minimum, symmetry, element = FAMILIES[name]
    problem, params = MINIMA[minimum]()
    problem = ne.Problem(problem.loss, problem.data, 0.03)
    element = jnp.asarray(element, float)
    velocity = ne.valley_drift(problem, params, SCALE)
    flow = ne.noether_flow(problem, params, symmetry, SCALE)
    found = dot(symmetry.generator(params, element), velocity)
    np.testing.assert_allclose(found, jnp.sum(element * flow) / 2, rtol=1e-10)


@pytest.mark.parametrize("name", rotation.NOISE)
def test_the_drift_turns_as_the_circulation_says(name):
    """Antisymmetric elements feel 2σ²Tr[R Cov H], which is 0 for isotropic noise."""
    problem, params = away(name)
    element, forces, _ = motion_along(problem, params)
    velocity = ne.valley_drift(problem, params, SCALE)
    np.testing.assert_allclose(velocity.up, 2 * SCALE * params.up @ element, atol=1e-13)
    np.testing.assert_allclose(velocity.down, -2 * SCALE * element @ params.down, atol=1e-13)
    turned = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    along = dot(linear.Params(params.up @ turned, -turned @ params.down), velocity)
    np.testing.assert_allclose(along, 2 * SCALE * (forces[1] - forces[2]), atol=1e-13)
    assert abs(along) < 1e-13 if name == "isotropic" else abs(along) > 1e-4


def bent_loss(q, z):
    """A valley of three parameters without a symmetry; z has mean 0, and its last part acts along the valley."""
    r = jnp.stack([q[0] * q[1] + 0.3 * q[2] ** 2 - 1, q[2] - jnp.sin(q[0])])
    across = r[0] ** 2 + r[1] ** 2 / 2 + z[0] * r[0] + z[1] * r[1] * jnp.exp(0.3 * q[1])
    return across + z[2] * jnp.sin(q[1] + 0.5 * q[0])


def bent_valley(x):
    last = jnp.sin(x)
    return jnp.stack([x, (1 - 0.3 * last**2) / x, last])


def bent_problem(along):
    data = np.random.default_rng(1).normal(size=(5, 3)) * np.array([1, 1, along])
    return ne.Problem(bent_loss, jnp.asarray(data - data.mean(axis=0)))


def limit_of_gradient_flow(problem, start):
    slope = jax.grad(problem.risk)

    def step(q, _):
        first = slope(q)
        second = slope(q - 0.02 * first)
        third = slope(q - 0.02 * second)
        last = slope(q - 0.04 * third)
        return q - 0.04 / 6 * (first + 2 * second + 2 * third + last), None

    return jax.lax.scan(step, start, None, length=1500)[0]


@pytest.mark.slow
@pytest.mark.parametrize("along", [0.0, 0.5])
def test_the_drift_is_katzenbergers(along):
    """σ² Tr[Σ ∇²Φ], Φ the limit of gradient flow, also where the noise has a part along the valley."""
    problem, params = bent_problem(along), bent_valley(0.9)
    sigma = ne.gradient_covariance(problem, params)
    second = jax.jit(jax.jacfwd(jax.jacfwd(lambda q: limit_of_gradient_flow(problem, q))))(params)
    expected = SCALE * jnp.einsum("kij,ij->k", second, sigma)
    motion = ne.valley_motion(problem, params, SCALE)
    np.testing.assert_allclose(motion.velocity, expected, rtol=1e-5)  # the error of the flow
    tangent = jax.jacfwd(bent_valley)(0.9)
    tangent = tangent / jnp.linalg.norm(tangent)
    np.testing.assert_allclose(motion.diffusion, 2 * SCALE * tangent @ sigma @ tangent, atol=1e-12)
    if along:
        assert motion.share > 1e-4
        with pytest.warns(UserWarning, match="of the gradient noise is along the valley") as caught:
            ne.valley_drift(problem, params, SCALE)
        assert caught[0].filename == __file__


@pytest.mark.slow
def test_derivatives_of_the_drift_three_ways():
    """Along the valley, where it is a function of the place, with a repeated curvature 0 in the second example."""
    problem = bent_problem(0.0)

    def drift(x):
        return ne.valley_drift(problem, bent_valley(x), SCALE)

    forward, backward = jax.jacfwd(drift)(0.9), jax.jacrev(drift)(0.9)
    finite = (drift(0.9 + 1e-5) - drift(0.9 - 1e-5)) / 2e-5
    np.testing.assert_allclose(forward, backward, atol=1e-12)
    np.testing.assert_allclose(forward, finite, atol=1e-8)
    other, params = away("anisotropic")

    def moved(element):
        velocity = ne.valley_drift(other, linear.symmetry.act(params, element), SCALE)
        return jnp.sum(velocity.up**2) + jnp.sum(velocity.down[0])

    slope = jax.grad(moved)(jnp.zeros((2, 2)))
    up = jnp.array([[0.0, 1e-5], [1e-5, 0.0]])
    np.testing.assert_allclose(slope[0, 1] + slope[1, 0], (moved(up) - moved(-up)) / 2e-5, rtol=1e-6)


def test_the_drift_goes_with_the_axes_and_with_a_rotation():
    problem, params = away("anisotropic")
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(3).normal(size=(2, 2)))[0])
    velocity = ne.valley_drift(problem, params, SCALE)
    turned = ne.valley_drift(problem, linear.Params(params.up @ turn, turn.T @ params.down), SCALE)
    np.testing.assert_allclose(turned.up, velocity.up @ turn, atol=1e-13)
    np.testing.assert_allclose(turned.down, turn.T @ velocity.down, atol=1e-13)


@pytest.mark.slow
def test_without_noise_only_decay_moves():
    problem, params = away("anisotropic")
    decaying = ne.Problem(problem.loss, problem.data, 0.1)
    for law in (0.0, ne.GD(0.1), ne.GradientFlow(0.1)):
        assert all(np.all(np.asarray(leaf) == 0) for leaf in ne.valley_drift(problem, params, law))
        velocity = ne.valley_drift(decaying, params, law)
        flow = jnp.trace(linear.symmetry.charge(params)) * -4 * 0.1
        np.testing.assert_allclose(dot(SCALAR.generator(params, jnp.array(1.0)), velocity), flow / 2, rtol=1e-12)


def test_a_loss_without_curvature_is_all_valley():
    problem = ne.Problem(lambda q, z: jnp.dot(q, z), jnp.array([[1.0, 0.5], [-1.0, -0.5]]), 0.1)
    motion = ne.valley_motion(problem, jnp.array([1.0, 2.0]), SCALE)
    np.testing.assert_allclose(motion.velocity, [-0.2, -0.4], atol=1e-15)
    np.testing.assert_allclose([motion.share, motion.diffusion], [1, 2 * SCALE * 1.25], rtol=1e-12)


@pytest.mark.slow
def test_dynamics_and_their_noise_scale_are_one_law():
    problem, params = away("anisotropic")
    by_number = ne.flatten(ne.valley_drift(problem, params, 0.04 / 4))[0]
    count = problem.num_samples
    without = ne.SGD(0.04 * (count - 1) / (count - 2), 2, replacement=False)  # whose noise is smaller by that
    for dynamics in (ne.SGD(0.04, 2), without, ne.SDE(0.04, 2), ne.SVAG(0.04, 2, 3.0), jnp.asarray(0.01)):
        np.testing.assert_allclose(ne.flatten(ne.valley_drift(problem, params, dynamics))[0], by_number, rtol=1e-12)
    batched = jax.vmap(lambda scale: ne.flatten(ne.valley_drift(problem, params, scale))[0])(jnp.array([0.01, 0.02]))
    np.testing.assert_allclose(batched, jnp.stack([by_number, 2 * by_number]), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(["anisotropic", "tanh"], "anisotropic"))
def test_the_sampled_drift_is_the_dense_one_within_its_error(name):
    problem, params = MINIMA[name]()
    problem = ne.Problem(problem.loss, problem.data, 0.01)
    dense = ne.flatten(ne.valley_drift(problem, params, SCALE))[0]
    keys = jax.random.split(jax.random.key(0), 4)
    sampled = [ne.valley_motion(problem, params, SCALE, method="sampled", key=key) for key in keys]
    misses = np.array([jnp.linalg.norm(ne.flatten(one.velocity)[0] - dense) / one.error for one in sampled])
    assert np.max(misses) < 3
    assert np.mean(misses) > 0.3
    assert sampled[0].error < 0.07 * jnp.linalg.norm(dense)
    np.testing.assert_allclose([one.share for one in sampled], 0, atol=1e-8)


@pytest.mark.slow
def test_the_sampled_diffusion_is_that_of_the_dense_hessian():
    problem, params = bent_problem(0.5), bent_valley(0.9)
    dense = ne.valley_motion(problem, params, SCALE)
    sampled = ne.valley_motion(problem, params, SCALE, method="sampled")
    np.testing.assert_allclose(sampled.share, dense.share, rtol=0.5)
    tangent = jax.jacfwd(bent_valley)(0.9)
    assert abs(jnp.vdot(tangent, sampled.velocity - dense.velocity)) < 4 * sampled.error * jnp.linalg.norm(tangent)


@pytest.mark.float32
@pytest.mark.parametrize("name", slow_but(["anisotropic", "tanh"], "anisotropic"))
def test_the_drift_in_single_precision(name):
    with jax.enable_x64(True):
        problem, params = MINIMA[name]()
        exact = np.asarray(ne.flatten(ne.valley_drift(problem, params, SCALE))[0])
        problem, params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (problem.data, params))
    loss = tanh_loss if name == "tanh" else linear.loss
    velocity = ne.flatten(ne.valley_drift(ne.Problem(loss, problem), params, SCALE))[0]
    assert velocity.dtype == jnp.float32
    np.testing.assert_allclose(velocity, exact, atol=2e-5 * np.max(np.abs(exact)))


BAD = {
    "far": ([1.0, 1.0, 1.0], SCALE, {}, r"‖∇L‖ is .* of the largest curvature times ‖θ‖; expected at most 0.001"),
    "epoch": (None, ne.SGD(0.1, 1, "epoch"), {}, "those of a shuffled epoch are not"),
    "negative": (None, -1.0, {}, "the noise scale is -1.0; expected σ²"),
    "word": (None, "SGD", {}, "the law is 'SGD'"),
    "method": (None, SCALE, {"method": "fast"}, "method is 'fast'; expected one of 'dense', 'sampled'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    place, law, options, message = BAD[name]
    params = bent_valley(0.9) if place is None else jnp.asarray(place)
    with pytest.raises(ValueError, match=message):
        ne.valley_drift(bent_problem(0.0), params, law, **options)


def test_a_saddle_and_a_stream_are_refused():
    saddle = ne.Problem(lambda q, z: q[0] ** 2 - q[1] ** 2 + z * q[0], jnp.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="this point is a saddle: the least curvature is -1 of the largest"):
        ne.valley_drift(saddle, jnp.zeros(2), SCALE)
    with pytest.raises(ValueError, match="valley_drift needs an expectation"):
        ne.valley_drift(ne.Problem(linear.loss, ne.Stream(lambda key: key)), jnp.zeros(2), SCALE)
    inside = jax.jit(lambda q: ne.valley_drift(saddle, q, SCALE))(jnp.zeros(2))
    assert np.all(np.isfinite(inside))


# --- where SGD settles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_but(rotation.NOISE, "anisotropic"))
def test_sgd_settles_where_the_drift_only_turns(name):
    problem, params = away(name)
    rest = ne.settle(problem, params, linear.symmetry, SCALE)
    equilibrium = ne.find_equilibrium(problem, params, linear.symmetry, SCALE)
    assert ne.Status(int(rest.status)) == ne.Status.CONVERGED
    assert rest.residual < 1e-12
    back = linear.symmetry.act(params, rest.element)
    np.testing.assert_allclose(ne.flatten(back)[0], ne.flatten(rest.params)[0], atol=1e-12)
    element, _, _ = motion_along(problem, rest.params)
    np.testing.assert_allclose(2 * SCALE * element, rest.turning, atol=1e-13)
    there = rotation.settled(problem, equilibrium.params)
    np.testing.assert_allclose(rotation.grams(rest.params), rotation.grams(there), atol=1e-11)
    if name == "isotropic":
        np.testing.assert_allclose(ne.flatten(rest.params)[0], ne.flatten(equilibrium.params)[0], atol=1e-12)
    else:
        np.testing.assert_allclose(abs(rest.turning[0, 1]) / (2 * SCALE), 0.1122, atol=1e-4)
        assert jnp.max(jnp.abs(rest.element - equilibrium.element)) > 0.01


def test_the_two_coupled_equations_hold_where_sgd_settles():
    problem, params = away("anisotropic")
    decaying = ne.Problem(problem.loss, problem.data, 0.05)
    rest = ne.settle(decaying, params, linear.symmetry, SCALE)
    charge = linear.symmetry.charge(rest.params)
    flow = ne.noether_flow(decaying, rest.params, linear.symmetry, SCALE)
    turning = rest.turning
    np.testing.assert_allclose(charge @ turning - turning @ charge, flow, atol=1e-13)
    assert jnp.max(jnp.abs(flow)) > 1e-4
    norm = rest.params.up.T @ rest.params.up + rest.params.down @ rest.params.down.T
    _, forces, _ = motion_along(problem, rest.params)
    forces = forces.reshape(2, 2)
    circulation = SCALE * (forces.T - forces)  # Tr[RK] = 2σ²Tr[R Cov H], antisymmetric
    np.testing.assert_allclose(turning @ norm + norm @ turning, -2 * circulation, atol=1e-13)


def test_where_sgd_settles_does_not_depend_on_the_start():
    problem, params = away("anisotropic")
    first = ne.settle(problem, params, linear.symmetry, SCALE).params
    other = ne.settle(problem, linear.symmetry.act(params, -2 * AWAY), linear.symmetry, SCALE).params
    np.testing.assert_allclose(rotation.grams(first), rotation.grams(other), atol=1e-11)


@pytest.mark.parametrize("symmetry", [SCALAR, SYMMETRIES["diagonal"], [SCALAR]], ids=["scalar", "diagonal", "several"])
def test_numbers_settle_at_the_noise_equilibrium(symmetry):
    problem, params = away("anisotropic")
    rest = ne.settle(problem, params, symmetry, ne.SGD(0.1, 2))
    equilibrium = ne.find_equilibrium(problem, params, symmetry, ne.SGD(0.1, 2))
    for name in ("params", "element", "residual", "status"):
        jax.tree.map(np.testing.assert_array_equal, getattr(rest, name), getattr(equilibrium, name))
    assert jax.tree.structure(rest.turning) == jax.tree.structure(equilibrium.element)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(rest.turning))


@pytest.mark.slow
def test_shuffled_epochs_settle_at_the_noise_equilibrium():
    problem, params = away("anisotropic")
    dynamics = ne.SGD(0.02, 2, "epoch")
    rest = ne.settle(problem, params, linear.symmetry, dynamics)
    expected = ne.find_equilibrium(problem, params, linear.symmetry, dynamics).params
    np.testing.assert_array_equal(ne.flatten(rest.params)[0], ne.flatten(expected)[0])


def turned_by(start):
    """The angle between the hidden axes of a start and of where a run is."""

    def angle(params):
        both = start.up.T @ params.up + start.down @ params.down.T
        return jnp.arctan2(both[0, 1] - both[1, 0], both[0, 0] + both[1, 1])

    return angle


@pytest.mark.slow
def test_independent_batches_turn_the_axis_and_shuffled_ones_do_not():
    """16 seeds: Ω of `settle` with replacement=False; in epochs turning of second order, at the noise equilibrium."""
    problem, params = rotation.minimum("anisotropic")
    time, turns, distances = 600, {}, {}
    for replacement, rate in ((False, 0.01), ("epoch", 0.01), ("epoch", 0.005)):
        dynamics = ne.SGD(rate, 4, replacement)
        rest = ne.settle(problem, params, linear.symmetry, dynamics)
        observe = {"angle": turned_by(rest.params), "grams": rotation.grams}
        steps = round(time / rate)

        def run(key, dynamics=dynamics, start=rest.params, observe=observe, steps=steps):
            return ne.simulate(problem, dynamics, start, steps, key=key, observe=observe, every=steps // 20).observed

        seen = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 16))
        angles = np.unwrap(np.asarray(seen["angle"]), axis=1)[:, -1]
        turns[replacement, rate] = angles.mean(), angles.std(ddof=1) / 4
        distances[replacement, rate] = np.abs(np.asarray(seen["grams"]).mean((0, 1)) - rotation.grams(params)).max()
        if replacement is False:
            expected = rest.turning[0, 1] * time
            assert abs(angles.mean() - expected) < 4 * turns[replacement, rate][1] < 0.15 * abs(expected)
    assert abs(turns["epoch", 0.01][0]) < 0.06 * abs(turns[False, 0.01][0])
    assert abs(turns["epoch", 0.005][0]) < 0.35 * abs(turns["epoch", 0.01][0])
    assert distances["epoch", 0.005] < 0.6 * distances["epoch", 0.01] < 0.2 * distances[False, 0.01]


@pytest.mark.slow
def test_several_matrix_symmetries_settle_together():
    """All of gl × gl moves three layers; at rest only rotations are left, as the drift itself says."""
    problem, params, pairs = deep_minimum()
    rest = ne.settle(problem, params, pairs, SCALE)
    assert ne.Status(int(rest.status)) == ne.Status.CONVERGED
    assert rest.residual < 1e-10
    velocity = ne.valley_drift(problem, rest.params, SCALE)
    one, two, three = rest.params
    first, second = rest.turning
    np.testing.assert_allclose(velocity[0], -first @ one, atol=1e-11)
    np.testing.assert_allclose(velocity[1], two @ first - second @ two, atol=1e-11)
    np.testing.assert_allclose(velocity[2], three @ second, atol=1e-11)
    assert jnp.max(jnp.abs(first)) > 1e-4
    value = ne.Problem(deep_loss, problem.data)
    np.testing.assert_allclose(value.risk(rest.params), value.risk(params), rtol=1e-12)


@pytest.mark.slow
def test_blocks_settle_each_by_itself():
    """Two heads with a matrix each: their sum is a linear map, and the drift moves each head inside its block."""
    problem, two = away("anisotropic")
    draw = np.random.default_rng(4)
    other = jnp.asarray(0.7 * draw.normal(size=(2, 2))), jnp.asarray(0.7 * draw.normal(size=(2, 3)))
    up, down = jnp.concatenate([two.up, other[0]], 1), jnp.concatenate([two.down, other[1]], 0)
    x, y = problem.data
    shifted = ne.Problem(linear.loss, (x, y + x @ (other[0] @ other[1]).T))
    rest = ne.settle(shifted, linear.Params(up, down), BLOCKS, SCALE)
    assert ne.Status(int(rest.status)) == ne.Status.CONVERGED
    assert rest.turning.shape == rest.element.shape == (2, 2, 2)
    np.testing.assert_allclose(rest.turning, -jnp.swapaxes(rest.turning, 1, 2), atol=1e-14)
    assert rest.residual < 1e-10


@pytest.mark.slow
def test_directions_that_die_stay_dead():
    """A hidden layer wider than the rank: the limit is finite, and rests."""
    problem, two = away("anisotropic")
    params = linear.Params(
        jnp.concatenate([two.up, jnp.zeros((2, 1))], 1), jnp.concatenate([two.down, jnp.full((1, 3), 0.3)], 0)
    )
    rest = ne.settle(problem, params, linear.symmetry, SCALE)
    assert ne.Status(int(rest.status)) == ne.Status.LIMIT
    assert rest.residual < 1e-10
    narrow = ne.settle(problem, two, linear.symmetry, SCALE).params
    np.testing.assert_allclose(rotation.grams(rest.params), rotation.grams(narrow), atol=1e-10)


@pytest.mark.slow
def test_derivatives_of_where_sgd_settles_three_ways():
    problem, params = away("anisotropic")
    x, y = problem.data
    weights = jnp.arange(1.0, 14.0)
    noise = y - x @ (params.up @ params.down).T

    def gram(stretch):
        moved = ne.Problem(linear.loss, (x, y + stretch * noise * jnp.array([1.0, 0.0])))
        return rotation.grams(ne.settle(moved, params, linear.symmetry, SCALE).params) @ weights

    finite = (gram(1e-4) - gram(-1e-4)) / 2e-4
    np.testing.assert_allclose(jax.jvp(gram, (0.0,), (1.0,))[1], finite, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(gram)(0.0), finite, rtol=1e-5)


def test_what_cannot_settle_says_so():
    problem, params = away("anisotropic")
    with pytest.raises(ValueError, match="settle is about minima of the data loss"):
        ne.settle(problem, linear.Params(2 * params.up, params.down), linear.symmetry, SCALE)
    whole = linear.Params(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
    x = jnp.round(problem.data[0])
    still = ne.Problem(linear.loss, (x, x @ whole.down.T @ whole.up.T))  # fitted without an error of rounding
    rest = ne.settle(still, whole, linear.symmetry, SCALE)
    assert rest.status == ne.Status.NO_NOISE
    np.testing.assert_array_equal(rest.params.up, whole.up)
    with pytest.raises(ValueError, match="symmetry is 3"):
        ne.settle(problem, params, 3, SCALE)


@pytest.mark.slow
def test_settling_inside_of_transformations():
    problem, params = away("anisotropic")
    outside = ne.settle(problem, params, linear.symmetry, SCALE)

    def settled(size):
        return ne.settle(problem, linear.Params(size * params.up, params.down), linear.symmetry, SCALE)

    inside = jax.jit(jax.vmap(settled))(jnp.array([1.0, 2.0]))
    assert inside.status.tolist() == [ne.Status.CONVERGED, ne.Status.NOT_CONVERGED]
    np.testing.assert_allclose(inside.params.up[0], outside.params.up, atol=1e-12)


@pytest.mark.slow
@pytest.mark.float32
def test_settling_in_single_precision():
    with jax.enable_x64(True):
        problem, params = away("anisotropic")
        exact = np.asarray(rotation.grams(ne.settle(problem, params, linear.symmetry, SCALE).params))
        data, params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (problem.data, params))
    rest = ne.settle(ne.Problem(linear.loss, data), params, linear.symmetry, SCALE)
    assert rest.params.up.dtype == rest.turning.dtype == jnp.float32
    assert rest.status == ne.Status.CONVERGED
    np.testing.assert_allclose(rotation.grams(rest.params), exact, atol=1e-5)


# --- the entropic loss -----------------------------------------------------------------------------------------------


def test_the_entropic_loss_is_its_formula():
    """L_γ + (η/4)(‖∇L_γ‖² + Tr Σ_S), by the dense Σ; without the second term in continuous time."""
    problem, params = tanh_minimum()
    problem = ne.Problem(problem.loss, problem.data, 0.1)
    params = jax.tree.map(lambda leaf: 1.3 * leaf, params)
    trace = jnp.trace(ne.gradient_covariance(problem, params))
    risk, slope = problem.risk(params), ne.flatten(jax.grad(problem.risk)(params))[0]
    count = problem.num_samples
    expected = {
        ne.SGD(0.2, 2): 0.05 * (slope @ slope + trace / 2),
        ne.SGD(0.2, 2, False): 0.05 * (slope @ slope + trace / 2 * (count - 2) / (count - 1)),
        ne.SGD(0.2, 2, "epoch"): 0.05 * (slope @ slope + trace / 2 * (count - 2) / (count - 1)),
        ne.GD(0.2): 0.05 * slope @ slope,
        ne.SDE(0.2, 2): 0.05 / 2 * trace,
    }
    for dynamics, more in expected.items():
        np.testing.assert_allclose(ne.entropic_loss(problem, params, dynamics), risk + more, rtol=1e-12)
    np.testing.assert_allclose(ne.entropic_loss(problem, params, 0.05), risk + 0.025 * trace, rtol=1e-12)


ORBITS = {
    "scalar": (SCALAR, 1.0),
    "diagonal": (SYMMETRIES["diagonal"], jnp.array([0.3, -1.0])),
    "symmetric": (linear.symmetry, jnp.array([[0.3, 0.7], [0.7, -1.0]])),
    "blocks": (BLOCKS, jnp.array([[[0.5]], [[2.0]]])),
    "generator": (ne.exponential_symmetry(np.diag([0.2, -1] * 2 + [-0.2] * 3 + [1] * 3)), 1.0),
}


@pytest.mark.parametrize("name", slow_but(ORBITS, "symmetric", "generator"))
def test_the_slope_of_the_entropic_loss_on_an_orbit_is_the_law_of_the_charge(name):
    """−2 dF/dλ = G_d/η, exactly, at a point that is no minimum."""
    symmetry, element = ORBITS[name]
    element = jnp.asarray(element, float)
    problem, params = away("anisotropic")
    params = jax.tree.map(lambda leaf: 1.2 * leaf + 0.1, params)
    for dynamics in (ne.SGD(0.1, 2, False), ne.GD(0.1), ne.SDE(0.1, 2)):

        def loss(size, dynamics=dynamics):
            return ne.entropic_loss(problem, symmetry.act(params, size * element), dynamics)

        flow = ne.noether_flow(problem, params, symmetry, dynamics)
        np.testing.assert_allclose(-2 * jax.grad(loss)(0.0), jnp.sum(element * flow), rtol=1e-11)


def test_with_decay_the_flow_of_the_entropic_loss_has_the_law_it_says():
    problem, params = away("anisotropic")
    problem = ne.Problem(problem.loss, problem.data, 0.3)
    params = jax.tree.map(lambda leaf: 1.2 * leaf + 0.1, params)
    flow = ne.EntropicFlow(0.01, ne.SGD(0.1, 2))
    slope = jax.grad(lambda size: ne.entropic_loss(problem, SCALAR.act(params, size), flow.of))(0.0)
    np.testing.assert_allclose(-2 * slope, ne.noether_flow(problem, params, SCALAR, flow), rtol=1e-11)
    discrete = ne.noether_flow(problem, params, SCALAR, flow.of)
    gap = 4 * 0.1 * 0.3**2 * SCALAR.charge(params) * 2  # of second order in γ, and of first in η
    np.testing.assert_allclose(-2 * slope - discrete, -gap, rtol=1e-10)


def epochs(problem, params, rate, size, count):
    """The exact mean of SGD after two shuffled epochs: over all orders of the samples in each."""
    orders = jnp.asarray(list(itertools.permutations(range(count))))
    both = jnp.concatenate([jnp.repeat(orders, len(orders), 0), jnp.tile(orders, (len(orders), 1))], 1)

    def run(order):
        def step(params, batch):
            data = jax.tree.map(lambda leaf: leaf[batch], problem.data)
            slope = jax.grad(ne.Problem(problem.loss, data, problem.weight_decay).risk)(params)
            return jax.tree.map(lambda a, g: a - rate * g, params, slope), None

        return ne.flatten(jax.lax.scan(step, params, order.reshape(-1, size))[0])[0]

    return jnp.mean(jax.lax.map(run, both, batch_size=72), axis=0)


@pytest.mark.parametrize("decay", [pytest.param(0.0, marks=SLOW), 0.3])
def test_shuffled_sgd_follows_the_entropic_loss_one_order_further(decay):
    """After two epochs the mean of SGD errs by η³ from the flow of F, by η² from that of L_γ: no statistical error."""
    draw = np.random.default_rng(0)
    data = jnp.asarray(draw.normal(size=(4, 2))), jnp.asarray(draw.normal(size=(4, 1)))
    params = {"w": jnp.asarray(draw.normal(size=(1, 2))), "u": jnp.asarray(draw.normal(size=(1, 1)))}
    problem = ne.Problem(tanh_loss, data, decay)
    rates = np.array([0.004, 0.002])
    flows = {
        "entropic": lambda rate: ne.EntropicFlow(rate, ne.SGD(rate, 2, "epoch")),
        "replaced": lambda rate: ne.EntropicFlow(rate, ne.SGD(rate, 2)),  # Σ/S without its factor
        "risk": ne.GradientFlow,
    }
    errors = {name: [] for name in flows}
    ends = jax.jit(lambda rate: epochs(problem, params, rate, 2, 4))
    for rate in rates:
        mean = ends(rate)
        for name, flow in flows.items():
            end = ne.simulate(problem, flow(float(rate)), params, 4).params
            errors[name].append(float(jnp.linalg.norm(ne.flatten(end)[0] - mean)))
    orders = {name: np.log2(error[0] / error[1]) for name, error in errors.items()}
    assert 2.7 < orders["entropic"] < 3.2
    assert 1.8 < orders["risk"] < 2.2
    assert 1.7 < orders["replaced"] < 2.3
    assert errors["entropic"][1] < 0.02 * errors["risk"][1]


def test_the_entropic_flow_is_a_dynamics():
    problem, params = tanh_minimum()
    sgd = ne.SGD(0.05, 2, "epoch")
    result = ne.weak_error(
        problem,
        lambda rate: ne.EntropicFlow(rate, sgd),
        lambda rate: ne.EntropicFlow(rate / 2, sgd),
        params,
        {"u": lambda p: p["u"]},
        [0.05],
        0.2,
        seeds=2,
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(result.error["u"], 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"of is 0.1; expected dynamics"):
        ne.EntropicFlow(0.1, 0.1)
    with pytest.raises(ValueError, match="dt is 0"):
        ne.EntropicFlow(0, sgd)
    with pytest.raises(ValueError, match="needs an expectation"):
        ne.entropic_loss(ne.Problem(linear.loss, ne.Stream(lambda key: key)), params, sgd)


@pytest.mark.float32
def test_the_entropic_loss_in_single_precision():
    with jax.enable_x64(True):
        problem, params = tanh_minimum()
        exact = float(ne.entropic_loss(problem, params, ne.SGD(0.1, 2)))
        data, params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (problem.data, params))
    value = ne.entropic_loss(ne.Problem(tanh_loss, data), params, ne.SGD(0.1, 2))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-6)


# --- the second-order condition of a symmetry ------------------------------------------------------------------------


def hidden(params, sample):
    """A term that breaks the symmetry, and has no slope where the first entry is 2."""
    return linear.loss(params, sample) + 0.01 * (params.up[0, 0] - 2) ** 2


@pytest.mark.parametrize("symmetry", [SCALAR, linear.symmetry], ids=["scalar", "symmetric"])
def test_the_second_order_finds_what_has_no_slope(symmetry):
    problem, params = away("anisotropic")
    params = linear.Params(params.up.at[0, 0].set(2.0), params.down)
    ne.check_symmetry(problem, params, symmetry, order=2)
    broken = ne.Problem(hidden, problem.data)
    ne.check_symmetry(broken, params, symmetry)
    with pytest.raises(ne.SymmetryError, match=r"lacks the symmetry beside θ: ‖HAθ \+ Aᵀ∇L‖ is .* for the element"):
        ne.check_symmetry(broken, params, symmetry, order=2)


@pytest.mark.slow
def test_the_second_order_of_generators_and_of_long_axes():
    problem, params = away("anisotropic")
    diagonal = jnp.asarray([1.0] * 4 + [-1.0] * 6)
    for A in (jnp.diag(diagonal), lambda v: diagonal * v):
        ne.check_symmetry(problem, params, ne.exponential_symmetry(A), order=2)
    wide = linear.init(jax.random.key(0), 3, 9, 2)
    wide = linear.Params(wide.up.at[0, 0].set(2.0), wide.down)
    ne.check_symmetry(problem, wide, linear.symmetry, order=2)
    with pytest.raises(ne.SymmetryError, match="for a random element"):
        ne.check_symmetry(ne.Problem(hidden, problem.data), wide, linear.symmetry, order=2)
    with pytest.raises(ValueError, match="order is 3; expected 1"):
        ne.check_symmetry(problem, params, linear.symmetry, order=3)


def test_there_is_no_curvature_along_the_orbit_of_a_minimum():
    problem, params = away("anisotropic")
    tangent = linear.symmetry.generator(params, AWAY)
    curved = jax.jvp(jax.grad(problem.risk), (params,), (tangent,))[1]
    np.testing.assert_allclose(ne.flatten(curved)[0], 0, atol=1e-13)


def test_laws_with_numbers_for_the_sides_are_refused():
    problem = ne.Problem(lambda p, z: (p["u"] * p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
    params = {"u": jnp.array(1.0), "w": jnp.array(1.0)}
    law = ne.Preconditioned(0.01, 1, 9.0, 1.0)
    with pytest.raises(ValueError, match="entropic_loss is about steps along the gradient, and Preconditioned has"):
        ne.entropic_loss(problem, params, law)
    with pytest.raises(ValueError, match="valley_drift is about steps along the gradient"):
        ne.valley_drift(problem, params, law)
    matrix = {"u": jnp.eye(2), "w": jnp.eye(2)}
    product = ne.Problem(lambda p, z: jnp.sum((p["u"] @ p["w"] - z) ** 2), jnp.stack([jnp.eye(2), jnp.zeros((2, 2))]))
    with pytest.raises(ValueError, match="settle, of matrices, is about steps along the gradient"):
        ne.settle(product, matrix, ne.double_rotation(lambda p: p["u"], lambda p: p["w"]), law)
