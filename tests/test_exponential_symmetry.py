"""Any symmetric generator: charges, action, moments, flows, and equality with the legs where both exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne

PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4)}
DATA = (normal(3, 7, 4), normal(4, 7, 2))
SIZE = 6 + 12


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


PROBLEM = ne.Problem(linear, DATA, weight_decay=0.1)
RESCALING = ne.rescaling(leaf("u"), leaf("w"))
DIAGONAL = np.diag(np.r_[np.ones(6), -np.ones(12)])


def generator_of(element):
    """The matrix of U → UB, W → −BW in the order of `flatten`: rows of U, then rows of W."""
    return np.block(
        [
            [np.kron(np.eye(2), element), np.zeros((6, 12))],
            [np.zeros((12, 6)), -np.kron(element, np.eye(4))],
        ]
    )


ELEMENT = np.array([[0.5, 1.0, 0.0], [1.0, -2.0, 0.3], [0.0, 0.3, 0.1]])
ROTATION = generator_of(ELEMENT)


def free(matrix):
    return lambda vector: jnp.asarray(matrix) @ vector


@pytest.mark.parametrize("given", [ROTATION, free(ROTATION)], ids=["matrix", "function"])
def test_charge_generator_and_flow_are_those_of_the_legs(given):
    symmetry, legs = ne.exponential_symmetry(given), ne.double_rotation(leaf("u"), leaf("w"))
    np.testing.assert_allclose(symmetry.charge(PARAMS), np.sum(ELEMENT * legs.charge(PARAMS)), rtol=1e-12)
    ours, theirs = symmetry.generator(PARAMS, 0.7), legs.generator(PARAMS, 0.7 * ELEMENT)
    np.testing.assert_allclose(ne.flatten(ours)[0], ne.flatten(theirs)[0], rtol=1e-12, atol=1e-14)
    flow = np.sum(ELEMENT * ne.noether_flow(PROBLEM, PARAMS, legs, 0.02))
    np.testing.assert_allclose(ne.noether_flow(PROBLEM, PARAMS, symmetry, 0.02), flow, rtol=1e-11)
    for dynamics in (ne.SGD(0.1, 3, replacement=False), ne.GD(0.1)):
        step = np.sum(ELEMENT * ne.expected_charge_step(PROBLEM, PARAMS, legs, dynamics))
        np.testing.assert_allclose(ne.expected_charge_step(PROBLEM, PARAMS, symmetry, dynamics), step, rtol=1e-11)


def test_action_is_that_of_the_legs():
    symmetry, legs = ne.exponential_symmetry(ROTATION), ne.double_rotation(leaf("u"), leaf("w"))
    ours, theirs = symmetry.act(PARAMS, 0.7), legs.act(PARAMS, 0.7 * ELEMENT)
    np.testing.assert_allclose(ne.flatten(ours)[0], ne.flatten(theirs)[0], rtol=1e-12, atol=1e-13)


def test_totals_of_the_spectrum_are_those_of_the_legs():
    ours, theirs = (ne.noise_moments(PROBLEM, PARAMS, s) for s in (ne.exponential_symmetry(DIAGONAL), RESCALING))
    for name in ("weight_plus", "weight_minus", "noise_plus", "noise_minus", "mean_plus", "mean_minus"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, err_msg=name)
    rates = [ne.relaxation_rates(PROBLEM, PARAMS, s, 0.02) for s in (ne.exponential_symmetry(DIAGONAL), RESCALING)]
    np.testing.assert_allclose(*rates, rtol=1e-12)


def test_spectral_moments_are_those_of_the_covariance():
    symmetry = ne.exponential_symmetry(ROTATION)
    moments = ne.noise_moments(PROBLEM, PARAMS, symmetry)
    assert isinstance(moments, ne.SpectralMoments)
    basis = np.asarray(symmetry.vectors)
    np.testing.assert_allclose(basis * moments.powers @ basis.T, ROTATION, atol=1e-14)
    covariance = np.asarray(ne.gradient_covariance(PROBLEM, PARAMS))
    expected = np.einsum("pi,pq,qi->i", basis, covariance, basis)
    np.testing.assert_allclose(moments.noise, expected, atol=1e-12 * np.max(expected))
    np.testing.assert_allclose(moments.weight, (basis.T @ ne.flatten(PARAMS)[0]) ** 2, rtol=1e-10, atol=1e-14)


def test_lemma_b1_gradients_transform_contragrediently():
    """Tr[Σ(θ_λ)A] = Tr[e^{−2λA} Σ(θ) A] at re-evaluated gradients."""
    symmetry = ne.exponential_symmetry(ROTATION)
    before = ne.noise_moments(PROBLEM, PARAMS, symmetry)
    for element in (-0.5, 0.8):
        after = ne.noise_moments(PROBLEM, symmetry.act(PARAMS, element), symmetry)
        left = float(after.noise_plus - after.noise_minus)
        right = np.sum(np.exp(-2 * element * before.powers) * before.powers * before.noise)
        np.testing.assert_allclose(left, right, atol=1e-10 * float(after.noise_plus + after.noise_minus))


def test_mixed_sequence_keeps_its_order():
    symmetries = [ne.exponential_symmetry(ROTATION), RESCALING, ne.exponential_symmetry(DIAGONAL)]
    together = ne.noise_moments(PROBLEM, PARAMS, symmetries)
    for moments, symmetry in zip(together, symmetries, strict=True):
        alone = ne.noise_moments(PROBLEM, PARAMS, symmetry)
        np.testing.assert_allclose(moments.noise_plus, alone.noise_plus, rtol=1e-13)
    assert isinstance(together[1], ne.Moments)


@pytest.mark.parametrize("given", [ROTATION, free(ROTATION)], ids=["matrix", "function"])
def test_the_symmetry_is_checked(given):
    symmetry = ne.exponential_symmetry(given)
    ne.check_symmetry(PROBLEM, PARAMS, symmetry)
    broken = ne.Problem(lambda p, z: linear(p, z) + 0.01 * p["u"][0, 0] ** 2, DATA)
    vector = np.asarray(ne.flatten(PARAMS)[0])
    gradients = jax.vmap(jax.grad(lambda p, z: broken.loss(p, z)), (None, 0))(PARAMS, DATA)
    rows = jax.vmap(lambda g: ne.flatten(g)[0])(gradients)
    tangent = ROTATION @ vector
    expected = np.max(np.abs(rows @ tangent) / np.linalg.norm(rows, axis=1)) / np.linalg.norm(tangent)
    np.testing.assert_allclose(ne.symmetry_violation(broken, PARAMS, symmetry), expected, rtol=1e-11)
    with pytest.raises(ne.SymmetryError, match=r"for the element 1; expected at most"):
        ne.check_symmetry(broken, PARAMS, symmetry)


def test_rounding_in_the_spectrum_is_cut_to_zero():
    basis, _ = np.linalg.qr(normal(5, 4, 4))
    symmetry = ne.exponential_symmetry(basis @ np.diag([2.0, 0.0, 0.0, -1.0]) @ basis.T)
    np.testing.assert_allclose(np.sort(symmetry.powers), [-1, 0, 0, 2], rtol=1e-12)
    assert np.count_nonzero(symmetry.powers) == 2


def test_traced_generators_give_the_same_moments():
    def charge_and_noise(matrix):
        symmetry = ne.exponential_symmetry(matrix)
        return symmetry.charge(PARAMS), ne.noether_flow(PROBLEM, PARAMS, symmetry, 0.02)

    np.testing.assert_allclose(jax.jit(charge_and_noise)(ROTATION), charge_and_noise(ROTATION), rtol=1e-11)


@pytest.mark.float32
def test_single_precision_follows_the_params():
    params, data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (PARAMS, DATA))
    symmetry = ne.exponential_symmetry(ROTATION)
    moments = ne.noise_moments(ne.Problem(linear, data), params, symmetry)
    assert {leaf.dtype for leaf in jax.tree.leaves(moments)} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        double = ne.noise_moments(ne.Problem(linear, DATA), PARAMS, symmetry)
    size = np.max(np.asarray(double.noise) + np.asarray(double.mean))
    np.testing.assert_allclose(moments.noise, double.noise, atol=1e-5 * size)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((2, 3)), r"A has shape \(2, 3\); expected a square matrix"),
        (np.ones(3), r"A has shape \(3,\); expected a square matrix"),
        (np.array([[0.0, 1.0], [-1.0, 0.0]]), r"max\|A − Aᵀ\| is 2 .* expected a symmetric matrix"),
        (np.array([[np.nan, 0.0], [0.0, 1.0]]), "symmetric matrix of finite numbers"),
        (np.eye(2) * 1j, "dtype complex128; expected real numbers"),
    ],
)
def test_unfit_generators_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ne.exponential_symmetry(given)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"A has shape \(2, 2\) and the parameters are 18 numbers"):
        ne.exponential_symmetry(np.eye(2)).charge(PARAMS)
    with pytest.raises(ValueError, match=r"returns .* for a vector of shape \(18,\)"):
        ne.exponential_symmetry(lambda v: v[:2]).charge(PARAMS)
    with pytest.raises(ValueError, match=r"the element has shape \(2,\); expected \(\)"):
        ne.exponential_symmetry(ROTATION).act(PARAMS, np.ones(2))


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.act(PARAMS, 1.0),
        lambda s: ne.noise_moments(PROBLEM, PARAMS, s),
        lambda s: ne.relaxation_rates(PROBLEM, PARAMS, s, 0.1),
    ],
    ids=["act", "moments", "rates"],
)
def test_a_function_is_refused_where_the_spectrum_is_needed(ask):
    with pytest.raises(ValueError, match="needs the eigenvalues of A, and this A is a function"):
        ask(ne.exponential_symmetry(free(ROTATION)))
