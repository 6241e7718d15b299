"""Rates of charges: against the dense Σ, against every minibatch of a tiny data set, and against scipy's pencils."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import scipy.linalg
from problems import BLOCKS, DOWN, UP

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

SYMMETRIES = {
    "scaling": ne.scaling(),
    **problems.SYMMETRIES,
    "blocks": BLOCKS,
    "powers": ne.Symmetry([ne.Leg(UP, power=2), ne.Leg(DOWN, power=-1)], "scalar"),
}
OF_THE_LOSS = ["scalar", "diagonal", "symmetric", "blocks"]
NOISE_SCALE, DECAY = 0.07, 0.03
linear_problem = functools.partial(problems.linear_problem, d_out=2, d=4, d_in=2, samples=6, decay=DECAY)


def basis_of(shape):
    """A basis of the elements of this shape, orthonormal for Tr[AB]."""
    if len(shape) < 2:
        return list(np.eye(int(np.prod(shape))).reshape(-1, *shape))
    *blocks, d, _ = shape
    elements = []
    for block in itertools.product(*map(range, blocks)):
        for i, j in itertools.combinations_with_replacement(range(d), 2):
            element = np.zeros(shape)
            element[(*block, i, j)] += 0.5
            element[(*block, j, i)] += 0.5
            elements.append(element / np.linalg.norm(element))
    return elements


def dense_generator(symmetry, params, element):
    """The matrix A with vec(generator(θ, B)) = A vec(θ)."""
    vector, unflatten = ne.flatten(params)
    return np.stack(
        [ne.flatten(symmetry.generator(unflatten(unit), jnp.asarray(element)))[0] for unit in jnp.eye(len(vector))],
        axis=1,
    )


@pytest.mark.parametrize("name", SYMMETRIES)
def test_the_flow_is_that_of_every_charge_under_the_dense_covariance(name):
    problem, params = linear_problem()
    symmetry = SYMMETRIES[name]
    theta, covariance = ne.flatten(params)[0], ne.gradient_covariance(problem, params)
    flow = ne.noether_flow(problem, params, symmetry, NOISE_SCALE)
    assert flow.shape == symmetry.charge(params).shape
    for element in basis_of(flow.shape):
        generator = dense_generator(symmetry, params, element)
        expected = -4 * DECAY * theta @ generator @ theta + 2 * NOISE_SCALE * np.trace(covariance @ generator)
        np.testing.assert_allclose(np.sum(element * flow), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["diagonal", "symmetric"])
def test_the_flow_is_the_drift_of_the_charge_by_itos_formula(name):
    """⟨∇Q, −∇L_γ⟩ + σ² Tr[Σ ∇²Q], which equals the flow because the mean gradient does not move the charge."""
    problem, params = linear_problem()
    theta, unflatten = ne.flatten(params)
    covariance = ne.gradient_covariance(problem, params)

    def charge(theta):
        return SYMMETRIES[name].charge(unflatten(theta))

    descent = -jax.grad(lambda theta: problem.risk(unflatten(theta)))(theta)
    drift = jax.jvp(charge, (theta,), (descent,))[1]
    diffusion = jnp.einsum("...ij,ij->...", jax.hessian(charge)(theta), covariance)
    flow = ne.noether_flow(problem, params, SYMMETRIES[name], NOISE_SCALE)
    np.testing.assert_allclose(flow, drift + NOISE_SCALE * diffusion, rtol=1e-11, atol=1e-12)


def test_a_law_stands_for_its_noise_scale_or_its_step():
    problem, params = linear_problem()
    symmetry = SYMMETRIES["symmetric"]
    sde, sgd = ne.SDE(0.2, 2), ne.SGD(0.2, 2)
    continuous = ne.noether_flow(problem, params, symmetry, 0.05)
    np.testing.assert_allclose(ne.noether_flow(problem, params, symmetry, sde), continuous, rtol=1e-14)
    step = ne.expected_charge_step(problem, params, symmetry, sgd)
    np.testing.assert_allclose(0.2 * ne.noether_flow(problem, params, symmetry, sgd), step, rtol=1e-14)


def test_the_discrete_rate_tends_to_the_flow_at_fixed_noise_scale():
    """G_d/η → G linearly in η at fixed η/S; here S grows ten-fold per row and η with it."""
    problem, params = linear_problem()
    symmetry = SYMMETRIES["scalar"]
    flow = ne.noether_flow(problem, params, symmetry, 0.5e-6)
    gaps = [
        abs(ne.noether_flow(problem, params, symmetry, ne.SGD(1e-6 * size, size)) - flow) for size in (10, 100, 1000)
    ]
    np.testing.assert_allclose([gaps[1] / gaps[0], gaps[2] / gaps[1]], 10, rtol=1e-3)


def every_minibatch(samples, size, replacement):
    if replacement:
        return np.array(list(itertools.product(range(samples), repeat=size)))
    return np.array(list(itertools.combinations(range(samples), size)))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("replacement", [True, False], ids=["with-replacement", "without-replacement"])
@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_the_expected_step_is_the_mean_over_every_minibatch(name, replacement, decay):
    problem, params = linear_problem(samples=4, decay=decay)
    symmetry, rate, size = SYMMETRIES[name], 0.3, 2
    theta, unflatten = ne.flatten(params)

    def gradient(x, y):
        return ne.flatten(jax.grad(linear.loss)(params, (x, y)))[0]

    batches = jax.vmap(gradient)(*problem.data)[every_minibatch(4, size, replacement)].mean(axis=1)
    after = theta - rate * (batches + 2 * decay * theta)
    change = jnp.mean(jax.vmap(lambda theta: symmetry.charge(unflatten(theta)))(after), 0) - symmetry.charge(params)
    step = ne.expected_charge_step(problem, params, symmetry, ne.SGD(rate, size, replacement))
    # Rounding is relative to the terms that cancel in the charge.
    np.testing.assert_allclose(step, change, rtol=1e-12, atol=1e-12 * float(jnp.sum(theta**2)))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_the_expected_step_of_gd_is_its_step(name, decay):
    problem, params = linear_problem(decay=decay)
    symmetry = SYMMETRIES[name]
    after = jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(problem.risk)(params))
    step = ne.expected_charge_step(problem, params, symmetry, ne.GD(0.3))
    np.testing.assert_allclose(step, symmetry.charge(after) - symmetry.charge(params), rtol=1e-11, atol=1e-12)


def test_a_batch_of_all_data_without_replacement_steps_as_gd():
    problem, params = linear_problem()
    symmetry = SYMMETRIES["symmetric"]
    full = ne.expected_charge_step(problem, params, symmetry, ne.SGD(0.3, 6, replacement=False))
    np.testing.assert_allclose(full, ne.expected_charge_step(problem, params, symmetry, ne.GD(0.3)), rtol=1e-13)


@pytest.mark.parametrize("law", [NOISE_SCALE, ne.SGD(0.2, 2)], ids=["continuous", "discrete"])
@pytest.mark.parametrize("name", ["scaling", "scalar", "diagonal", "powers"])
def test_elementwise_rates_are_the_slope_of_the_flow_along_the_orbit(name, law):
    """κ = −dG/dC with M transformed along the orbit by Lemma B.1, which is how it enters the flow."""
    problem, params = linear_problem()
    if name in ("scaling", "powers"):  # not symmetries of ℓ = ‖UWx − y‖²: take losses that have them
        losses = {"scaling": scale_free_loss, "powers": homogeneous_loss}
        problem = ne.Problem(losses[name], problem.data, DECAY)
    symmetry = SYMMETRIES[name]
    zero = jnp.zeros_like(symmetry.charge(params))
    along = (zero,), (jnp.ones_like(zero),)
    flow_slope = jax.jvp(lambda e: ne.noether_flow(problem, symmetry.act(params, e), symmetry, law), *along)[1]
    charge_slope = jax.jvp(lambda e: symmetry.charge(symmetry.act(params, e)), *along)[1]
    rates = ne.relaxation_rates(problem, params, symmetry, law)
    assert rates.shape == zero.shape
    np.testing.assert_allclose(rates, -flow_slope / charge_slope, rtol=1e-10)


def scale_free_loss(params, sample):
    norm = jnp.sqrt(jnp.sum(params.up**2) + jnp.sum(params.down**2))
    return linear.loss(jax.tree.map(lambda array: array / norm, params), sample)


def homogeneous_loss(params, sample):
    """Invariant under U → e^{2ρ} U, W → e^{−ρ} W."""
    x, y = sample
    return jnp.sum((params.up @ jnp.square(params.down @ x) - y) ** 2)


def dense_anticommutator(matrix):
    """B ↦ BM + MB on an orthonormal basis of the symmetric matrices."""
    basis = basis_of(matrix.shape)
    return np.array([[np.sum(a * (b @ matrix + matrix @ b)) for b in basis] for a in basis])


def test_matrix_rates_are_those_of_the_pencil_of_anticommutators():
    problem, params = linear_problem(d=3, d_in=3)
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    moments = ne.noise_moments(problem, params, linear.symmetry)
    noise = np.asarray(moments.noise_plus + moments.noise_minus)
    weight = np.asarray(moments.weight_plus + moments.weight_minus)
    ratios = scipy.linalg.eigh(dense_anticommutator(noise), dense_anticommutator(weight), eigvals_only=True)
    np.testing.assert_allclose(rates, 4 * DECAY + 2 * NOISE_SCALE * ratios, rtol=1e-10)
    extreme = scipy.linalg.eigh(noise, weight, eigvals_only=True)
    np.testing.assert_allclose(rates[0], 4 * DECAY + 2 * NOISE_SCALE * extreme[0], rtol=1e-10)
    np.testing.assert_allclose(rates[-1], 4 * DECAY + 2 * NOISE_SCALE * extreme[-1], rtol=1e-10)


@pytest.mark.slow
def test_matrix_rates_where_the_legs_are_empty_are_infinite_and_last():
    """Along B on the null space of N alone the charge does not move; along every other B it does, and relaxes."""
    problem, params = linear_problem(d=5, d_in=2, d_out=1)  # N has rank 3 on an axis of 5: 3 of the 15 B act on nothing
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    basis = jnp.asarray(np.stack(basis_of((5, 5))))

    def along(function):
        element = jnp.zeros(15)
        jacobian = jax.jacfwd(lambda element: function(linear.symmetry.act(params, jnp.tensordot(element, basis, 1))))(
            element
        )
        return np.einsum("aij,ijb->ab", basis, jacobian)

    charge = along(lambda params: linear.symmetry.charge(params))
    flow = along(lambda params: ne.noether_flow(problem, params, linear.symmetry, NOISE_SCALE))
    values, vectors = np.linalg.eigh(charge)
    assert values[2] < 1e-12 < 1e-3 < values[3]
    whiten = vectors[:, 3:] / np.sqrt(values[3:])
    np.testing.assert_allclose(rates[:12], np.linalg.eigvalsh(-whiten.T @ flow @ whiten), rtol=1e-9)
    assert bool(jnp.all(jnp.isposinf(rates[12:])))


def test_empty_directions_stay_infinite_when_every_other_ratio_is_one():
    """ℓ = z uᵀw with Var z = 1 has M₊ + M₋ = Q₊ + Q₋, so every finite rate is 4γ + 2σ²."""
    data = jnp.array([1.0, -1.0])
    params = linear.Params(jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[2.0], [0.5], [0.0]]))
    problem = ne.Problem(lambda p, z: z * jnp.sum(p.up @ p.down), data, DECAY)
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    finite = jnp.isfinite(rates)
    np.testing.assert_allclose(rates[finite], 4 * DECAY + 2 * NOISE_SCALE, rtol=1e-12)
    assert finite.tolist() == [True] * 5 + [False]


def test_an_empty_neuron_has_an_infinite_rate():
    problem, params = linear_problem()
    params = linear.Params(params.up.at[:, 1].set(0), params.down.at[1].set(0))
    rates = ne.relaxation_rates(problem, params, SYMMETRIES["diagonal"], NOISE_SCALE)
    assert jnp.isposinf(rates).tolist() == [False, True, False, False]


def test_the_smallest_rate_of_an_isotropic_autoencoder_is_that_of_the_theory():
    """κ = 4ηdσ_ε²/S, exactly, on data in which x and ε are independent and isotropic; U = W = I is the equilibrium."""
    d, spread, rate, size = 2, 0.5, 0.1, 5
    signed = np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    pairs = list(itertools.product(signed, signed))
    x, noise = (jnp.asarray(np.array(part)) for part in zip(*pairs, strict=True))
    problem = ne.Problem(linear.loss, (x, x + spread * noise))
    params = linear.Params(jnp.eye(d), jnp.eye(d))
    rates = ne.relaxation_rates(problem, params, linear.symmetry, ne.SDE(rate, size))
    np.testing.assert_allclose(rates, 4 * rate * d * spread**2 / size, rtol=1e-13)


def test_blocks_have_the_rates_of_their_own_pencils():
    problem, params = linear_problem()
    rates = ne.relaxation_rates(problem, params, SYMMETRIES["blocks"], NOISE_SCALE)
    moments = ne.noise_moments(problem, params, SYMMETRIES["blocks"])
    assert rates.shape == (2, 3)
    for block in range(2):
        pencil = [
            dense_anticommutator(np.asarray(both[block]))
            for both in (moments.noise_plus + moments.noise_minus, moments.weight_plus + moments.weight_minus)
        ]
        ratios = scipy.linalg.eigh(*pencil, eigvals_only=True)
        np.testing.assert_allclose(rates[block], 4 * DECAY + 2 * NOISE_SCALE * ratios, rtol=1e-9)


def pencil_of(problem, params, symmetry):
    """(M, N) of the symmetric algebra."""
    moments = ne.noise_moments(problem, params, symmetry)
    return (
        np.asarray(both)
        for both in (moments.noise_plus + moments.noise_minus, moments.weight_plus + moments.weight_minus)
    )


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_modes_are_the_ends_of_the_spectrum(name):
    """Six samples and d_in = d_out = 2 make N of rank 4, the whole axis: every rate is finite."""
    problem, params = linear_problem()
    symmetry = SYMMETRIES[name]
    rates = ne.relaxation_rates(problem, params, symmetry, NOISE_SCALE)
    modes = ne.relaxation_modes(problem, params, symmetry, NOISE_SCALE)
    if name == "scalar":
        rates = rates[None]
    np.testing.assert_allclose(modes.slowest, rates.min(axis=-1), rtol=1e-10)
    np.testing.assert_allclose(modes.fastest, rates.max(axis=-1), rtol=1e-10)
    assert bool(jnp.all(modes.active == {"scalar": 1, "blocks": 2}.get(name, 4)))


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_a_mode_relaxes_at_its_rate(name):
    """κ = 4γ + 2σ² Tr[A²Σ]/(θᵀA²θ) with A the dense generator of the element B = ffᵀ."""
    problem, params = linear_problem()
    symmetry = SYMMETRIES[name]
    modes = ne.relaxation_modes(problem, params, symmetry, NOISE_SCALE)
    theta, covariance = ne.flatten(params)[0], ne.gradient_covariance(problem, params)
    for rate, direction in ((modes.slowest, modes.slowest_direction), (modes.fastest, modes.fastest_direction)):
        for block in range(2 if name == "blocks" else 1):
            f = direction[block] if name == "blocks" else direction
            np.testing.assert_allclose(jnp.sum(f**2), 1, rtol=1e-12)
            element = np.asarray(jnp.outer(f, f) if name in ("symmetric", "blocks") else f)
            if name == "blocks":
                element = np.stack([element * (block == other) for other in range(2)])
            squared = dense_generator(symmetry, params, element)
            squared = squared @ squared
            expected = 4 * DECAY + 2 * NOISE_SCALE * np.trace(squared @ covariance) / (theta @ squared @ theta)
            np.testing.assert_allclose(rate[block] if name == "blocks" else rate, expected, rtol=1e-10)


def test_beyond_the_whole_spectrum_two_rates_are_those_of_the_pencil():
    problem, params = linear_problem(samples=60, d=48, d_in=40, d_out=30)
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    modes = ne.relaxation_modes(problem, params, linear.symmetry, NOISE_SCALE)
    noise, weight = pencil_of(problem, params, linear.symmetry)
    ratios = scipy.linalg.eigh(noise, weight, eigvals_only=True)
    assert rates.shape == (2,)
    np.testing.assert_allclose(rates, 4 * DECAY + 2 * NOISE_SCALE * ratios[[0, -1]], rtol=1e-10)
    np.testing.assert_allclose(rates, [modes.slowest, modes.fastest], rtol=1e-14)  # two programs
    for rate, f in ((modes.slowest, modes.slowest_direction), (modes.fastest, modes.fastest_direction)):
        ratio = (rate - 4 * DECAY) / (2 * NOISE_SCALE)
        np.testing.assert_allclose(noise @ f, ratio * weight @ f, atol=1e-9 * ratio * np.linalg.norm(weight, 2))


@pytest.mark.parametrize("d", [5, 40], ids=["whole-spectrum", "two-rates"])
def test_modes_leave_out_the_directions_where_the_legs_are_empty(d):
    problem, params = linear_problem(d=d, d_in=2, d_out=1)  # N has rank 3
    modes = ne.relaxation_modes(problem, params, linear.symmetry, NOISE_SCALE)
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    noise, weight = pencil_of(problem, params, linear.symmetry)
    basis = np.linalg.eigh(weight)[1][:, -3:]
    ratios = scipy.linalg.eigh(basis.T @ noise @ basis, basis.T @ weight @ basis, eigvals_only=True)
    expected = 4 * DECAY + 2 * NOISE_SCALE * ratios[[0, -1]]
    assert int(modes.active) == 3
    np.testing.assert_allclose([modes.slowest, modes.fastest], expected, rtol=1e-10)
    np.testing.assert_allclose(rates[0], expected[0], rtol=1e-10)
    assert bool(jnp.isposinf(rates[-1]))
    if d == 5:
        np.testing.assert_allclose(rates[jnp.isfinite(rates)][-1], expected[1], rtol=1e-10)


def test_long_blocks_have_two_rates_each():
    problem, params = linear_problem(samples=90, d=80, d_in=30, d_out=30)
    rates = ne.relaxation_rates(problem, params, SYMMETRIES["blocks"], NOISE_SCALE)
    modes = ne.relaxation_modes(problem, params, SYMMETRIES["blocks"], NOISE_SCALE)
    assert rates.shape == (2, 2)
    for block, (noise, weight) in enumerate(zip(*pencil_of(problem, params, SYMMETRIES["blocks"]), strict=True)):
        ratios = scipy.linalg.eigh(noise, weight, eigvals_only=True)
        np.testing.assert_allclose(rates[block], 4 * DECAY + 2 * NOISE_SCALE * ratios[[0, -1]], rtol=1e-10)
    np.testing.assert_allclose(rates, jnp.stack([modes.slowest, modes.fastest], axis=-1), rtol=1e-14)
    assert modes.slowest_direction.shape == modes.fastest_direction.shape == (2, 40)


@pytest.mark.parametrize("name", ["diagonal", "symmetric", "blocks"])
def test_modes_have_the_derivatives_of_finite_differences(name):
    problem, params = linear_problem()
    symmetry = SYMMETRIES[name]
    theta, unflatten = ne.flatten(params)
    along = jax.random.normal(jax.random.key(5), theta.shape)

    def ends(step):
        modes = ne.relaxation_modes(problem, unflatten(theta + step * along), symmetry, NOISE_SCALE * (1 + step))
        return jnp.stack([jnp.sum(modes.slowest), jnp.sum(modes.fastest)])

    slopes = [jax.jacfwd(ends)(0.0), jax.jacrev(ends)(0.0)]
    finite = (ends(1e-5) - ends(-1e-5)) / 2e-5
    for slope in slopes:
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


@pytest.mark.parametrize("d", [4, 40], ids=["whole-spectrum", "two-rates"])
def test_empty_legs_have_infinite_rates_and_no_direction(d):
    problem, params = linear_problem(d=d)
    params = jax.tree.map(jnp.zeros_like, params)
    for symmetry in (SYMMETRIES["scalar"], SYMMETRIES["diagonal"], linear.symmetry):
        modes = ne.relaxation_modes(problem, params, symmetry, NOISE_SCALE)
        assert bool(jnp.isposinf(modes.slowest)), symmetry.algebra
        assert bool(jnp.isposinf(modes.fastest)), symmetry.algebra
        assert int(modes.active) == 0
        assert not jnp.any(modes.slowest_direction)
        assert not jnp.any(modes.fastest_direction)
        assert bool(jnp.all(jnp.isposinf(ne.relaxation_rates(problem, params, symmetry, NOISE_SCALE))))


@pytest.mark.parametrize("d", [4, 40], ids=["whole-spectrum", "two-rates"])
def test_what_is_not_a_number_is_not_empty(d):
    problem, params = linear_problem(d=d)
    params = linear.Params(params.up.at[0, 0].set(jnp.nan), params.down)
    for symmetry in (SYMMETRIES["scalar"], linear.symmetry):
        modes = ne.relaxation_modes(problem, params, symmetry, NOISE_SCALE)
        assert bool(jnp.isnan(modes.slowest) & jnp.isnan(modes.fastest)), symmetry.algebra
        assert bool(jnp.all(jnp.isnan(ne.relaxation_rates(problem, params, symmetry, NOISE_SCALE))))


@pytest.mark.float32
def test_a_wide_layer_has_its_modes():
    """d = 512: all d(d+1)/2 rates would take 138 GB for the operator alone."""
    problem, params = linear_problem(samples=600, d=512, d_in=300, d_out=300)
    modes = ne.relaxation_modes(problem, params, linear.symmetry, NOISE_SCALE)
    rates = ne.relaxation_rates(problem, params, linear.symmetry, NOISE_SCALE)
    noise, weight = pencil_of(problem, params, linear.symmetry)
    assert rates.shape == (2,)
    assert rates.dtype == jnp.float32
    for rate, f in zip(rates, (modes.slowest_direction, modes.fastest_direction), strict=True):
        np.testing.assert_allclose(rate, 4 * DECAY + 2 * NOISE_SCALE * (f @ noise @ f) / (f @ weight @ f), rtol=1e-4)
    ratios = scipy.linalg.eigh(np.float64(noise), np.float64(weight), eigvals_only=True)
    np.testing.assert_allclose(rates, 4 * DECAY + 2 * NOISE_SCALE * ratios[[0, -1]], rtol=1e-3)


def test_rates_under_jit_and_vmap():
    problem, params = linear_problem()
    symmetry = SYMMETRIES["symmetric"]
    several = jax.tree.map(lambda array: jnp.stack([array, 0.5 * array, array[::-1]]), params)

    def measures(params, noise_scale):
        return (
            ne.noether_flow(problem, params, symmetry, noise_scale),
            ne.relaxation_rates(problem, params, symmetry, noise_scale),
            ne.expected_charge_step(problem, params, symmetry, ne.SGD(4 * noise_scale, 2)),
        )

    scales = jnp.array([0.1, 0.2, 0.3])
    batched = jax.jit(jax.vmap(measures))(several, scales)
    alone = [measures(jax.tree.map(lambda array: array[i], several), scales[i]) for i in range(3)]  # noqa: B023
    for together, single in zip(batched, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(together, jnp.stack(single), rtol=1e-10, atol=1e-11)


def test_rates_follow_the_precision_of_the_parameters():
    problem, params = linear_problem()
    problem = ne.Problem(linear.loss, jax.tree.map(lambda a: a.astype(jnp.float32), problem.data), DECAY)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    for name in ("scalar", "diagonal", "symmetric"):
        symmetry = SYMMETRIES[name]
        assert ne.noether_flow(problem, params, symmetry, NOISE_SCALE).dtype == jnp.float32
        assert ne.relaxation_rates(problem, params, symmetry, ne.SGD(0.1, 2)).dtype == jnp.float32
        assert ne.expected_charge_step(problem, params, symmetry, ne.SGD(0.1, 2)).dtype == jnp.float32


@pytest.mark.parametrize("dynamics", [ne.SDE(0.1, 2), ne.GradientFlow(0.1), 0.1], ids=["SDE", "GradientFlow", "number"])
def test_an_expected_step_needs_discrete_dynamics(dynamics):
    problem, params = linear_problem()
    with pytest.raises(ValueError, match="expected an SGD or GD object"):
        ne.expected_charge_step(problem, params, linear.symmetry, dynamics)


@pytest.mark.parametrize("function", [ne.noether_flow, ne.relaxation_rates, ne.find_equilibrium])
@pytest.mark.parametrize(
    ("law", "message"),
    [
        (0.0, r"the noise scale is 0.0; expected σ² = η/\(2S\) > 0"),
        (-0.1, "the noise scale is -0.1"),
        (float("nan"), "the noise scale is nan"),
        ("SGD", "the law is 'SGD'; expected a noise scale"),
        (None, "the law is None; expected a noise scale"),
        (ne.SGD(lambda step: 0.1 / (1 + step), 2), "this one is a schedule"),
        (ne.GD(50.0), "learning rate × weight decay is 1.5; expected less than 1"),
        (ne.SGD(0.1, 7, replacement=False), "batch_size is 7 without replacement and the data hold 6 samples"),
    ],
    ids=["zero", "negative", "nan", "string", "none", "schedule", "decay-too-fast", "batch-too-large"],
)
def test_a_bad_law_is_refused(function, law, message):
    problem, params = linear_problem()
    with pytest.raises(ValueError, match=message):
        function(problem, params, linear.symmetry, law)


@pytest.mark.parametrize("function", [ne.noether_flow, ne.relaxation_rates, ne.expected_charge_step])
def test_rates_need_finite_data(function):
    _, params = linear_problem()
    stream = ne.Problem(linear.loss, ne.Stream(lambda key: (jax.random.normal(key, (2,)), jnp.zeros(2))))
    with pytest.raises(ValueError, match=r"problem\.sampled\(key, n\)"):
        function(stream, params, linear.symmetry, ne.SGD(0.1, 2))
