"""Groups of a user's own, which the library has never seen: all that is done with its own groups is done with them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


class Pairs(ne.ElementwiseGroup):
    """Rows 2i of a parameter are scaled by e^{λ_i}, rows 2i + 1 by e^{−2λ_i}."""

    count: int = eqx.field(static=True)
    powers = (1, -2)
    name = "pairs of rows"
    shape = property(lambda self: (1, self.count))
    public_shape = property(lambda self: (self.count,))

    def leaves(self, count):
        return {0}

    def product(self, left, right):
        rows = jnp.sum(left[0] * right[0], axis=1)
        return {1: rows[None, 0::2], -2: rows[None, 1::2]}

    def multiply(self, arrays, factors):
        each = jnp.stack([factors[1][0], factors[-2][0]], axis=1).ravel()
        return [arrays[0] * each[:, None].astype(arrays[0].dtype), *arrays[1:]]


class PairsOfRows(ne.AbstractSymmetry):
    def bind(self, params):
        return Pairs(len(params["rows"]) // 2)


def pairs_loss(params, sample):
    even, odd = params["rows"][0::2], params["rows"][1::2]
    x, y = sample
    return jnp.sum(((even @ x) ** 2 * (odd @ x)) * params["zz"] - y) ** 2


def pairs_problem():
    data = (normal(0, 30, 3), normal(1, 30))
    return ne.Problem(pairs_loss, data, 1e-2), {"rows": normal(2, 6, 3), "zz": normal(3, 3)}


def as_legs():
    """The same symmetry, spelled with parameters of its own for even and odd rows."""
    problem, params = pairs_problem()

    def loss(p, z):
        rows = jnp.stack([p["even"], p["odd"]], axis=1).reshape(6, 3)
        return pairs_loss({"rows": rows, "zz": p["zz"]}, z)

    split = {"even": params["rows"][0::2], "odd": params["rows"][1::2], "zz": params["zz"]}
    legs = [ne.Leg(lambda p: p["even"], 0, 1), ne.Leg(lambda p: p["odd"], 0, -2)]
    return ne.Problem(loss, problem.data, 1e-2), split, ne.Symmetry(legs, "diagonal")


def together(params):
    return jnp.stack([params["even"], params["odd"]], axis=1).reshape(6, 3)


@pytest.mark.parametrize(
    "law",
    [0.05, pytest.param(ne.SGD(0.05, 4, replacement=False), marks=pytest.mark.slow)],
    ids=["σ²", "without"],
)
def test_a_group_of_numbers(law):
    problem, params = pairs_problem()
    theirs, theirs_params, legs = as_legs()
    own = PairsOfRows()
    ne.check_symmetry(problem, params, own)
    assert (
        ne.symmetry_violation(ne.Problem(lambda p, z: pairs_loss(p, z) + p["rows"][0, 0], problem.data), params, own)
        > 0.01
    )
    np.testing.assert_allclose(own.charge(params), legs.charge(theirs_params), rtol=1e-12)
    element = jnp.array([0.1, -0.2, 0.3])
    np.testing.assert_allclose(own.act(params, element)["rows"], together(legs.act(theirs_params, element)), rtol=1e-12)
    tangent = together(legs.generator(theirs_params, element))
    np.testing.assert_allclose(own.generator(params, element)["rows"], tangent, rtol=1e-12)
    ours, others = ne.noise_moments(problem, params, own), ne.noise_moments(theirs, theirs_params, legs)
    for name in ("weight_plus", "weight_minus", "noise_plus", "noise_minus", "mean_plus", "mean_minus"):
        np.testing.assert_allclose(getattr(ours, name), getattr(others, name), rtol=1e-9)
    for consumer in (ne.noether_flow, ne.relaxation_rates):
        one, other = consumer(problem, params, own, law), consumer(theirs, theirs_params, legs, law)
        np.testing.assert_allclose(one, other, rtol=1e-9)
    found, expected = (
        ne.find_equilibrium(problem, params, own, law),
        ne.find_equilibrium(theirs, theirs_params, legs, law),
    )
    assert found.status == expected.status == ne.Status.CONVERGED
    assert found.residual < 1e-9
    np.testing.assert_allclose(found.element, expected.element, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.params["rows"], together(expected.params), rtol=1e-8)
    orbit = ne.orbit_flow(problem, params, own, law, [0.0, 1.0]).charge
    np.testing.assert_allclose(orbit, ne.orbit_flow(theirs, theirs_params, legs, law, [0.0, 1.0]).charge, rtol=1e-7)
    scales, others = ne.time_scales(problem, params, own, law), ne.time_scales(theirs, theirs_params, legs, law)
    np.testing.assert_allclose([scales.erm, scales.equi], [others.erm, others.equi], rtol=1e-6)


@pytest.mark.slow
def test_a_group_of_numbers_jointly_with_legs():
    """The scaling of even rows against zz commutes with the pairs, and shares a parameter with them."""
    problem, params = pairs_problem()
    theirs, theirs_params, legs = as_legs()
    whole = ne.Symmetry([ne.Leg(lambda p: p["zz"], None, 3), ne.Leg(lambda p: p["rows"], None, -1)], "scalar")
    same = ne.Symmetry(
        [ne.Leg(lambda p: p["zz"], None, 3), ne.Leg(lambda p: (p["even"], p["odd"]), None, -1)], "scalar"
    )
    ne.check_symmetry(problem, params, whole)
    found = ne.find_equilibrium(problem, params, [PairsOfRows(), whole], 0.05)
    expected = ne.find_equilibrium(theirs, theirs_params, [legs, same], 0.05)
    assert found.status == expected.status == ne.Status.CONVERGED
    for one, other in zip(found.element, expected.element, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


def test_derivatives_of_a_group_of_numbers():
    problem, params = pairs_problem()

    def first(scale):
        return ne.find_equilibrium(problem, params, PairsOfRows(), scale).element[0]

    low2, low, high, high2 = (first(0.05 + k * 1e-3) for k in (-2, -1, 1, 2))
    numerical = (low2 - 8 * low + 8 * high - high2) / 12e-3
    np.testing.assert_allclose(jax.grad(first)(0.05), numerical, rtol=1e-5)


class Middle(ne.MatrixGroup):
    """P on the middle axis of a tensor (2, k, 3), P⁻¹ on the first axis of a matrix."""

    k: int = eqx.field(static=True)
    powers = (1, -1)
    name = "the middle axis"
    shape = property(lambda self: (1, self.k, self.k))
    public_shape = property(lambda self: (self.k, self.k))

    def leaves(self, count):
        return {0, 1}

    def _rows(self, arrays):
        return jnp.swapaxes(arrays[0], 1, 2).reshape(1, -1, self.k), arrays[1].T[None]

    def product(self, left, right):
        pairs = zip(self._rows(left), self._rows(right), strict=True)
        plus, minus = (jnp.einsum("hmk,hml->hkl", a, b, precision="highest") for a, b in pairs)
        return {1: plus, -1: minus}

    def multiply(self, arrays, factors):
        up, down = (self.times(rows, factors[power]) for rows, power in zip(self._rows(arrays), (1, -1), strict=True))
        return [jnp.swapaxes(up.reshape(2, 3, self.k), 1, 2), down[0].T, *arrays[2:]]


class MiddleAxis(ne.AbstractSymmetry):
    def bind(self, params):
        return Middle(params["tensor"].shape[1])


@pytest.mark.parametrize(
    "dtype", [jnp.float64, pytest.param(jnp.float32, marks=[pytest.mark.float32, pytest.mark.slow])]
)
def test_a_group_of_matrices(dtype):
    """Against the double rotation of a two-layer linear network, one of whose factors is kept as a tensor."""
    up, down = normal(0, 6, 4).astype(dtype), normal(1, 4, 5).astype(dtype)
    data = (normal(2, 60, 5).astype(dtype), normal(3, 60, 6).astype(dtype))

    def loss(params, z):
        flat = jnp.swapaxes(params["tensor"], 1, 2).reshape(6, -1)
        return linear.loss(linear.Params(flat, params["then"]), z)

    problem, theirs = ne.Problem(loss, data, 1e-2), ne.Problem(linear.loss, data, 1e-2)
    params, theirs_params = {"tensor": jnp.swapaxes(up.reshape(2, 3, 4), 1, 2), "then": down}, linear.Params(up, down)
    tight = {"rtol": 1e-8, "atol": 1e-9} if dtype == jnp.float64 else {"rtol": 1e-4, "atol": 1e-4}
    ne.check_symmetry(problem, params, MiddleAxis())
    found = ne.find_equilibrium(problem, params, MiddleAxis(), 0.05)
    expected = ne.find_equilibrium(theirs, theirs_params, linear.symmetry, 0.05)
    assert found.status == expected.status == ne.Status.CONVERGED
    np.testing.assert_allclose(found.element, expected.element, **tight)
    np.testing.assert_allclose(found.params["then"], expected.params.down, **tight)
    rates = ne.relaxation_rates(problem, params, MiddleAxis(), 0.05)
    np.testing.assert_allclose(rates, ne.relaxation_rates(theirs, theirs_params, linear.symmetry, 0.05), **tight)
    if dtype == jnp.float64:
        scales = ne.time_scales(problem, params, MiddleAxis(), 0.05)
        others = ne.time_scales(theirs, theirs_params, linear.symmetry, 0.05)
        np.testing.assert_allclose([scales.erm, scales.equi], [others.erm, others.equi], rtol=1e-6)
