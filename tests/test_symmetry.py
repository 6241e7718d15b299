"""Symmetries: charges, the group action, its generator, and legs that do not fit."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import noise_equilibrium as ne

U, W, B = normal(1, 2, 6), normal(2, 6, 4), normal(3, 6)
PARAMS = {"u": U, "w": W, "b": B, "other": normal(4, 3), "act": jnp.tanh}


def legs(axis_u=1, axis_w=0, blocks=1, powers=(1, -1)):
    return [ne.Leg(leaf("u"), axis_u, powers[0], blocks), ne.Leg(leaf("w"), axis_w, powers[1], blocks)]


def symmetric(seed, *shape):
    element = 0.2 * normal(seed, *shape)
    return element + np.swapaxes(element, -1, -2)


# Every symmetry with an element and another that commutes with it.
SYMMETRIES = {
    "scaling": (ne.scaling(), np.float64(0.3), np.float64(-0.5)),
    "rescaling": (ne.rescaling(leaf("u"), [leaf("w"), leaf("b")]), np.float64(0.3), np.float64(-0.5)),
    "scalar-blocks": (ne.Symmetry(legs(blocks=3), "scalar"), normal(5, 3), normal(6, 3)),
    "neurons": (
        ne.neuron_rescaling([(leaf("w"), 0), (leaf("b"), 0)], (leaf("u"), -1)),
        normal(5, 6),
        normal(6, 6),
    ),
    "homogeneous": (ne.Symmetry(legs(powers=(-2.5, 1)), "diagonal"), 0.3 * normal(5, 6), 0.3 * normal(6, 6)),
    "diagonal-blocks": (ne.Symmetry(legs(blocks=2), "diagonal"), normal(5, 2, 3), normal(6, 2, 3)),
    "rotation": (ne.double_rotation(leaf("u"), leaf("w")), symmetric(5, 6, 6), 0.5 * symmetric(5, 6, 6)),
    "heads": (
        ne.double_rotation(leaf("u"), leaf("w"), blocks=3),
        symmetric(5, 3, 2, 2),
        -0.7 * symmetric(5, 3, 2, 2),
    ),
}
every_symmetry = pytest.mark.parametrize("name", SYMMETRIES)


def close(a, b, rtol=1e-13):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if callable(one):
            assert one is other
        else:
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.max(np.abs(other)))


# --- charges ---------------------------------------------------------------------------------------------------------


CHARGES = {
    "scaling": sum(np.sum(PARAMS[k] ** 2) for k in ("u", "w", "b", "other")),
    "rescaling": np.sum(U**2) - np.sum(W**2) - np.sum(B**2),
    "scalar-blocks": np.sum(U.reshape(2, 3, 2) ** 2, (0, 2)) - np.sum(W.reshape(3, 2, 4) ** 2, (1, 2)),
    "neurons": np.sum(W**2, 1) + B**2 - np.sum(U**2, 0),
    "homogeneous": np.sum(W**2, 1) - 2.5 * np.sum(U**2, 0),
    "diagonal-blocks": (np.sum(U**2, 0) - np.sum(W**2, 1)).reshape(2, 3),
    "rotation": U.T @ U - W @ W.T,
    "heads": np.stack([(U.T @ U - W @ W.T)[2 * h : 2 * h + 2, 2 * h : 2 * h + 2] for h in range(3)]),
}


@every_symmetry
def test_charge_in_closed_form(name):
    charge = SYMMETRIES[name][0].charge(PARAMS)
    assert charge.shape == np.shape(SYMMETRIES[name][1])
    np.testing.assert_allclose(charge, CHARGES[name], rtol=1e-13, atol=1e-13)


def test_charge_works_under_jit_vmap_and_grad():
    symmetry = ne.rescaling(leaf("u"), leaf("w"))
    params = {"u": U, "w": W}
    gradient = jax.grad(jax.jit(symmetry.charge))(jax.tree.map(jnp.asarray, params))
    close(gradient, {"u": 2 * U, "w": -2 * W})
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    charge = float(symmetry.charge(params))
    np.testing.assert_allclose(jax.vmap(symmetry.charge)(batch), [charge, 4 * charge], rtol=1e-13)


# --- the action and its generator ------------------------------------------------------------------------------------


@every_symmetry
def test_act_is_a_group_action(name):
    symmetry, a, b = SYMMETRIES[name]
    close(symmetry.act(symmetry.act(PARAMS, a), b), symmetry.act(PARAMS, a + b), rtol=1e-12)
    close(symmetry.act(symmetry.act(PARAMS, a), -a), PARAMS, rtol=1e-12)
    close(symmetry.act(PARAMS, 0 * a), PARAMS)


@every_symmetry
def test_generator_is_the_derivative_of_act(name):
    symmetry, element, _ = SYMMETRIES[name]

    def orbit(rho):
        return ne.flatten(symmetry.act(PARAMS, rho * element))[0]

    tangent = jax.jvp(orbit, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(ne.flatten(symmetry.generator(PARAMS, element))[0], tangent, rtol=1e-12, atol=1e-14)


@every_symmetry
def test_charge_of_an_element_is_the_product_with_the_generator(name):
    """C_B = θᵀAθ = Tr[B Q], Eq. (6)."""
    symmetry, element, _ = SYMMETRIES[name]
    theta, _ = ne.flatten(PARAMS)
    tangent, _ = ne.flatten(symmetry.generator(PARAMS, element))
    charge = symmetry.charge(PARAMS)
    np.testing.assert_allclose(theta @ tangent, np.sum(element * charge), rtol=1e-12)


def test_act_is_the_matrix_exponential_on_both_sides():
    symmetry, element, _ = SYMMETRIES["rotation"]
    values, vectors = np.linalg.eigh(element)
    p, inverse = (vectors * np.exp(sign * values) @ vectors.T for sign in (1, -1))
    moved = symmetry.act(PARAMS, element)
    close((moved["u"], moved["w"]), (U @ p, inverse @ W), rtol=1e-12)
    close(moved["u"] @ moved["w"], U @ W, rtol=1e-12)


def test_act_by_an_integer_element_does_not_round_the_power():
    symmetry = ne.Symmetry([ne.Leg(leaf("u"), power=0.5), ne.Leg(leaf("w"), power=-1)], "scalar")
    close(symmetry.act(PARAMS, 1)["u"], np.exp(0.5) * U)
    close(symmetry.generator(PARAMS, 2)["u"], 2 * 0.5 * U)


def test_what_is_in_no_leg_stays():
    moved = ne.double_rotation(leaf("u"), leaf("w")).act(PARAMS, symmetric(5, 6, 6))
    np.testing.assert_array_equal(moved["other"], PARAMS["other"])
    assert moved["act"] is jnp.tanh
    tangent = ne.double_rotation(leaf("u"), leaf("w")).generator(PARAMS, symmetric(5, 6, 6))
    np.testing.assert_array_equal(tangent["other"], 0)
    assert tangent["act"] is jnp.tanh


def test_act_can_be_differentiated_with_respect_to_the_element():
    symmetry, element, _ = SYMMETRIES["neurons"]
    arrays = {name: PARAMS[name] for name in ("u", "w", "b")}
    gradient = jax.grad(lambda e: jnp.sum(symmetry.act(arrays, e)["w"]))(jnp.asarray(element))
    np.testing.assert_allclose(gradient, np.exp(element) * np.sum(W, axis=1), rtol=1e-13)


@pytest.mark.float32
def test_dtype_follows_the_params():
    symmetry, params = ne.double_rotation(leaf("u"), leaf("w")), {"u": jnp.ones((1, 2)), "w": jnp.ones((2, 1))}
    assert {x.dtype for x in jax.tree.leaves(symmetry.act(params, jnp.eye(2)))} == {jnp.dtype("float32")}
    assert symmetry.charge(params).dtype == jnp.float32


def test_dtype_follows_the_params_under_x64():
    params = jax.tree.map(lambda x: x.astype(np.float32), {"u": U, "w": W})
    for name in ("rotation", "homogeneous", "scalar-blocks"):
        symmetry, element, _ = SYMMETRIES[name]
        moved = symmetry.act(params, element)  # an element of double precision
        assert {x.dtype for x in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
        assert symmetry.charge(params).dtype == jnp.float32


# --- params of every kind --------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    u: jax.Array
    w: jax.Array


def test_params_may_be_a_named_tuple():
    symmetry = ne.double_rotation(lambda p: p.u, lambda p: p.w)
    np.testing.assert_allclose(symmetry.charge(Weights(U, W)), U.T @ U - W @ W.T, atol=1e-13)
    assert isinstance(symmetry.act(Weights(U, W), np.eye(6)), Weights)


def test_params_may_be_a_module():
    model = eqx.nn.MLP(4, 2, 3, 1, activation=jax.nn.relu, key=jax.random.key(0))
    symmetry = ne.neuron_rescaling(
        [(lambda m: m.layers[0].weight, 0), (lambda m: m.layers[0].bias, 0)], (lambda m: m.layers[1].weight, 1)
    )
    moved = symmetry.act(model, normal(1, 3))
    x = normal(2, 4)
    assert float(jnp.max(jnp.abs(moved.layers[0].weight - model.layers[0].weight))) > 0.1
    np.testing.assert_allclose(moved(x), model(x), rtol=1e-13)


def test_a_leg_without_axis_takes_every_parameter_of_a_subtree():
    model = eqx.nn.MLP(4, 2, 3, 1, key=jax.random.key(0))
    last = model.layers[1]
    expected = np.sum(last.weight**2) + np.sum(last.bias**2)
    np.testing.assert_allclose(ne.scaling(lambda m: m.layers[1]).charge(model), expected, rtol=1e-14)


def test_scaling_of_everything_passes_over_what_is_no_parameter():
    params = {"w": jnp.ones(3), "n": jnp.arange(3), "rate": 0.5, "act": jnp.tanh}
    moved = ne.scaling().act(params, np.log(2.0))
    np.testing.assert_allclose(moved["w"], 2 * np.ones(3), rtol=1e-15)
    assert (moved["n"].tolist(), moved["rate"]) == ([0, 1, 2], 0.5)


def test_a_rebuilt_symmetry_binds_to_the_same_constant():
    one, other = (ne.double_rotation(lambda p: p["u"], lambda p: p["w"]).bind(PARAMS) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@st.composite
def arrays_with_axis(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    blocks = draw(st.integers(1, 3))
    shape[axis] *= blocks
    return np.arange(float(np.prod(shape))).reshape(shape), axis, blocks


@settings(max_examples=20)  # every new shape compiles anew
@given(arrays_with_axis())
def test_leg_matrix_and_back(case):
    array, axis, blocks = case
    size = array.shape[axis] // blocks
    (leg,) = ne.Symmetry([ne.Leg(leaf("w"), axis, 1, blocks)], "diagonal").bind({"w": array}).legs
    matrix = leg.to_matrix(array)
    assert matrix.shape == (blocks, array.size // array.shape[axis], size)
    np.testing.assert_array_equal(leg.from_matrix(matrix, array), array)
    last = np.moveaxis(array, axis, -1)
    for block in range(blocks):
        expected = last[..., block * size : (block + 1) * size].reshape(-1, size)
        np.testing.assert_array_equal(matrix[block], expected)


@given(st.permutations(range(3)), st.booleans())
def test_charge_does_not_depend_on_where_the_axis_is(order, negative):
    array = normal(1, 2, 3, 4)
    axis = order.index(1)
    params = {"u": np.transpose(array, order)}
    leg = ne.Leg(leaf("u"), axis - 3 if negative else axis)
    charge = ne.Symmetry([leg], "symmetric").charge(params)
    np.testing.assert_allclose(charge, np.einsum("aib,ajb->ij", array, array), rtol=1e-13)


# --- wrong input -----------------------------------------------------------------------------------------------------


def test_unknown_algebra_is_refused():
    with pytest.raises(ValueError, match="algebra is 'unitary'; expected one of 'scalar', 'diagonal', 'symmetric'"):
        ne.Symmetry(legs(), "unitary")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.Symmetry([], "scalar"), "symmetry without legs"),
        (lambda: ne.Leg(leaf("u"), power=0), "power is 0; expected"),
        (lambda: ne.Leg(leaf("u"), 0, blocks=0), "blocks is 0 with axis 0"),
        (lambda: ne.Leg(leaf("u"), None, blocks=2), "blocks is 2 with axis None"),
        (lambda: ne.Leg("u"), "where is 'u'; expected a function"),
        (lambda: ne.Symmetry([ne.Leg(leaf("u"))], "diagonal"), "axis=None; expected an axis.*'diagonal'"),
        (lambda: ne.Symmetry([ne.Leg(leaf("u"))], "symmetric"), "axis=None; expected an axis.*'symmetric'"),
        (lambda: ne.Symmetry([ne.Leg(leaf("u"), 0, 2)], "symmetric"), r"power 2; expected \+1 or −1"),
        (
            lambda: ne.Symmetry([ne.Leg(leaf("u"), 1, 1, 2), ne.Leg(leaf("w"), 0, -1, 3)], "symmetric"),
            r"legs have \[2, 3\] blocks; expected the same number",
        ),
        (lambda: ne.neuron_rescaling(leaf("u"), (leaf("w"), 0)), r"for a leg; expected a pair \(where, axis\)"),
    ],
    ids=[
        "no-legs",
        "power-0",
        "blocks-0",
        "blocks-without-axis",
        "where",
        "diagonal-without-axis",
        "symmetric-without-axis",
        "power-2-of-a-matrix",
        "different-blocks",
        "neuron-without-axis",
    ],
)
def test_what_fits_no_params_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


UNFIT = {
    "u": np.ones((2, 3)),
    "w": np.ones((4, 5)),
    "pair": (np.ones(3), np.ones(3)),
    "act": jnp.tanh,
    "rate": 0.5,
    "none": None,
    "n": np.arange(3),
    "z": np.ones(3, complex),
}


def one_leg(where, axis=None, **changes):
    return ne.Symmetry([ne.Leg(where, axis, **changes)], "scalar" if axis is None else "diagonal")


@pytest.mark.parametrize(
    ("symmetry", "message"),
    [
        (
            ne.double_rotation(leaf("u"), leaf("w")),
            r"axes of the legs differ in length \(params\['u'\]: 3, params\['w'\]: 4\)",
        ),
        (one_leg(leaf("act")), r"selects no array \(it selects params\['act'\]\)"),
        (one_leg(leaf("rate")), r"selects no array \(it selects params\['rate'\]\).*jnp\.asarray"),
        (one_leg(leaf("none")), r"selects no array \(it selects None\)"),
        (one_leg(lambda p: np.ones(3)), "selects no array"),
        (one_leg(leaf("missing")), r"where failed on params \(KeyError: 'missing'\)"),
        (one_leg(lambda p: p["u"].T), r"where failed on params \(AttributeError.*computes nothing"),
        (one_leg(leaf("pair"), 0), "axis 0 selects 2 arrays; expected one"),
        (one_leg(leaf("u"), 2), r"axis 2 of params\['u'\], which has shape \(2, 3\)"),
        (one_leg(leaf("u"), -3), r"axis -3 of params\['u'\]"),
        (one_leg(leaf("u"), 1, blocks=2), r"axis 1 of params\['u'\], of length 3, into 2 blocks"),
        (one_leg(leaf("n")), r"params\['n'\] of dtype int64; expected real floating-point.*astype\(float\)"),
        (one_leg(leaf("z")), r"params\['z'\] of dtype complex128; expected real floating-point"),
        (ne.rescaling(leaf("u"), leaf("u")), r"params\['u'\] is in two legs"),
        (ne.scaling(leaf("pair"), lambda p: p["pair"][0]), r"params\['pair'\]\[0\] is in two legs"),
    ],
    ids=[
        "lengths",
        "function",
        "python-float",
        "none",
        "constant",
        "missing",
        "computes",
        "two-arrays",
        "axis",
        "negative-axis",
        "blocks",
        "integer",
        "complex",
        "twice",
        "twice-in-subtree",
    ],
)
@pytest.mark.parametrize(
    "consumer",
    [
        lambda symmetry: symmetry.charge(UNFIT),
        lambda symmetry: ne.noise_moments(ne.Problem(lambda p, z: jnp.sum(p["u"]) * z, np.ones(2)), UNFIT, symmetry),
    ],
    ids=["charge", "moments"],
)
def test_legs_that_do_not_fit_params_are_refused(symmetry, message, consumer):
    with pytest.raises(ValueError, match=message):
        consumer(symmetry)


@pytest.mark.parametrize(
    ("name", "element", "message"),
    [
        ("rescaling", np.ones(2), r"element has shape \(2,\); expected \(\)"),
        ("neurons", np.float64(1), r"element has shape \(\); expected \(6,\)"),
        ("rotation", np.ones(6), r"element has shape \(6,\); expected \(6, 6\)"),
        ("heads", np.eye(2), r"element has shape \(2, 2\); expected \(3, 2, 2\)"),
    ],
)
@pytest.mark.parametrize("method", ["act", "generator"])
def test_an_element_of_the_wrong_shape_is_refused(name, element, message, method):
    with pytest.raises(ValueError, match=message):
        getattr(SYMMETRIES[name][0], method)(PARAMS, element)
