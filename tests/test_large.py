"""Every call at an axis of 512 or at ten million parameters: it works in bounded memory, or refuses at once.

Nothing large is run: the compiler says how much memory a program takes, and a refusal comes before any work.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import DIAGONAL, DOWN, UP

import noise_equilibrium as ne
from benchmarks import memory as decoders
from noise_equilibrium._budget import LARGEST, at_once, require_room
from noise_equilibrium._equilibrium import _implicit
from noise_equilibrium._equilibrium._implicit import implicit_zero
from noise_equilibrium.models import two_layer_linear as linear

pytestmark = pytest.mark.float32

ROTATION = linear.symmetry
BLOCKS = ne.double_rotation(UP, DOWN, blocks=4)
FUNCTION = ne.exponential_symmetry(lambda v: v)


def shapes(d_in, d, d_out, samples):
    """(params, data) of a two-layer linear network, without numbers."""
    params = jax.eval_shape(lambda: linear.init(jax.random.key(0), d_in, d, d_out))
    return params, tuple(jax.ShapeDtypeStruct((samples, size), np.float32) for size in (d_in, d_out))


WIDE = shapes(64, 512, 64, 2048)
MANY = shapes(2500, 2000, 2500, 256)  # ten million parameters, 40 MB


def problem_of(data):
    return ne.Problem(linear.loss, data, 0.01)


def memory(function, params, data):
    """Temporary memory of a compiled call, in bytes."""
    return jax.jit(function).lower(params, data).compile().memory_analysis().temp_size_in_bytes


def moments_of_redrawn(params, data):
    def redraw(key, sample):
        return sample[0], sample[1] + jax.random.normal(key, sample[1].shape)

    problem = ne.Problem(linear.loss, ne.Redrawn(data, redraw))
    found = ne.redrawn_moments(problem, params, ROTATION, key=jax.random.key(0), redraws=2)
    return found.between, found.within


def estimate(params, data):
    found = ne.estimate_moments(problem_of(data), params, DIAGONAL, batches=8)
    return found.value, found.standard_error


TIMES = np.linspace(0, 1, 11)
CALLS = {
    "noise_moments": lambda p, z: ne.noise_moments(problem_of(z), p, ROTATION),
    "noise_trace": lambda p, z: ne.noise_trace(problem_of(z), p, FUNCTION),
    "charge_rates": lambda p, z: ne.charge_rates(problem_of(z), p, DIAGONAL),
    "sample_noise": lambda p, z: ne.sample_noise(problem_of(z), p, jax.random.key(0)),
    "partial_moments": lambda p, z: ne.partial_moments(problem_of(z), p, ROTATION).moments(),
    "estimate_moments": estimate,
    "redrawn_moments": moments_of_redrawn,
    "noether_flow": lambda p, z: ne.noether_flow(problem_of(z), p, ROTATION, 0.1),
    "expected_charge_step": lambda p, z: ne.expected_charge_step(problem_of(z), p, ROTATION, ne.SGD(0.1, 2)),
    "relaxation_rates": lambda p, z: ne.relaxation_rates(problem_of(z), p, ROTATION, 0.1),
    "relaxation_modes": lambda p, z: ne.relaxation_modes(problem_of(z), p, BLOCKS, 0.1),
    "time_scales": lambda p, z: ne.time_scales(problem_of(z), p, ROTATION, 0.1),
    "orbit_flow": lambda p, z: ne.orbit_flow(problem_of(z), p, BLOCKS, 0.1, TIMES),
    "find_equilibrium": lambda p, z: ne.find_equilibrium(problem_of(z), p, ROTATION, 0.1),
    "predict": lambda p, z: ne.predict(problem_of(z), p, DIAGONAL, 0.1, steps=5),
    "symmetry_violation": lambda p, z: ne.symmetry_violation(problem_of(z), p, ROTATION),
    "violation-of-a-function": lambda p, z: ne.symmetry_violation(problem_of(z), p, FUNCTION),
    "simulate": lambda p, z: ne.simulate(problem_of(z), ne.SDE(0.1, 2), p, 10, key=jax.random.key(0)).params,
}


@pytest.mark.parametrize("name", CALLS)
def test_an_axis_of_512_takes_little_memory(name):
    """The least of what grew too fast, d⁴ or P² numbers, is 17 GB here."""
    assert memory(CALLS[name], *WIDE) < 2**28


# Copies of the 40 MB of parameters, which all of these need some of; the search of time_scales keeps a GiB of them, and
# find_equilibrium some 26 matrices d × d in double precision, of 0.8 copies each.
COPIES = {"time_scales": 80, "predict": 100, "estimate_moments": 40, "find_equilibrium": 24}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_ten_million_parameters_take_some_copies_of_them(name):
    assert memory(CALLS[name], *MANY) < COPIES.get(name, 10) * 40_000_000


@pytest.mark.slow
def test_derivatives_of_a_joint_equilibrium_take_little_memory():
    """131,328 elements: their Jacobian would take 69 GB, and the passes over the data for it more."""

    def derivative(params, data):
        def end(scale):
            return ne.find_equilibrium(problem_of(data), params, [ROTATION], scale).params

        return jax.jvp(end, (0.1,), (1.0,))

    assert memory(derivative, *WIDE) < 2**29


@pytest.mark.slow
def test_the_moments_of_a_decoder_in_parts_take_the_memory_of_its_gradient():
    """Ten million parameters, all symmetries; the table at a hundred million is in the benchmarks."""
    model = decoders.layer_by_layer(512, 3)
    assert model.size > 1e7
    gradient, moments = decoders.in_parts(model, 64, 8)
    assert moments.temporary < 1.5 * gradient.temporary
    assert sum(moments) < 1.5 * sum(gradient)


@pytest.mark.slow
def test_checkpoints_in_a_loss_save_the_moments_the_memory_that_they_save_its_gradient():
    kept, again = (decoders.at_once(decoders.scanned(512, 3, again), 64) for again in (False, True))
    assert again[0].temporary < 0.5 * kept[0].temporary  # the gradient: there is something to save
    assert again[1].temporary < 0.5 * kept[1].temporary
    assert again[1].temporary < 1.5 * again[0].temporary


def test_what_a_checkpoint_does_not_keep_is_held_in_chunks(monkeypatch):
    """Of bounded size; what a gradient keeps anyhow makes no chunks."""
    monkeypatch.setattr("noise_equilibrium._per_sample._chunks.CHUNK_BYTES", 2**14)
    params = {"w": jax.random.normal(jax.random.key(0), (6, 8, 8)) / 3, "u": jnp.ones((6, 8, 8)) / 8}
    data = jax.random.normal(jax.random.key(1), (64, 5, 8))
    legs = [((lambda p, name=name: p[name]), pattern) for name, pattern in (("w", "layer * _"), ("u", "layer _ *"))]
    symmetry = ne.neuron_rescaling(*legs)

    def layer(x, p):
        return x + jax.nn.relu(x @ p["w"].T) @ p["u"].T, None

    def problem(layer):
        return ne.Problem(lambda p, x: jnp.mean(jax.lax.scan(layer, x, p)[0] ** 2), data)

    kept, again = problem(layer), problem(jax.checkpoint(layer))
    assert ne.explain(kept, params, symmetry).chunk == 64
    assert ne.explain(again, params, symmetry).chunk < 32


REFUSED = {
    "gradient_covariance": (
        lambda p, z: ne.gradient_covariance(problem_of(z), p),
        r"P = 10000000 parameters is P × P numbers, which would take 4e\+14 bytes; expected at most 2.15e\+09. Use ",
    ),
    "charge_rates": (
        lambda p, z: ne.charge_rates(problem_of(z), p, ROTATION),
        r"256 samples with a charge of 4000000 numbers each would take 4.1e\+09 bytes; .* Use noise_trace",
    ),
    "orbit_flow": (
        lambda p, z: ne.orbit_flow(problem_of(z), p, ROTATION, 0.1, np.linspace(0, 1, 1001)),
        r"1001 times with a charge of 4000000 numbers would take 1.6e\+10 bytes; .* Use fewer times",
    ),
    "estimate_moments": (
        lambda p, z: ne.estimate_moments(problem_of(z), p, DIAGONAL, batches=64).value,
        r"64 batches, of 10000000 numbers each, would take 2.56e\+09 bytes; .* Use fewer batches",
    ),
    "time_scales": (
        lambda p, z: ne.time_scales(problem_of(z), p, ROTATION, 0.1, method="dense"),
        r"P = 10000000 parameters, which would take 4e\+14 bytes; .* Use method='matrix-free'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, *MANY)


def test_a_generator_of_too_many_rows_is_refused_by_its_shape():
    matrix = np.broadcast_to(np.float32(1), (20_000, 20_000))  # a view of one number
    with pytest.raises(ValueError, match=r"eigenvectors of A, of shape \(20000, 20000\), would take 3.2e\+09 bytes"):
        ne.exponential_symmetry(matrix)


def test_room_is_counted_in_bytes():
    require_room("this", LARGEST // 8, np.float64, "")
    require_room("this", LARGEST // 4, np.float32, "")
    with pytest.raises(ValueError, match=r"this would take 2.15e\+09 bytes; expected at most 2.15e\+09. Use that"):
        require_room("this", LARGEST // 8 + 1, np.float64, "Use that.")
    assert (at_once(2**20, 1000), at_once(2**40, 1000), at_once(1, 1000)) == (64, 1, 1000)


# --- the same numbers another way ------------------------------------------------------------------------------------


def small_problem(samples=50, d_in=6, d=5, d_out=4):
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (samples, d_in)), jax.random.normal(keys[1], (samples, d_out))
    return problem_of(data), linear.init(keys[2], d_in, d, d_out)


def test_a_covariance_in_chunks_is_the_whole(monkeypatch):
    with jax.enable_x64(True):
        problem, params = small_problem()
        whole = ne.gradient_covariance(problem, params)
        monkeypatch.setattr("noise_equilibrium._per_sample._chunks.CHUNK_BYTES", 7 * 3 * 50 * 8)  # 7 samples
        again = ne.Problem(lambda p, z: linear.loss(p, z), problem.data)  # compiled anew
        np.testing.assert_allclose(ne.gradient_covariance(again, params), whole, atol=1e-13 * float(jnp.max(whole)))


def test_a_violation_in_groups_is_the_whole(monkeypatch):
    with jax.enable_x64(True):
        problem, params = small_problem()
        broken = [ne.Problem(lambda p, z: linear.loss(p, z) + p.up[0, 0] ** 2, problem.data) for _ in range(2)]
        whole = ne.symmetry_violation(broken[0], params, ROTATION)
        monkeypatch.setattr("noise_equilibrium._budget.GROUP", 3 * 4 * (50 + 2 * 25) * 8)  # 3 samples
        np.testing.assert_allclose(ne.symmetry_violation(broken[1], params, ROTATION), whole, rtol=1e-12)


def test_the_names_of_elements_count_the_triangle():
    """The last element of the last block, and of an axis of 512."""
    problem, params = small_problem(d=6)
    problem = ne.Problem(lambda p, z: linear.loss(p, z) + p.up[0, 5] * p.up[0, 4], problem.data)
    symmetry = ne.double_rotation(UP, DOWN, blocks=2)
    with pytest.raises(ne.SymmetryError, match=r"the element B\[\d, 2\] of block 1;"):
        ne.check_symmetry(problem, params, symmetry)


def sink(weights, t):
    """A concave flow with a null space, whose zero moves with t: it vanishes at 0 for t = 0."""
    target = jnp.sin(jnp.arange(weights.shape[1])) * t + jnp.cos(jnp.arange(weights.shape[1])) * t**2

    def flow(x):
        reached = weights @ (x - target)
        return -weights.T @ (reached + t * reached**3)

    return flow


@pytest.mark.parametrize("size", [pytest.param(40, marks=pytest.mark.slow), 90], ids=["at-once", "in-columns"])
def test_the_implicit_derivative_by_products_is_that_by_the_matrix(size, monkeypatch):
    """Of least norm: the flow sees 30 directions of all; first and second derivatives, forward and reverse."""
    with jax.enable_x64(True):
        weights = np.random.default_rng(0).normal(size=(30, size)) / np.sqrt(size)

        def zero(t):
            return implicit_zero(sink(jnp.asarray(weights), t), size, jnp.float64)

        def derivatives():
            first = jax.jacfwd(zero)(0.0), jax.jacrev(lambda t: jnp.sum(jnp.exp(zero(t)[:3])))(0.0)
            return *first, jax.jacfwd(jax.jacrev(lambda t: jnp.sum(jnp.sin(zero(t)))))(0.0)

        by_matrix = derivatives()
        monkeypatch.setattr(_implicit, "DENSE", 0)
        by_products = derivatives()
        inside = np.linalg.pinv(weights) @ weights
        np.testing.assert_allclose(by_matrix[0], inside @ np.sin(np.arange(size)), rtol=1e-9, atol=1e-12)
        for one, other in zip(by_products, by_matrix, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def test_what_is_outside_of_the_range_is_left_out():
    """As of rounding, which is all that is right of the equation where there is nothing to correct."""
    with jax.enable_x64(True):
        values = jnp.concatenate([jnp.logspace(-4, 0, 50), jnp.zeros(50)])
        for size in (1.0, 1e-14):
            right = size * jax.random.normal(jax.random.key(0), (100,))
            found = _implicit._pseudo_inverse(lambda v: values * v, right)
            np.testing.assert_allclose(found[:50], right[:50] / values[:50], rtol=1e-6)
            assert jnp.max(jnp.abs(found[50:])) < 1e-8 * jnp.max(jnp.abs(found))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_a_wide_joint_equilibrium_has_the_derivative_of_the_closed_form(mode):
    """d = 40: 820 elements, more than the Jacobian is built for."""
    with jax.enable_x64(True):
        problem, params = small_problem(200, 25, 40, 25)

        def end(scale, symmetry):
            moved = ne.Problem(linear.loss, problem.data, 0.1 * scale)
            there = ne.find_equilibrium(moved, params, symmetry, 0.05).params
            return jnp.stack([jnp.sum(there.up**2), jnp.sum((there.down.T @ there.down)[0])])

        joint, alone = (mode(lambda scale, s=symmetry: end(scale, s))(1.0) for symmetry in ([ROTATION], ROTATION))
        np.testing.assert_allclose(joint, alone, rtol=1e-8)


def test_a_prediction_of_many_parameters_keeps_no_matrix():
    """P = 4800 by L-BFGS; Tr∇²L by random signs, against Proposition 5.3 and within its standard error of 1 %."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        x = np.linalg.qr(draw.normal(size=(150, 60)))[0] * np.sqrt(150)
        y = x @ draw.normal(size=(60, 60)) / 8 + 0.3 * draw.normal(size=(150, 60))
        problem = ne.Problem(linear.loss, (jnp.asarray(x), jnp.asarray(y)))
        found = ne.predict(problem, linear.init(jax.random.key(0), 60, 40, 60), ROTATION, ne.SGD(0.01, 1))
        assert ne.Status(int(found.status)) == ne.Status.CONVERGED
        assert found.slope < 1e-6
        exact = ne.exact.hessian_trace(found.params.up, found.params.down, np.eye(60))
        assert 0 < found.sharpness_error <= 0.01 * found.sharpness
        assert abs(found.sharpness - exact) < 4 * found.sharpness_error
        step = ne.expected_charge_step(problem, found.params, ROTATION, ne.SGD(0.01, 1))
        assert jnp.max(jnp.abs(step)) < 1e-10


def test_the_runs_of_a_weak_error_are_as_many_at_once_as_fit(monkeypatch):
    problem, params = small_problem()
    observe = {"u": lambda p: jnp.sum(p.up)}

    def error():
        return ne.weak_error(
            problem,
            lambda rate: ne.SGD(rate, 2),
            lambda rate: {"u": 0.0},
            params,
            dict(observe),
            [0.01],
            0.1,
            seeds=7,
            key=jax.random.key(0),
        ).mean["u"]

    whole = error()
    monkeypatch.setattr("noise_equilibrium._dynamics._weak_error.LARGEST", 3 * 50 * 4)  # 3 runs
    observe["u"] = lambda p: jnp.sum(p.up) * 1  # compiled anew
    np.testing.assert_allclose(error(), whole, rtol=1e-5)
