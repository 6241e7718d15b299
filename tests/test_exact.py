"""Closed forms for linear networks, against the measured moments of exact data, the Hessian, and Monte Carlo."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

import noise_equilibrium as ne
from noise_equilibrium.models import deep_linear as deep
from noise_equilibrium.models import rank_one
from noise_equilibrium.models import two_layer_linear as linear

NOISE_SCALE = 0.01


def covariance(d, seed, trace=None):
    root = np.random.default_rng(seed).normal(size=(d, d))
    matrix = root @ root.T / d + 0.2 * np.eye(d)
    return matrix if trace is None else trace * matrix / np.trace(matrix)


def matrix(d_y, d_x, seed, rank=None):
    draw = np.random.default_rng(seed)
    if rank is None:
        return draw.normal(size=(d_y, d_x))
    return draw.normal(size=(d_y, rank)) @ draw.normal(size=(rank, d_x))


def population(V, cov_x, cov_noise, loss=deep.loss):
    """A finite problem with the population's gradient noise."""
    return ne.Problem(loss, ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched())


def relative_flows(problem, weights):
    """The relative Noether flow of every pair of layers, measured by the library."""
    flows = []
    for moments in ne.noise_moments(problem, weights, deep.symmetries(len(weights))):
        gap = jnp.linalg.norm(moments.noise_plus - moments.noise_minus)
        flows.append(gap / (jnp.linalg.norm(moments.noise_plus) + jnp.linalg.norm(moments.noise_minus)))
    return np.array(flows)


def product(weights):
    return np.linalg.multi_dot([np.eye(len(weights[-1])), *[np.asarray(w) for w in reversed(weights)]])


# d_y, d_x, rank of V, hidden widths
DEEP = {
    "two-layers": (3, 4, None, [5]),
    "narrowest-possible": (3, 4, None, [3]),
    "wide": (3, 3, None, [5, 4]),
    "five-layers": (3, 3, None, [3, 5, 4, 3]),
    "rank-deficient": (4, 3, 2, [5, 3, 4]),
    "rank-one": (4, 3, 1, [2]),
    "one-output": (1, 4, None, [3, 2]),
    "bottleneck": (4, 4, None, [2]),
    "deep-bottleneck": (4, 4, None, [5, 2, 3]),
}


@pytest.mark.parametrize("name", DEEP)
def test_no_charge_flows_at_the_equilibrium_of_random_instances(name):
    """Theorem E.1, pair by pair, with Tr Σ_x ≠ Tr Σ_ε; the product is V, and a minimum where V does not fit."""
    d_y, d_x, rank, widths = DEEP[name]
    for seed in range(3):
        V, cov_x, cov_noise = matrix(d_y, d_x, seed, rank), covariance(d_x, 10 + seed), covariance(d_y, 20 + seed)
        weights = ne.exact.deep_linear_equilibrium(V, cov_x, cov_noise, widths)
        assert [w.shape for w in weights] == [(b, a) for a, b in itertools.pairwise([d_x, *widths, d_y])]
        problem = population(V, cov_x, cov_noise)
        assert relative_flows(problem, weights).max() <= 1e-10
        slopes = jax.grad(problem.risk)(weights)
        assert max(float(jnp.abs(slope).max()) for slope in slopes) <= 1e-11
        if min(widths) >= np.linalg.matrix_rank(V):
            np.testing.assert_allclose(product(weights), V, atol=1e-12)
        else:
            values = np.linalg.svd(V @ np.linalg.cholesky(cov_x), compute_uv=False)
            best = np.trace(cov_noise) + np.sum(values[min(widths) :] ** 2)
            np.testing.assert_allclose(problem.risk(weights), best, rtol=1e-12)


def printed_theorem_5_4(V, cov_x, cov_noise, depth):
    """Theorem 5.4 as the paper prints it, for V of full rank d: Σ_1 = Σ_D = (d/Tr S')^{(D−2)/2D} √S'."""
    d = len(V)
    root_x, root_noise = (np.linalg.cholesky(c).T for c in (cov_x, cov_noise))  # RᵀR = Σ; any root will do
    left, values, right = np.linalg.svd(root_noise @ V @ root_x.T)
    outer = (d / values.sum()) ** ((depth - 2) / (2 * depth)) * np.diag(np.sqrt(values))
    first = outer @ right @ np.linalg.inv(root_x.T)
    last = np.linalg.inv(root_noise) @ left @ outer
    return [first, *[(values.sum() / d) ** (1 / depth) * np.eye(d)] * (depth - 2), last]


@pytest.mark.parametrize("depth", [3, 4])
def test_the_printed_theorem_5_4_holds_only_where_both_traces_are_the_rank(depth):
    V = matrix(3, 3, 0)
    for trace_x, trace_noise, holds in ((3, 3, True), (3, 1, False), (6, 3, False), (6, 6, False)):
        cov_x, cov_noise = covariance(3, 1, trace_x), covariance(3, 2, trace_noise)
        printed = printed_theorem_5_4(V, cov_x, cov_noise, depth)
        np.testing.assert_allclose(product(printed), V, atol=1e-12)
        flow = relative_flows(population(V, cov_x, cov_noise), [jnp.asarray(w) for w in printed]).max()
        assert flow < 1e-12 if holds else flow > 0.05
        found = ne.exact.deep_linear_equilibrium(V, cov_x, cov_noise, [3] * (depth - 1))
        same = np.allclose(found[0].T @ found[0], printed[0].T @ printed[0], rtol=1e-10)
        assert same is holds


def test_balanced_quantities_of_a_deep_network():
    """Tr[W_1Σ_xW_1ᵀ]/Tr Σ_x = ‖W_i‖²/rank = Tr[W_DᵀΣ_εW_D]/Tr Σ_ε = s²."""
    V, cov_x, cov_noise = matrix(4, 3, 0, 2), covariance(3, 1), covariance(4, 2)
    first, middle, last = ne.exact.deep_linear_equilibrium(V, cov_x, cov_noise, [5, 4])
    shares = [
        jnp.trace(first @ cov_x @ first.T) / np.trace(cov_x),
        jnp.sum(middle**2) / 2,
        jnp.trace(last.T @ cov_noise @ last) / np.trace(cov_noise),
    ]
    np.testing.assert_allclose(shares, shares[0], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(middle, compute_uv=False)[:2], shares[0] ** 0.5, rtol=1e-12)


@pytest.mark.parametrize("width", slow_but([2, 3, 5], 5), ids=["bottleneck", "full", "wide"])
def test_the_two_layer_equilibrium_is_the_one_that_find_equilibrium_finds(width):
    V, cov_x, cov_noise = matrix(3, 4, 0), covariance(4, 1), covariance(3, 2)
    exact = ne.exact.two_layer_equilibrium(V, cov_x, cov_noise, width)
    problem = population(V, cov_x, cov_noise, linear.loss)
    tilt = np.random.default_rng(0).normal(size=(width, width))
    start = linear.symmetry.act(exact, jnp.asarray(0.3 * (tilt + tilt.T)))
    found = ne.find_equilibrium(problem, start, linear.symmetry, ne.SDE(0.01, 3)).params
    for a, b in (
        (exact.up @ exact.up.T, found.up @ found.up.T),
        (exact.down.T @ exact.down, found.down.T @ found.down),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_theorem_5_2_in_general_is_an_equilibrium_away_from_the_minimum_and_with_decay():
    V, cov_x, cov_noise, decay = matrix(3, 4, 0), covariance(4, 1), covariance(3, 2), 0.01
    current = V + 0.3 * matrix(3, 4, 5)
    moments = ne.exact.residual_moments(current, V, cov_x, cov_noise)
    shift = decay / (2 * NOISE_SCALE)
    there = ne.exact.balanced_factors(
        current, moments.down + shift * np.eye(4), moments.up + shift * np.eye(3), width=5
    )
    np.testing.assert_allclose(there.up @ there.down, current, atol=1e-12)
    data = ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched()
    problem = ne.Problem(linear.loss, data, weight_decay=decay)
    flow = ne.noether_flow(problem, there, linear.symmetry, NOISE_SCALE)
    scale = jnp.linalg.norm(2 * NOISE_SCALE * ne.noise_moments(problem, there, linear.symmetry).noise_plus)
    assert jnp.linalg.norm(flow) / scale < 1e-11


def test_equal_norms_are_the_equilibrium_of_weight_decay_alone():
    V = matrix(3, 4, 0)
    up, down = ne.exact.balanced_minimum(V, 5)
    np.testing.assert_allclose(up @ down, V, atol=1e-12)
    np.testing.assert_allclose(up.T @ up, down @ down.T, atol=1e-12)
    nuclear = np.linalg.svd(V, compute_uv=False).sum()
    np.testing.assert_allclose(jnp.sum(up**2) + jnp.sum(down**2), 2 * nuclear, rtol=1e-12)


def test_a_teacher_of_zero_needs_no_weights():
    weights = ne.exact.deep_linear_equilibrium(np.zeros((2, 3)), np.eye(3), np.eye(2), [4, 3])
    assert all(float(jnp.abs(weight).max()) == 0 for weight in weights)


def test_closed_forms_may_be_traced_and_mapped():
    V, cov_x, cov_noise = matrix(3, 3, 0), covariance(3, 1), covariance(3, 2)
    scales = jnp.array([1.0, 2.0])
    traces = jax.jit(jax.vmap(lambda c: ne.exact.equilibrium_hessian_trace(V, cov_x, c * cov_noise, 3)))(scales)
    expected = [ne.exact.equilibrium_hessian_trace(V, cov_x, float(c) * cov_noise, 3) for c in scales]
    np.testing.assert_allclose(traces, expected, rtol=1e-12)


@pytest.mark.float32
def test_closed_forms_follow_the_precision_of_the_teacher():
    V = jnp.asarray(matrix(2, 3, 0), jnp.float32)
    assert {w.dtype for w in ne.exact.deep_linear_equilibrium(V, np.eye(3), np.eye(2), [4, 3])} == {
        jnp.dtype("float32")
    }
    assert ne.exact.hessian_trace(V, np.eye(3), np.eye(3)).dtype == jnp.float32


# --- sharpness -------------------------------------------------------------------------------------------------------


def true_hessian_trace(problem, params):
    theta, unflatten = ne.flatten(params)
    return jnp.trace(jax.hessian(lambda theta: problem.risk(unflatten(theta)))(theta))


@pytest.mark.parametrize("widths", slow_but([[3], [2, 4]], [2, 4]), ids=["two-layers", "three-layers"])
def test_the_trace_of_the_hessian_is_that_of_jax(widths):
    V, cov_x, cov_noise = matrix(2, 3, 0), covariance(3, 1), covariance(2, 2)
    params = deep.init(jax.random.key(0), 3, widths, 2)
    expected = true_hessian_trace(population(V, cov_x, cov_noise), params)
    np.testing.assert_allclose(ne.exact.deep_hessian_trace(params, cov_x), expected, rtol=1e-12)
    if len(params) == 2:
        np.testing.assert_allclose(ne.exact.hessian_trace(params[1], params[0], cov_x), expected, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_the_sharpness_of_the_equilibrium_is_that_of_its_parameters(width):
    V, cov_x, cov_noise = matrix(4, 3, 0), covariance(3, 1), covariance(4, 2)
    there = ne.exact.two_layer_equilibrium(V, cov_x, cov_noise, width)
    expected = ne.exact.hessian_trace(*there, cov_x)
    np.testing.assert_allclose(ne.exact.equilibrium_hessian_trace(V, cov_x, cov_noise, width), expected, rtol=1e-12)


@pytest.mark.parametrize("width", [3, 8, 20])
def test_equation_15_with_its_correction(width):
    """4d² for d_h ≥ d; 2 d d_h (a² + a⁻²) below, with a⁴ = (d − d_h + dσ²)/(dσ²)."""
    d, noise = 8, 0.25
    fourth = max(d - width, 0) / (d * noise) + 1
    expected = 2 * d * min(width, d) * (fourth**0.5 + fourth**-0.5)
    found = ne.exact.equilibrium_hessian_trace(np.eye(d), np.eye(d), noise * np.eye(d), width)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_isotropic_label_noise_selects_the_flattest_minimum_and_anisotropic_does_not():
    V, cov_x = matrix(3, 4, 0), covariance(4, 1)
    flattest = float(ne.exact.flattest_hessian_trace(V, cov_x))
    isotropic = ne.exact.equilibrium_hessian_trace(V, cov_x, 0.3 * np.eye(3), 3)
    np.testing.assert_allclose(isotropic, flattest, rtol=1e-12)
    assert ne.exact.equilibrium_hessian_trace(V, cov_x, covariance(3, 2), 3) > 1.01 * flattest
    there = ne.exact.balanced_minimum(V, 3)
    for seed in range(20):
        tilt = np.random.default_rng(seed).normal(size=(3, 3))
        moved = linear.symmetry.act(there, jnp.asarray(0.2 * (tilt + tilt.T)))
        assert ne.exact.hessian_trace(*moved, cov_x) > flattest


def test_the_sharpness_at_initialisation_is_the_mean_over_draws():
    cov_x, width, d_out, var_up, var_down = covariance(3, 1), 4, 2, 0.7, 0.2

    def trace(key):
        up, down = jax.random.split(key)
        U, W = jax.random.normal(up, (d_out, width)), jax.random.normal(down, (width, 3))
        return ne.exact.hessian_trace(var_up**0.5 * U, var_down**0.5 * W, cov_x)

    traces = jax.vmap(trace)(jax.random.split(jax.random.key(0), 4000))
    expected = ne.exact.initial_hessian_trace(cov_x, width, d_out, var_up, var_down)
    assert abs(jnp.mean(traces) - expected) < 4 * jnp.std(traces) / 4000**0.5
    assert jnp.std(traces) / 4000**0.5 < 0.01 * expected


# --- population moments ----------------------------------------------------------------------------------------------


def off_minimum():
    V, cov_x, cov_noise = matrix(3, 4, 0), covariance(4, 1), covariance(3, 2)
    params = linear.Params(jnp.asarray(matrix(3, 2, 3)), jnp.asarray(matrix(2, 4, 4)))
    return params, V, cov_x, cov_noise


def test_population_moments_are_those_of_the_library_on_matched_samples():
    params, V, cov_x, cov_noise = off_minimum()
    exact = ne.exact.two_layer_moments(*params, V, cov_x, cov_noise)
    measured = ne.noise_moments(population(V, cov_x, cov_noise, linear.loss), params, linear.symmetry)
    for side in ("weight", "noise", "mean"):
        for sign in ("plus", "minus"):
            name = f"{side}_{sign}"
            np.testing.assert_allclose(getattr(exact, name), getattr(measured, name), rtol=1e-11, err_msg=name)


def test_population_moments_feed_every_law():
    params, V, cov_x, cov_noise = off_minimum()
    data = ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched()
    problem = ne.Problem(linear.loss, data, weight_decay=0.02)
    moments = ne.exact.two_layer_moments(*params, V, cov_x, cov_noise)
    for law in (ne.SDE(0.01, 4), ne.SGD(0.01, 4), ne.GD(0.01)):
        flow = law.charge_law(problem).flow(moments)
        np.testing.assert_allclose(flow, ne.noether_flow(problem, params, linear.symmetry, law), rtol=1e-10)


def test_population_moments_are_the_limit_of_many_samples():
    """Within four standard errors, entry by entry, over 200 batches of 1000 fresh samples."""
    params, V, cov_x, cov_noise = off_minimum()
    teacher = ne.data.LinearTeacher(V, cov_x, cov_noise)
    moments = ne.exact.residual_moments(params.up @ params.down, V, cov_x, cov_noise)

    def batch(key):
        x, y = jax.vmap(teacher)(jax.random.split(key, 1000))
        r = x @ (params.up @ params.down).T - y
        down = jnp.einsum("ni,ni,nj,nk->jk", r, r, x, x) / 1000
        up = jnp.einsum("ni,ni,nj,nk->jk", x, x, r, r) / 1000
        return {"risk": jnp.sum(r**2) / 1000, "cross": r.T @ x / 1000, "down": down, "up": up}

    batches = jax.jit(jax.vmap(batch))(jax.random.split(jax.random.key(0), 200))
    K = moments.cross
    expected = {"risk": moments.risk, "cross": K, "down": moments.down + K.T @ K, "up": moments.up + K @ K.T}
    for name, value in expected.items():
        error = jnp.std(batches[name], axis=0) / 200**0.5
        assert float(jnp.max(jnp.abs(jnp.mean(batches[name], axis=0) - value) / error)) < 4, name
        assert float(jnp.max(error) / jnp.max(jnp.abs(value))) < 0.02, name  # sharp enough to fail


def test_matched_samples_have_the_gradient_covariance_of_the_population():
    """Σ, the noise of the SDE, against that of many fresh samples."""
    params, V, cov_x, cov_noise = off_minimum()
    exact = ne.gradient_covariance(population(V, cov_x, cov_noise, linear.loss), params)
    fresh = ne.Problem(linear.loss, ne.Stream(ne.data.LinearTeacher(V, cov_x, cov_noise)))
    parts = [
        ne.gradient_covariance(fresh.sampled(key, 2000), params) for key in jax.random.split(jax.random.key(0), 40)
    ]
    error = jnp.std(jnp.stack(parts), axis=0) / 40**0.5
    gap = jnp.abs(jnp.mean(jnp.stack(parts), axis=0) * 2000 / 1999 - exact)
    assert float(jnp.max(gap / error)) < 4.5  # 105 entries
    assert float(jnp.max(error) / jnp.max(jnp.abs(exact))) < 0.02


# --- rates -----------------------------------------------------------------------------------------------------------


def test_the_rate_of_the_signs_is_the_noether_flow_of_every_charge():
    """At any point: dC/dt = −κC on exact data, matrix entry by matrix entry."""
    var_x, var_noise, decay = 1.3, 0.4, 0.05
    teacher = ne.data.LinearTeacher(np.array([[0.7]]), var_x * np.eye(1), var_noise * np.eye(1))
    x, y = teacher.noise_matched()
    problem = ne.Problem(rank_one.loss, (x[:, 0], y[:, 0]), decay)
    params = rank_one.init(jax.random.key(0), 4)
    gap = float(jnp.vdot(params.up, params.down)) - 0.7
    rate = ne.exact.sign_alignment_rate(NOISE_SCALE, var_x, var_noise, gap, decay)
    flow = ne.noether_flow(problem, params, rank_one.symmetry, NOISE_SCALE)
    np.testing.assert_allclose(flow, -rate * rank_one.symmetry.charge(params), rtol=1e-11)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_norm_follows_the_flow_along_the_orbit(decay):
    x = np.array([[1.0, 0.5], [-0.3, 2.0], [0.4, -1.0]])
    problem = ne.Problem(ne.models.scale_invariant.loss, (jnp.asarray(x), jnp.array([0.5, -1.0, 0.3])), decay)
    start, symmetry = jnp.array([0.6, 0.3]), ne.models.scale_invariant.symmetry
    moments = ne.noise_moments(problem, start, symmetry)
    times = jnp.array([0.0, 0.5, 20.0])
    noise = symmetry.charge(start) * moments.noise_plus
    norm = ne.exact.scale_invariant_norm(jnp.linalg.norm(start), noise, NOISE_SCALE, times, decay)
    expected = ne.orbit_flow(problem, start, symmetry, NOISE_SCALE, times).charge
    np.testing.assert_allclose(norm**2, expected, rtol=1e-9)  # orbit_flow integrates numerically


# --- wrong arguments -------------------------------------------------------------------------------------------------

EYE = np.eye(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ne.exact.two_layer_equilibrium(np.ones(2), EYE, EYE, 2), r"V has shape \(2,\); expected a matrix"),
        (lambda: ne.exact.two_layer_equilibrium(np.full((2, 2), np.nan), EYE, EYE, 2), "V holds a number that is not"),
        (
            lambda: ne.exact.two_layer_equilibrium(EYE, np.eye(3), EYE, 2),
            r"cov_x has shape \(3, 3\); expected \(2, 2\)",
        ),
        (lambda: ne.exact.two_layer_equilibrium(EYE, EYE, np.diag([1.0, 0.0]), 2), "cov_noise is not symmetric posit"),
        (lambda: ne.exact.two_layer_equilibrium(EYE, np.triu(np.ones((2, 2))), EYE, 2), "cov_x is not symmetric"),
        (lambda: ne.exact.two_layer_equilibrium(EYE, EYE, EYE, 0), "a hidden width is 0; expected an integer of at"),
        (lambda: ne.exact.deep_linear_equilibrium(EYE, EYE, EYE, []), "widths is empty; expected the hidden widths"),
        (lambda: ne.exact.deep_linear_equilibrium(EYE, EYE, EYE, [2, 2.0]), "a hidden width is 2.0; expected an int"),
        (lambda: ne.exact.hessian_trace(EYE, np.ones((3, 2)), EYE), r"weights 1 and 2 have shapes \(3, 2\) and \(2, 2"),
        (lambda: ne.exact.deep_hessian_trace([], EYE), "params is empty; expected the weights"),
        (
            lambda: ne.exact.residual_moments(np.ones((2, 3)), EYE, EYE, EYE),
            r"the product has shape \(2, 3\); expected",
        ),
        (lambda: ne.exact.balanced_factors(EYE, EYE, 0 * EYE, 2), "up_noise is not symmetric positive definite"),
        (lambda: ne.exact.initial_hessian_trace(EYE, 2, True, 1.0, 1.0), "d_out is True; expected an integer"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
