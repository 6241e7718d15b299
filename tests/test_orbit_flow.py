"""Motion along an orbit under the noise alone, and the two times of Section 4.2."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

NOISE_SCALE = 0.05
linear_problem = functools.partial(problems.linear_problem, d_out=3, d=4, d_in=3, samples=40)
TIMES = np.array([0.0, 0.3, 1.0, 4.0, 2000.0])  # NumPy keeps double precision at import


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_scaling_is_at_its_closed_form(decay):
    """‖θ(t)‖⁴ = ‖θ*‖⁴ + (‖θ(0)‖⁴ − ‖θ*‖⁴)e^{−8γt}, and ‖θ(0)‖⁴ + 4σ²Kt without decay."""
    problem, start = problems.scale_free_problem(decay)
    constant = jnp.sum(start**2) * jnp.trace(ne.gradient_covariance(problem, start))
    fourth = jnp.sum(start**2) ** 2
    if decay:
        end = NOISE_SCALE * constant / (2 * decay)
        expected = end + (fourth - end) * jnp.exp(-8 * decay * TIMES)
    else:
        expected = fourth + 4 * NOISE_SCALE * constant * TIMES
    for symmetry in (ne.scaling(), ne.exponential_symmetry(np.eye(3))):
        moved = ne.orbit_flow(problem, start, symmetry, NOISE_SCALE, TIMES)
        np.testing.assert_allclose(moved.charge**2, expected, rtol=1e-8)
        for element, charge in zip(moved.element, moved.charge, strict=True):
            np.testing.assert_allclose(symmetry.charge(symmetry.act(start, element)), charge, rtol=1e-12)


SYMMETRIES = {
    **problems.SYMMETRIES,
    "blocks": problems.BLOCKS,
}


@pytest.mark.parametrize(
    "law",
    [NOISE_SCALE, pytest.param(ne.SGD(0.1, 2), marks=pytest.mark.slow)],
    ids=["continuous", "discrete"],
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("symmetric", "blocks") else []) for name in SYMMETRIES],
)
def test_the_flow_starts_at_the_noether_flow_and_ends_at_the_equilibrium(name, law):
    problem, start = linear_problem(decay=0.02)
    symmetry, step = SYMMETRIES[name], 1e-4
    times = jnp.array([0.0, step, 2 * step, 3000.0])
    charge = ne.orbit_flow(problem, start, symmetry, law, times).charge
    np.testing.assert_allclose(charge[0], symmetry.charge(start), atol=1e-13)
    slope = (4 * charge[1] - 3 * charge[0] - charge[2]) / (2 * step)  # right to O(step²)
    expected = ne.noether_flow(problem, start, symmetry, law)
    np.testing.assert_allclose(slope, expected, atol=1e-5 * float(jnp.max(jnp.abs(expected))))
    there = symmetry.charge(ne.find_equilibrium(problem, start, symmetry, law).params)
    if name in ("symmetric", "blocks"):
        np.testing.assert_allclose(jnp.linalg.eigvalsh(charge[-1]), jnp.linalg.eigvalsh(there), atol=1e-7)
    else:
        np.testing.assert_allclose(charge[-1], there, atol=1e-7)


@pytest.mark.slow
def test_sgd_follows_the_flow_from_an_unbalanced_minimum():
    """The gap of SGD's mean charge to the flow is O(η) or smaller: at η/2 it is at most half, and small."""
    problem, _ = linear_problem(d=3)
    exact = jnp.linalg.lstsq(*problem.data)[0].T
    start = linear.Params(2 * jnp.eye(3), exact / 2)
    symmetry = SYMMETRIES["scalar"]
    gaps, errors = [], []
    for rate in (0.004, 0.002):
        sgd = ne.SGD(rate, 1)
        steps = 2 * round(6 / rate / rate * 0.004)
        times = rate * jnp.array([0.0, steps / 2, steps])
        flow = ne.orbit_flow(problem, start, symmetry, sgd, times).charge

        def run(key, sgd=sgd, steps=steps):
            return ne.simulate(
                problem, sgd, start, steps, key=key, observe={"q": symmetry.charge}, every=steps // 2
            ).observed["q"]

        seen = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 256))
        assert abs(flow[-1] - flow[0]) > 0.2 * abs(flow[0])
        gaps.append(float(jnp.mean(seen[:, -1]) - flow[-1]))
        errors.append(float(jnp.std(seen[:, -1]) / 16))
    assert abs(gaps[1]) < abs(gaps[0]) / 2 + 4 * np.hypot(errors[0] / 2, errors[1])
    assert abs(gaps[1]) < 0.02 * abs(float(flow[-1] - flow[0]))


def test_the_time_of_the_loss_is_that_of_its_softest_direction():
    """The least non-zero eigenvalue 2(a_i + b_j) at a minimum with Σ_x = I; t_equi is 1/κ."""
    draw = np.random.default_rng(0)
    up, down = draw.normal(size=(2, 3)), draw.normal(size=(3, 2))
    signed = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
    x, noise = (jnp.asarray(np.array(part)) for part in zip(*itertools.product(signed, signed), strict=True))
    problem = ne.Problem(linear.loss, (x, x @ (up @ down).T + 0.3 * noise))
    start = linear.Params(jnp.asarray(up), jnp.asarray(down))
    scales = ne.time_scales(problem, start, linear.symmetry, NOISE_SCALE)
    curvatures = 2 * (np.linalg.eigvalsh(up @ up.T)[:, None] + np.linalg.eigvalsh(down.T @ down)[None])
    np.testing.assert_allclose(1 / scales.erm, curvatures.min(), rtol=1e-10)
    rates = ne.relaxation_rates(problem, start, linear.symmetry, NOISE_SCALE)
    np.testing.assert_allclose(1 / scales.equi, rates[0], rtol=1e-12)
    slower = ne.time_scales(problem, start, linear.symmetry, NOISE_SCALE / 10)
    np.testing.assert_allclose([slower.erm, slower.equi], [scales.erm, 10 * scales.equi], rtol=1e-10)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (jnp.zeros((2, 2)), r"times has shape \(2, 2\); expected a vector"),
        (jnp.zeros(0), "expected a vector of at least one time"),
        (jnp.array([0.0, 2.0, 1.0]), "times are not ascending numbers ≥ 0"),
        (jnp.array([-1.0]), "times are not ascending numbers ≥ 0"),
        (jnp.array([jnp.nan]), "times are not ascending numbers ≥ 0"),
    ],
    ids=["matrix", "empty", "descending", "negative", "nan"],
)
def test_bad_times_are_refused(times, message):
    problem, start = linear_problem()
    with pytest.raises(ValueError, match=message):
        ne.orbit_flow(problem, start, linear.symmetry, NOISE_SCALE, times)


def test_a_matrix_free_generator_has_no_orbit_flow():
    problem, start = linear_problem()
    with pytest.raises(ValueError, match="orbit_flow needs the eigenvalues of A"):
        ne.orbit_flow(problem, start, ne.exponential_symmetry(lambda v: v), NOISE_SCALE, TIMES)
