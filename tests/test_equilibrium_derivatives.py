"""Derivatives of the equilibrium three ways: implicit (forward and reverse), re-solved, and by finite differences.

Every case is one functional h(t): t moves the parameters, γ, σ² and the data along fixed directions, h sums the
equilibrium's parameters and element with fixed random weights. One compiled program per algebra returns h, its
directional derivative, its gradient and both mixed second derivatives. Widths below 5 are zero rows and columns, so
that R and T have the ranks of the smaller network and all share that program.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import SYMMETRIES

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

D, SAMPLES = 5, 100
DECAY, NOISE_SCALE = 0.1, 0.05
STEP = 1e-3  # fourth-order differences: truncation ~ h⁴ = 1e-12, rounding ~ 1e-13/h = 1e-10
DIRECTIONS = np.array([0.7, 0.4, -0.6, 0.5])


def masked(d_out, d_in, params, data):
    """(U, W) and (x, y), zero beyond the widths d_out and d_in; NumPy, to keep double precision when made at import."""
    (up, down), (x, y) = params, data
    outputs, inputs = np.arange(D) < d_out, np.arange(D) < d_in
    return linear.Params(up * outputs[:, None], down * inputs), (x * inputs, y * outputs)


def directions(d_out, d_in):
    draw = np.random.default_rng(1)
    params = 0.3 * draw.normal(size=(2, D, D))
    return masked(d_out, d_in, params, draw.normal(size=(2, SAMPLES, D)))


def network(d_out, d_in):
    """Well-conditioned weights, so that finite differences are good to many digits."""
    draw = np.random.default_rng(0)
    spread = np.geomspace(0.7, 1.4, D)
    up, down = (np.linalg.qr(draw.normal(size=(D, D)))[0] for _ in range(2))
    params = spread[:, None] * up, down * spread
    return *masked(d_out, d_in, params, draw.normal(size=(2, SAMPLES, D))), *directions(d_out, d_in)


def isotropic():
    """U, W, R and T are multiples of the identity: every eigenvalue is equal, and the derivative is not."""
    signed = np.sqrt(D) * np.concatenate([np.eye(D), -np.eye(D)])
    x, noise = (np.array(part) for part in zip(*itertools.product(signed, signed), strict=True))
    start = linear.Params(1.5 * np.eye(D), 0.8 * np.eye(D))
    return start, (x, x + 0.5 * noise), *directions(D, D)


CASES = {
    "5-5-5": network(5, 5),
    "3-5-3": network(3, 3),
    "4-5-3": network(4, 3),
    "3-5-4": network(3, 4),
    "equal-eigenvalues": isotropic(),
}
STATUS = dict.fromkeys(CASES, ne.Status.CONVERGED) | {"4-5-3": ne.Status.LIMIT, "3-5-4": ne.Status.LIMIT}


def moved(case, decay, t):
    """The problem, start and law at t."""
    start, data, params_direction, data_direction = case
    params = jax.tree.map(lambda a, b: a + t[0] * b, start, params_direction)
    samples = jax.tree.map(lambda a, b: a + t[3] * b, data, data_direction)
    return ne.Problem(linear.loss, samples, decay * (1 + t[1])), params, NOISE_SCALE * (1 + t[2])


def functional(symmetry, case, decay, t):
    problem, params, noise_scale = moved(case, decay, t)
    found = ne.find_equilibrium(problem, params, symmetry, noise_scale)
    keys = jax.random.split(jax.random.key(9), 3)
    outputs = [*found.params, found.element]
    return sum(
        jnp.sum(jax.random.normal(key, array.shape) * array) for key, array in zip(keys, outputs, strict=True)
    ), found.status


@functools.cache
def program(name):
    """h, dh·v, ∇h, and ∇²h v forward over reverse and reverse over reverse, v = DIRECTIONS."""
    symmetry = SYMMETRIES[name]

    @jax.jit
    def derivatives(case, decay, t):
        def h(t):
            return functional(symmetry, case, decay, t)[0]

        gradient, forward_over_reverse = jax.jvp(jax.grad(h), (t,), (jnp.asarray(DIRECTIONS),))
        reverse_over_reverse = jax.grad(lambda t: jnp.vdot(jax.grad(h)(t), jnp.asarray(DIRECTIONS)))(t)
        value, slope = jax.jvp(h, (t,), (jnp.asarray(DIRECTIONS),))
        return value, slope, gradient, forward_over_reverse, reverse_over_reverse

    return derivatives


def differences(function, direction):
    """The fourth-order central difference at 0."""
    values = {k: np.asarray(function(k * STEP * direction)) for k in (-2, -1, 1, 2)}
    return (values[-2] - 8 * values[-1] + 8 * values[1] - values[2]) / (12 * STEP)


ALL = [("symmetric", case) for case in CASES] + [("scalar", "5-5-5"), ("diagonal", "5-5-5")]
QUICK = ("symmetric-3-5-4", "scalar-5-5-5")


@pytest.mark.parametrize("decay", [0.0, DECAY], ids=["without-decay", "with-decay"])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(*pair, id="-".join(pair), marks=[] if "-".join(pair) in QUICK else [pytest.mark.slow])
        for pair in ALL
    ],
)
def test_derivatives_are_finite_differences(name, case, decay):
    derivatives, zero = program(name), jnp.zeros(4)

    def at(t):
        return derivatives(CASES[case], decay, t)

    _, slope, gradient, forward_over_reverse, reverse_over_reverse = at(zero)
    numerical = np.array([differences(lambda t: at(t)[0], unit) for unit in jnp.eye(4)])
    size = float(np.max(np.abs(numerical)))
    np.testing.assert_allclose(gradient, numerical, rtol=1e-7, atol=1e-8 * size)
    np.testing.assert_allclose(slope, jnp.vdot(gradient, jnp.asarray(DIRECTIONS)), rtol=1e-9, atol=1e-10 * size)
    second = differences(lambda t: at(t)[2], jnp.asarray(DIRECTIONS))
    size = float(np.max(np.abs(second)))
    np.testing.assert_allclose(forward_over_reverse, second, rtol=1e-6, atol=1e-7 * size)
    np.testing.assert_allclose(reverse_over_reverse, forward_over_reverse, rtol=1e-8, atol=1e-9 * size)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_of_the_kind_they_claim(case):
    for decay in (0.0, DECAY):
        problem, params, noise_scale = moved(CASES[case], decay, jnp.zeros(4))
        found = ne.find_equilibrium(problem, params, linear.symmetry, noise_scale)
        assert found.status == STATUS[case]
        assert found.residual <= 1e-9


def test_the_scalar_derivative_is_that_of_a_resolved_root():
    """Newton's method on G(λ) = 0, unrolled and differentiated step by step, against the implicit derivative."""
    symmetry, case = SYMMETRIES["scalar"], CASES["5-5-5"]

    def flow(t, element):
        problem, params, noise_scale = moved(case, DECAY, t)
        return ne.noether_flow(problem, symmetry.act(params, element), symmetry, noise_scale)

    def unrolled(t):
        def newton(element, _):
            rate, slope = jax.jvp(lambda element: flow(t, element), (element,), (jnp.ones(()),))
            return element - rate / slope, None

        return jax.lax.scan(newton, jnp.zeros(()), length=12)[0]

    def implicit(t):
        problem, params, noise_scale = moved(case, DECAY, t)
        return ne.find_equilibrium(problem, params, symmetry, noise_scale).element

    zero = jnp.zeros(4)
    element, slope = jax.jit(lambda t: jax.jvp(unrolled, (t,), (jnp.asarray(DIRECTIONS),)))(zero)
    np.testing.assert_allclose(implicit(zero), element, rtol=1e-11)
    np.testing.assert_allclose(jnp.vdot(jax.grad(implicit)(zero), jnp.asarray(DIRECTIONS)), slope, rtol=1e-9)


def test_the_scalar_derivative_is_the_implicit_function_theorem():
    """∂λ* = −∂_θG/∂_λG (Theorem 4.3), with both slopes of G by automatic differentiation at λ*."""
    symmetry, case = SYMMETRIES["scalar"], CASES["5-5-5"]
    zero = jnp.zeros(4)

    def flow(t, element):
        problem, params, noise_scale = moved(case, DECAY, t)
        return ne.noether_flow(problem, symmetry.act(params, element), symmetry, noise_scale)

    def implicit(t):
        problem, params, noise_scale = moved(case, DECAY, t)
        return ne.find_equilibrium(problem, params, symmetry, noise_scale).element

    element = implicit(zero)
    by_t, by_element = jax.grad(flow, (0, 1))(zero, element)
    np.testing.assert_allclose(jax.grad(implicit)(zero), -by_t / by_element, rtol=1e-9, atol=1e-12)


def test_the_residual_has_no_slope_where_nothing_acts():
    """‖0‖ has derivative 0, not NaN: every sample of this loss is 0."""
    problem = ne.Problem(lambda params, sample: sample * jnp.sum(params.up @ params.down), jnp.zeros(3))

    def residual(scale):
        params = linear.Params(scale * jnp.ones((1, 2)), jnp.ones((2, 1)))
        return ne.find_equilibrium(problem, params, SYMMETRIES["scalar"], NOISE_SCALE).residual

    assert residual(1.5) == 0
    assert jax.grad(residual)(1.5) == 0


def test_descent_through_the_solver_finds_the_label_noise_of_the_flattest_equilibrium():
    """Tr∇²L at the equilibrium over label noise of variances (e^a, e^{−a}): least at a = 0, 4√(d_y Tr Σ_x)‖V‖_*."""
    V = np.random.default_rng(3).normal(size=(2, 2))
    signed = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    x, unit = (jnp.asarray(np.array(part)) for part in zip(*itertools.product(signed, signed), strict=True))
    start = linear.Params(jnp.eye(2), jnp.asarray(V))

    def sharpness(level):
        noise = unit * jnp.exp(jnp.stack([level, -level]) / 2)
        problem = ne.Problem(linear.loss, (x, x @ V.T + noise))
        up, down = ne.find_equilibrium(problem, start, linear.symmetry, NOISE_SCALE).params
        return 2 * (2 * jnp.sum(down**2) + 2 * jnp.sum(up**2))  # Proposition 5.3

    slope = jax.jit(jax.value_and_grad(sharpness))
    level, first = jnp.asarray(1.0), slope(jnp.asarray(1.0))[0]
    for _ in range(60):
        value, gradient = slope(level)
        level = level - 0.3 * gradient
    np.testing.assert_allclose(level, 0, atol=1e-6)
    np.testing.assert_allclose(value, 4 * 2 * np.linalg.norm(V, "nuc"), rtol=1e-10)
    assert first > 1.01 * value
