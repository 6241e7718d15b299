"""A diagnosis: its numbers are those of the calls it is made of, and its words say what they say."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_move_along import ROTATION, linear_problem, loss, neurons, relu_problem

import noise_equilibrium as ne

BOTH = [neurons(0), neurons(1)]


@pytest.fixture(scope="module")
def decayed():
    problem, params = relu_problem()
    return ne.Problem(loss, problem.data, 1e-3), params


def test_numbers_are_those_of_the_calls(decayed):
    problem, params = decayed
    dynamics = ne.SGD(0.01, 4)
    found = ne.diagnose(problem, params, dynamics, BOTH)
    balanced = ne.find_equilibrium(problem, params, BOTH, dynamics)
    noise = ne.gradient_noise_scale(problem, params)
    for place, (row, symmetry) in enumerate(zip(found.rows, BOTH, strict=True)):
        charge, flow = symmetry.charge(params), ne.noether_flow(problem, params, symmetry, dynamics)
        np.testing.assert_allclose(row.charge, jnp.linalg.norm(charge), rtol=1e-9)
        np.testing.assert_allclose(row.flow, jnp.linalg.norm(flow), rtol=1e-9)
        rates = ne.relaxation_rates(problem, params, symmetry, dynamics)
        np.testing.assert_allclose(row.slowest_steps, 1 / (0.01 * jnp.min(rates)), rtol=1e-9)
        np.testing.assert_allclose(row.fastest_steps, 1 / (0.01 * jnp.max(rates)), rtol=1e-9)
        factors = jnp.exp(balanced.element[place])
        np.testing.assert_allclose(row.factors, [jnp.min(factors), jnp.max(factors)], rtol=1e-9)
        np.testing.assert_allclose(row.decay_steps, 1 / (4 * 1e-3 * (1 - 1e-5) * 0.01), rtol=1e-9)
        assert 0 < row.noise_share < 1
    np.testing.assert_allclose(found.noise_scale, noise.scale, rtol=1e-9)


@pytest.mark.slow
def test_a_matrix_charge_and_one_without_a_bound():
    problem, params = linear_problem()
    dynamics = ne.SGD(0.01, 4)
    rotation, scale = (ne.diagnose(problem, params, dynamics, one).rows[0] for one in (ROTATION, ne.scaling()))
    element = ne.find_equilibrium(problem, params, ROTATION, dynamics).element
    factors = jnp.exp(jnp.linalg.eigvalsh(element))
    np.testing.assert_allclose(rotation.factors, [factors[0], factors[-1]], rtol=1e-8)
    modes = ne.relaxation_modes(problem, params, ROTATION, dynamics)
    np.testing.assert_allclose(rotation.slowest_steps, 1 / (0.01 * modes.slowest), rtol=1e-8)
    assert rotation.kind == "matrix 2 × 2"
    assert scale.finding.startswith("grows without bound")
    assert scale.factors == (np.inf, np.inf)


def test_words_follow_the_flow(decayed):
    problem, params = decayed
    pushed = {**params[0], "w": 5 * params[0]["w"], "b": 5 * params[0]["b"]}, params[1], params[2]
    (row,) = ne.diagnose(problem, list(pushed), ne.SGD(0.01, 4), neurons(0)).rows
    assert row.push < 0
    assert row.finding.startswith("noise pulls params[1]['w'] up and params[0]['w'], params[0]['b'] down; balanced in ")
    assert "weight decay alone would take 2.5e+04" in row.finding
    there = ne.find_equilibrium(problem, params, neurons(0), ne.SGD(0.01, 4)).params
    (row,) = ne.diagnose(problem, there, ne.SGD(0.01, 4), neurons(0)).rows
    assert row.finding == "balanced by noise"
    assert row.relative_flow < 1e-8


@pytest.mark.slow
def test_a_module_in_single_precision_with_nothing_declared():
    with jax.enable_x64(False):
        model = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))
        keys = jax.random.split(jax.random.key(1))
        data = jax.random.normal(keys[0], (40, 3)), jax.random.normal(keys[1], (40, 2))
        problem = ne.Problem(lambda m, z: jnp.sum((m(z[0]) - z[1]) ** 2), data)
        found = ne.diagnose(problem, model, ne.SGD(0.01, 4))
    (row,) = found.rows
    assert row.kind == "8 scalings"
    printed = str(found)
    assert row.finding in printed
    assert printed.splitlines()[0].startswith("symmetry")
    numbers = found.to_dict()
    assert numbers[f"{row.name}/flow"] == row.flow
    assert all(isinstance(number, float) for number in numbers.values())
    assert list(found.to_dataframe()["flow"]) == [row.flow]
    assert "<td>8 scalings</td>" in found._repr_html_()
    escaped = ne.Diagnosis((dataclasses.replace(row, name="<b>['w']"),), 1.0)
    assert "&lt;b&gt;[&#x27;w&#x27;]" in escaped._repr_html_()


def test_a_model_without_symmetries_says_so():
    problem = ne.Problem(lambda w, z: jnp.tanh(w @ z) ** 2, jax.random.normal(jax.random.key(0), (20, 3)))
    found = ne.diagnose(problem, jnp.array([0.4, -0.2, 0.7]), ne.SGD(0.1, 2))
    assert found.rows == ()
    assert str(found).startswith("no symmetries; gradient noise scale ")


def test_no_table_inside_jit_nor_of_steps_that_are_none(decayed):
    problem, params = decayed
    with pytest.raises(ValueError, match="diagnose puts numbers in a table, and inside jit there are none"):
        jax.jit(lambda p: ne.diagnose(problem, p, ne.SGD(0.1, 2), BOTH).noise_scale)(params)
    with pytest.raises(ValueError, match=r"dynamics is 0.01; expected an SGD, SDE or GD object"):
        ne.diagnose(problem, params, 0.01, BOTH)


def test_the_picture(decayed, tmp_path):
    problem, params = decayed
    report = ne.diagnose(problem, params, ne.SGD(0.01, 4), BOTH)
    with ne.plots.figure(6, 2, 1) as (drawing, (left,)):
        axes = left.subplots()
        ne.plots.diagnosis(axes, report)
        drawing.savefig(tmp_path / "diagnosis.png", dpi=120)
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose([sum(widths[:2]), sum(widths[2:])], [row.push for row in report.rows])


@pytest.mark.slow
def test_decay_is_named_where_it_is_what_pulls():
    """Where noise is balanced and weights are not, the whole pull is that of the decay."""
    problem, params = linear_problem()
    there = ne.find_equilibrium(problem, params, ROTATION, 0.01).params
    decayed = ne.Problem(problem.loss, problem.data, 0.01)
    (row,) = ne.diagnose(decayed, there, ne.SDE(0.02, 1), ROTATION).rows
    np.testing.assert_allclose(row.push, row.decay_push, atol=1e-9)
    assert "weight decay pulls" in row.finding or row.finding.startswith("balanced")


def test_a_generator_with_both_signs_does_not_grow_without_bound():
    problem = ne.Problem(lambda p, z: (p[0] * p[1] - z) ** 2, jnp.array([0.0, 2.0]))
    generator = ne.exponential_symmetry(jnp.diag(jnp.array([1.0, -1.0])))
    (row,) = ne.diagnose(problem, jnp.array([3.0, 1.0]), ne.SGD(0.01, 1), generator).rows
    assert row.finding.startswith("noise pulls a generator")


@pytest.mark.slow
def test_numbers_of_legs_are_of_the_charge_that_they_divide():
    problem, params = linear_problem()
    law = ne.Preconditioned(0.01, 1, 4.0, 1.0)
    (row,) = ne.diagnose(problem, params, law, ROTATION).rows
    plus, minus = params["u"].T @ params["u"] / 4, params["w"] @ params["w"].T
    np.testing.assert_allclose(row.charge, jnp.linalg.norm(plus - minus), rtol=1e-9)


@pytest.mark.slow
def test_of_blocks_the_fastest_is_that_of_all():
    problem, params = linear_problem()
    blocks = ne.double_rotation(lambda p: p["u"], lambda p: p["w"], blocks=2)
    (row,) = ne.diagnose(problem, params, ne.SGD(0.01, 4), blocks).rows
    rates = ne.relaxation_rates(problem, params, blocks, ne.SGD(0.01, 4))
    np.testing.assert_allclose(row.fastest_steps, 1 / (0.01 * jnp.max(rates)), rtol=1e-9)
