"""Moving along orbits to where an objective is least: closed forms, searches, and the function that stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

import noise_equilibrium as ne

DATA = 40


def network(key, sizes=(3, 6, 5, 2)):
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, (n, m)), "b": 0.3 * jax.random.normal(jax.random.fold_in(k, 1), (n,))}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def outputs(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(layer["w"] @ x + layer["b"])
    return params[-1]["w"] @ x + params[-1]["b"]


def loss(params, sample):
    return jnp.sum((outputs(params, sample[0]) - sample[1]) ** 2)


def relu_problem(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    data = jax.random.normal(keys[0], (DATA, 3)), jax.random.normal(keys[1], (DATA, 2))
    return ne.Problem(loss, data), network(keys[2])


def neurons(layer):
    return ne.neuron_rescaling(
        [(lambda p: p[layer]["w"], 0), (lambda p: p[layer]["b"], 0)], (lambda p: p[layer + 1]["w"], 1)
    )


def linear_problem(seed=1):
    keys = jax.random.split(jax.random.key(seed), 4)
    data = jax.random.normal(keys[0], (DATA, 3)), jax.random.normal(keys[1], (DATA, 2))
    problem = ne.Problem(lambda p, z: jnp.sum((p["u"] @ (p["w"] @ z[0]) - z[1]) ** 2), data)
    return problem, {"u": jax.random.normal(keys[2], (2, 2)), "w": jax.random.normal(keys[3], (2, 3))}


ROTATION = ne.double_rotation(lambda p: p["u"], lambda p: p["w"])


def value_of(objective, problem):
    def gradient_norm(params):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(lambda p: problem.risk(p))(params)))

    def sharpness(params):
        vector, unflatten = ne.flatten(params)
        return jnp.trace(jax.hessian(lambda v: problem.risk(unflatten(v)))(vector))

    return {
        "noise": lambda params: ne.noise_trace(problem, params),
        "norm": lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)),
        "gradient": gradient_norm,
        "flattest": sharpness,
    }[objective]


@pytest.mark.parametrize("objective", slow_but(["noise", "norm", "gradient", "flattest"], "noise", "flattest"))
@pytest.mark.parametrize("kind", [pytest.param("relu", marks=pytest.mark.slow), "linear"])
def test_closed_forms_are_least_and_keep_the_function(objective, kind):
    problem, params = relu_problem() if kind == "relu" else linear_problem()
    symmetry = neurons(0) if kind == "relu" else ROTATION
    moved = ne.move_along(problem, params, symmetry, objective)
    assert int(moved.status) == ne.Status.CONVERGED
    assert float(moved.residual) < 1e-9
    np.testing.assert_allclose(problem.risk(moved.params), problem.risk(params), rtol=1e-11)
    value = value_of(objective, problem)
    least = value(moved.params)
    assert least < value(params)
    for key in jax.random.split(jax.random.key(5), 6):  # all around it is more, by the square of the distance
        element = jax.random.normal(key, jnp.shape(moved.element))
        element = 0.02 * (element + element.T) if kind == "linear" else 0.02 * element
        assert value(symmetry.act(moved.params, element)) > least


@pytest.mark.parametrize("objective", [pytest.param(o, marks=pytest.mark.slow) for o in ("norm", "noise", "gradient")])
def test_a_function_finds_the_point_of_the_closed_form(objective):
    problem, params = relu_problem()
    both = [neurons(0), neurons(1)]
    exact = ne.move_along(problem, params, both, objective)
    searched = ne.move_along(problem, params, both, value_of(objective, problem))
    assert int(searched.status) == ne.Status.CONVERGED
    for one, other in zip(jax.tree.leaves(exact.params), jax.tree.leaves(searched.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5)


def test_the_least_norm_is_the_balance_of_weight_decay_alone():
    problem, params = linear_problem()
    moved = ne.move_along(problem, params, ROTATION, "norm")
    np.testing.assert_allclose(ROTATION.charge(moved.params), jnp.zeros((2, 2)), atol=1e-12)


@pytest.mark.slow
def test_least_noise_is_the_noise_equilibrium_without_decay():
    problem, params = relu_problem()
    decayed = ne.Problem(problem.loss, problem.data, 0.1)
    there = ne.find_equilibrium(problem, params, [neurons(0), neurons(1)], 0.3)
    moved = ne.move_along(decayed, params, [neurons(0), neurons(1)], "noise")
    for one, other in zip(jax.tree.leaves(there.params), jax.tree.leaves(moved.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_equalisation_makes_the_largest_entries_of_a_neuron_equal():
    problem, params = relu_problem()
    params[0]["w"] = params[0]["w"].at[2].multiply(50.0)
    moved = ne.move_along(problem, params, neurons(0), "largest_entry")
    incoming = jnp.maximum(jnp.max(jnp.abs(moved.params[0]["w"]), 1), jnp.abs(moved.params[0]["b"]))
    np.testing.assert_allclose(incoming, jnp.max(jnp.abs(moved.params[1]["w"]), 0), rtol=1e-12)
    np.testing.assert_allclose(problem.risk(moved.params), problem.risk(params), rtol=1e-11)
    assert int(moved.status) == ne.Status.CONVERGED


def test_equalisation_of_a_chain_of_layers():
    sizes = (3, 8, 7, 9, 8, 6, 2)
    params = network(jax.random.key(3), sizes)
    for place, layer in enumerate(params):
        layer["w"] *= 10.0 ** ((-1) ** place)
    data = jax.random.normal(jax.random.key(4), (5, 3)), jnp.zeros((5, 2))
    problem = ne.Problem(loss, data)
    moved = ne.move_along(problem, params, [neurons(place) for place in range(5)], "largest_entry")
    assert int(moved.status) == ne.Status.CONVERGED, moved.residual
    np.testing.assert_allclose(problem.risk(moved.params), problem.risk(params), rtol=1e-10)


def test_equalisation_with_unequal_powers_is_least():
    legs = [ne.Leg(lambda p: p["a"], 0, 1), ne.Leg(lambda p: p["c"], 0, 3), ne.Leg(lambda p: p["d"], 0, -2)]
    keys = jax.random.split(jax.random.key(0), 3)
    params = {name: jax.random.normal(key, (4, 5)) for name, key in zip("acd", keys, strict=True)}
    symmetry = ne.Symmetry(legs, "diagonal")
    problem = ne.Problem(lambda p, z: z * jnp.sum(p["a"]), jnp.ones(2))
    moved = ne.move_along(problem, params, symmetry, "largest_entry")

    def largest(params):
        return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), 1) for leaf in params.values()]), 0)

    for step in (-1e-3, 1e-3):
        assert jnp.all(largest(symmetry.act(moved.params, jnp.full(4, step))) > largest(moved.params))


@pytest.mark.slow
def test_derivative_of_a_moved_point():
    problem, params = relu_problem()

    def moved(scale):
        scaled = jax.tree.map(lambda leaf: leaf * scale, params)
        found = ne.move_along(problem, scaled, neurons(0), value_of("norm", problem))
        return jnp.sum(found.params[0]["w"] ** 3)

    exact = jax.grad(lambda s: jnp.sum(
        ne.move_along(problem, jax.tree.map(lambda leaf: leaf * s, params), neurons(0), "norm").params[0]["w"] ** 3
    ))(1.0)  # fmt: skip
    step = 1e-5
    difference = (moved(1 + step) - moved(1 - step)) / (2 * step)
    np.testing.assert_allclose(exact, difference, rtol=1e-3)
    np.testing.assert_allclose(jax.grad(moved)(1.0), exact, rtol=1e-5)


@pytest.mark.slow
def test_a_function_is_at_rest_where_it_is_least_whatever_its_units():
    problem, params = linear_problem()
    there = ne.move_along(problem, params, ROTATION, "norm").params
    for unit in (1.0, 1e-12):
        again = ne.move_along(problem, there, ROTATION, lambda p, u=unit: u * value_of("norm", problem)(p))
        assert int(again.status) == ne.Status.CONVERGED
        moved = ne.move_along(problem, params, ROTATION, lambda p, u=unit: u * value_of("norm", problem)(p))
        assert int(moved.status) == ne.Status.CONVERGED
        np.testing.assert_allclose(ROTATION.charge(moved.params), jnp.zeros((2, 2)), atol=1e-6)


def test_there_is_no_flattest_point_where_curvature_is_negative():
    problem = ne.Problem(lambda p, z: -((p["u"] * p["w"] - z) ** 2), jnp.array([0.0, 2.0]))
    params = {"u": jnp.array(3.0), "w": jnp.array(0.3)}
    moved = ne.move_along(problem, params, ne.rescaling(lambda p: p["u"], lambda p: p["w"]), "flattest")
    assert int(moved.status) == ne.Status.NOT_CONVERGED


@pytest.mark.slow
def test_in_single_precision_and_inside_jit():
    with jax.enable_x64(False):
        problem, params = relu_problem()
        find = jax.jit(lambda params: ne.move_along(problem, params, [neurons(0), neurons(1)], "noise"))
        moved = find(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))
        assert int(moved.status) == ne.Status.CONVERGED
        assert moved.params[0]["w"].dtype == jnp.float32
    exact = ne.move_along(problem, params, [neurons(0), neurons(1)], "noise")
    for one, other in zip(jax.tree.leaves(moved.params), jax.tree.leaves(exact.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_bad_objectives_are_refused():
    problem, params = relu_problem()
    with pytest.raises(ValueError, match=r"objective is 'sharpest'; expected one of 'noise', 'norm'"):
        ne.move_along(problem, params, neurons(0), "sharpest")
    with pytest.raises(ValueError, match=r"the objective returned an array of shape \(6,\)"):
        ne.move_along(problem, params, neurons(0), lambda p: p[0]["b"])
    with pytest.raises(ValueError, match="shares a parameter with another symmetry"):
        ne.move_along(problem, params, [neurons(0), neurons(1)], "flattest")
    for objective in ("largest_entry", lambda p: jnp.sum(p[0]["w"] ** 2)):
        with pytest.raises(ValueError, match=r"symmetry is \[\]; expected one Symmetry, or a sequence"):
            ne.move_along(problem, params, [], objective)
    linear, start = linear_problem()
    with pytest.raises(ValueError, match=r"one of matrices or of a generator; expected scalar or diagonal"):
        ne.move_along(linear, start, ROTATION, "largest_entry")
