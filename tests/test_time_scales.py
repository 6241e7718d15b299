"""The time of the loss without its Hessian: against known spectra, the dense Hessian, and dense projectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from problems import BLOCKS, DOWN, SYMMETRIES, UP

import noise_equilibrium as ne
from noise_equilibrium._flow._across import across_orbit
from noise_equilibrium._flow._lanczos import basis_size, smallest_nonzero
from noise_equilibrium._flow._time_scales import DENSE, _least_curvature
from noise_equilibrium._symmetry import bind
from noise_equilibrium.models import two_layer_linear as linear

NOISE_SCALE = 0.05


def linear_minimum(d_in, d, d_out, seed, dtype=np.float64):
    """A two-layer linear network at a minimum with Σ_x = I exactly, and its curvatures 2(a_i + b_j)."""
    draw = np.random.default_rng(seed)
    up, down = draw.normal(size=(d_out, d)) / np.sqrt(d), draw.normal(size=(d, d_in)) / np.sqrt(d_in)
    samples = 2 * (d_in + d_out)
    x = np.linalg.qr(draw.normal(size=(samples, d_in)))[0] * np.sqrt(samples)
    noise = draw.normal(size=(samples, d_out))
    noise -= x @ (x.T @ noise) / samples
    data = jnp.asarray(x, dtype), jnp.asarray(x @ (up @ down).T + 0.3 * noise, dtype)
    curvatures = 2 * (np.linalg.eigvalsh(up @ up.T)[:, None] + np.linalg.eigvalsh(down.T @ down)[None])
    params = linear.Params(jnp.asarray(up, dtype), jnp.asarray(down, dtype))
    return ne.Problem(linear.loss, data), params, curvatures.ravel()


def nonlinear_minimum(activation, d_in, d, d_out, samples, seed):
    """A network at a minimum that it need not be trained for: every sample has its label noise with either sign."""
    draw = np.random.default_rng(seed)
    params = {"w": draw.normal(size=(d, d_in)) / np.sqrt(d_in), "u": draw.normal(size=(d_out, d)) / np.sqrt(d)}
    params = jax.tree.map(jnp.asarray, params)
    x = jnp.asarray(draw.normal(size=(samples, d_in)))
    noise = 0.3 * draw.normal(size=(samples, d_out))

    def output(params, x):
        return params["u"] @ activation(params["w"] @ x)

    y = jax.vmap(output, (None, 0))(params, x)
    data = jnp.concatenate([x, x]), jnp.concatenate([y + noise, y - noise])
    return ne.Problem(lambda params, sample: jnp.sum((output(params, sample[0]) - sample[1]) ** 2), data), params


RESCALING = ne.neuron_rescaling((lambda p: p["u"], 1), (lambda p: p["w"], 0))


def matrix_free(problem, params, symmetry):
    return ne.time_scales(problem, params, symmetry, NOISE_SCALE, method="matrix-free")


@pytest.mark.parametrize(
    "widths", slow_but([(20, 30, 20), (25, 25, 25), (40, 20, 30), (30, 60, 20)], (25, 25, 25)), ids=str
)
def test_the_least_curvature_of_a_linear_network_is_found_without_its_hessian(widths):
    """P is 1200 to 3000; the ratio of the largest to the least curvature 30 to 10,000."""
    for seed in range(3):
        problem, params, curvatures = linear_minimum(*widths, seed)
        least = curvatures[curvatures > 1e-6 * curvatures.max()].min()
        scales = matrix_free(problem, params, linear.symmetry)
        np.testing.assert_allclose(1 / scales.erm, least, rtol=1e-6)
        assert abs(scales.erm - 1 / least) <= scales.erm_error + 1e-10 / least
        assert scales.erm_error < 0.005 * scales.erm
    modes = ne.relaxation_modes(problem, params, linear.symmetry, NOISE_SCALE)
    np.testing.assert_allclose(scales.equi, 1 / modes.slowest, rtol=1e-12)


@pytest.mark.float32
@pytest.mark.parametrize("widths", slow_but([(20, 30, 20), (40, 20, 30), (30, 60, 20)], (20, 30, 20)), ids=str)
def test_the_least_curvature_in_single_precision(widths):
    problem, params, curvatures = linear_minimum(*widths, 0, np.float32)
    least = curvatures[curvatures > 1e-3 * curvatures.max()].min()
    scales = matrix_free(problem, params, linear.symmetry)
    assert scales.erm.dtype == scales.erm_error.dtype == jnp.float32
    np.testing.assert_allclose(1 / scales.erm, least, rtol=1e-4)
    assert abs(scales.erm - 1 / least) <= scales.erm_error + 1e-5 / least


@pytest.mark.parametrize(
    ("samples", "seed"), [(15, 0), *(pytest.param(60, seed, marks=pytest.mark.slow) for seed in (0, 1))]
)
@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh], ids=["relu", "tanh"])
def test_the_least_curvature_is_that_of_the_dense_hessian(activation, samples, seed):
    """Curvatures fall off without a gap, and most directions are flat: 2 × samples of 600 are not."""
    problem, params = nonlinear_minimum(activation, 10, 50, 2, samples, seed)
    dense = ne.time_scales(problem, params, RESCALING, NOISE_SCALE, method="dense")
    scales = matrix_free(problem, params, RESCALING)
    assert dense.erm_error == 0
    np.testing.assert_allclose(scales.erm, dense.erm, rtol=1e-4)
    assert abs(scales.erm - dense.erm) <= scales.erm_error + 1e-9 * dense.erm
    np.testing.assert_array_equal(scales.equi, dense.equi)


def test_many_parameters_are_matrix_free():
    problem, params, curvatures = linear_minimum(40, 30, 40, 0)
    size = ne.flatten(params)[0].size
    assert size > DENSE
    scales = ne.time_scales(problem, params, linear.symmetry, NOISE_SCALE)
    np.testing.assert_allclose(1 / scales.erm, curvatures[curvatures > 1e-6 * curvatures.max()].min(), rtol=1e-6)
    assert scales.erm_error > 0
    few = linear_minimum(4, 5, 4, 0)
    assert ne.time_scales(*few[:2], linear.symmetry, NOISE_SCALE).erm_error == 0


@pytest.mark.float32
def test_memory_is_that_of_some_vectors():
    """P = 65,536 and d = 256: P² and d⁴ numbers are 17 GB each. Nothing is run: the compiler counts."""
    params = jax.eval_shape(lambda: linear.init(jax.random.key(0), 128, 256, 128))
    size = 65_536

    def least(params, data):
        bound = bind(linear.symmetry, params)
        return _least_curvature(ne.Problem(linear.loss, data), params, bound, False)

    data = jax.ShapeDtypeStruct((64, 128), np.float32)
    memory = jax.jit(least).lower(params, (data, data)).compile().memory_analysis()
    assert basis_size(size, 4) * size * 4 < memory.temp_size_in_bytes < 3 * basis_size(size, 4) * size * 4


@pytest.mark.slow
@pytest.mark.float32
def test_a_wide_network_has_its_time_scales():
    problem, params, curvatures = linear_minimum(128, 256, 128, 0, np.float32)
    scales = ne.time_scales(problem, params, linear.symmetry, NOISE_SCALE)
    np.testing.assert_allclose(1 / scales.erm, curvatures.min(), rtol=1e-4)


class Scaled(eqx.Module):
    """A factor on the loss."""

    factor: jax.Array

    def __call__(self, params, sample):
        return self.factor * linear.loss(params, sample)


@pytest.mark.slow
def test_derivatives_without_the_hessian_are_those_of_finite_differences():
    """In a factor on the loss, t ∝ 1/factor, and along the orbit, on which every point is a minimum."""
    problem, params, _ = linear_minimum(3, 4, 3, 1)
    element = jax.random.normal(jax.random.key(0), (4, 4))

    @jax.jit
    def time(step):
        scaled = ne.Problem(Scaled(1 + 2 * step), problem.data)
        return matrix_free(scaled, linear.symmetry.act(params, step * (element + element.T)), linear.symmetry).erm

    finite = (time(1e-5) - time(-1e-5)) / 2e-5
    np.testing.assert_allclose([jax.jacfwd(time)(0.0), jax.jacrev(time)(0.0)], [finite, finite], rtol=1e-6)


def test_a_dense_hessian_that_does_not_fit_is_refused_at_once():
    params = linear.Params(jnp.zeros((500, 1000)), jnp.zeros((1000, 500)))
    problem = ne.Problem(linear.loss, (jnp.zeros((1, 500)), jnp.zeros((1, 500))))
    with pytest.raises(ValueError, match=r"P = 1000000 parameters, which would take 8e\+12 bytes.*'matrix-free'"):
        ne.time_scales(problem, params, linear.symmetry, NOISE_SCALE, method="dense")


def test_an_unknown_method_is_refused():
    problem, params, _ = linear_minimum(2, 2, 2, 0)
    with pytest.raises(ValueError, match="method is 'fast'; expected one of 'auto', 'dense', 'matrix-free'"):
        ne.time_scales(problem, params, linear.symmetry, NOISE_SCALE, method="fast")


# --- the projector ---------------------------------------------------------------------------------------------------


def tangents(symmetry, params):
    """Aθ for a basis of all elements, by differentiating the action; of all matrices for a matrix symmetry."""
    if symmetry is linear.symmetry:
        d = params.up.shape[1]
        units = np.eye(d * d).reshape(-1, d, d)
        pairs = [linear.Params(params.up @ unit, -unit @ params.down) for unit in units]
    elif isinstance(symmetry, ne.Symmetry) and symmetry.algebra == "symmetric":
        d = params.up.shape[1] // 2
        units = np.eye(2 * d * d).reshape(-1, 2, d, d)
        full = [jax.scipy.linalg.block_diag(*unit) for unit in units]
        pairs = [linear.Params(params.up @ unit, -unit @ params.down) for unit in full]
    else:
        shape = symmetry.charge(params).shape
        units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
        pairs = [symmetry.generator(params, jnp.asarray(unit)) for unit in units]
    return np.stack([ne.flatten(pair)[0] for pair in pairs], axis=1)


GENERATOR = np.random.default_rng(5).normal(size=(24, 24))
PROJECTED = {
    **SYMMETRIES,
    "powers": ne.Symmetry([ne.Leg(UP, axis=1, power=2), ne.Leg(DOWN, axis=0, power=-1)], "diagonal"),
    "blocks": BLOCKS,
    "exponential": ne.exponential_symmetry(GENERATOR + GENERATOR.T),
}


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty-neuron"])
@pytest.mark.parametrize("name", slow_but(PROJECTED, "symmetric", "diagonal", "exponential"))
def test_the_projector_is_that_of_the_directions_of_the_orbit(name, empty):
    params = linear.init(jax.random.key(0), 3, 4, 3)
    if empty:
        params = linear.Params(params.up.at[:, 1].set(0), params.down.at[1].set(0))
    left, sizes, _ = np.linalg.svd(tangents(PROJECTED[name], params), full_matrices=False)
    moves = sizes > 1e-12 * sizes[0]
    left = left[:, moves]
    project = across_orbit(bind(PROJECTED[name], params), params)
    vectors = jax.random.normal(jax.random.key(1), (3, 24))
    expected = vectors - vectors @ left @ left.T
    # A direction of length s is known to ε/s²: Grams round at ε, and are divided by s².
    rounding = 16 * np.finfo(float).eps * (sizes[0] / sizes[moves].min()) ** 2
    np.testing.assert_allclose(jax.vmap(project)(vectors), expected, atol=rounding)


# --- the search ------------------------------------------------------------------------------------------------------


def operator_of(values, seed=0):
    """A dense symmetric operator with these eigenvalues."""
    values = jnp.asarray(values)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (len(values), len(values))))[0]
    return lambda vector: turn @ (values * (turn.T @ vector))


def search(values, threshold=1e-6, seed=1):
    return smallest_nonzero(operator_of(values), jax.random.normal(jax.random.key(seed), (len(values),)), threshold)


DRAW = np.random.default_rng(0)
SPECTRA = {
    "gap": np.concatenate([np.zeros(200), DRAW.uniform(0.01, 1, 200)]),
    "no-gap": np.concatenate([np.zeros(200), 10 ** DRAW.uniform(-4, 0, 200)]),
    "one-far-below": np.concatenate([np.zeros(200), [1e-5], DRAW.uniform(0.1, 1, 199)]),
    "few": np.concatenate([np.zeros(390), 10 ** DRAW.uniform(-4, 0, 10)]),
    "equal": np.concatenate([np.zeros(200), np.full(100, 2e-6), np.full(50, 0.5), np.full(50, 1.0)]),
    "nearly-zero": np.concatenate([DRAW.uniform(0, 2e-7, 200), DRAW.uniform(0.01, 1, 200)]),
    "negative": np.concatenate([np.zeros(180), -DRAW.uniform(0.1, 1, 20), DRAW.uniform(0.01, 1, 200)]),
    "one-number": np.array([3.0]),
}


@pytest.mark.parametrize("name", slow_but(SPECTRA, *(SPECTRA.keys() - {"gap", "few"})))
def test_the_smallest_eigenvalue_above_zero_is_found(name):
    values = SPECTRA[name]
    least = values[values > 1e-6 * values.max()].min()
    found = search(values)
    assert found.residual <= 3.1e-3 * least
    np.testing.assert_allclose(found.value, least, rtol=1e-4)
    assert found.products <= 1000


def test_a_search_that_gives_up_says_how_far_it_got():
    """10,000 curvatures from 1e-5 to 1 without a gap cannot be told apart by 4096 products."""
    values = np.logspace(-5, 0, 10_000)
    found = smallest_nonzero(
        lambda vector: jnp.asarray(values) * vector, jax.random.normal(jax.random.key(0), (10_000,)), 1e-6
    )
    assert 4096 <= found.products <= 4096 + 96
    assert found.residual > 3e-3 * found.value
    assert np.min(np.abs(values - float(found.value))) <= found.residual


def test_an_operator_that_is_zero_has_no_smallest_eigenvalue():
    found = search(np.zeros(5))
    assert jnp.isposinf(found.value)
    assert found.residual == 0


def test_a_flat_loss_is_the_same_by_both_methods():
    problem = ne.Problem(lambda p, z: jnp.sum(p.up @ p.down) * z, jnp.array([1.0, -1.0]))
    params = linear.init(jax.random.key(0), 2, 3, 2)
    for method in ("dense", "matrix-free"):
        scales = ne.time_scales(problem, params, linear.symmetry, NOISE_SCALE, method=method)
        assert (scales.erm, scales.erm_error) == (0, 0)
