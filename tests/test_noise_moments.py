"""The noise moments: equality with their definition over a table of losses, laws, derivatives, and trace counts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case, leaf, normal, squared, symmetry_of, two_layer
from cases_layers import LAYER_CASES
from cases_linear import LINEAR_CASES
from problems import NEURONS, relu_loss

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import per_sample_gradients, reference_moments
from noise_equilibrium._parameters import is_parameter, split
from noise_equilibrium._per_sample import _chunks, _gram_plan
from noise_equilibrium._per_sample._tapped_loss import tap

# Hundreds of small programs run once each: what takes the time is the optimisation by the compiler.
unoptimised_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
ALL_CASES = [*CASES, *LINEAR_CASES, *LAYER_CASES]
every_case = pytest.mark.parametrize("case", ALL_CASES, ids=[case.name for case in ALL_CASES])


def assert_same_moments(fast: ne.Moments, slow: ne.Moments, relative: float = 1e-12, what: str = ""):
    """Equal relative to the largest second moment: the covariance is a difference of second moments."""
    assert fast.powers == slow.powers
    for name in ("weight", "noise", "mean"):
        for power, a, b, noise, mean in zip(
            slow.powers, getattr(fast, name), getattr(slow, name), slow.noise, slow.mean, strict=True
        ):
            size = np.max(np.abs(b if name == "weight" else noise + mean))
            np.testing.assert_allclose(a, b, rtol=0, atol=relative * size, err_msg=f"{what} {name} of power {power}")


def fast_and_slow(problem, params, symmetries):
    """Both for several symmetries, which the fast path measures in one pass."""

    @unoptimised_jit
    def both(arrays):
        params = rebuild(arrays)
        fast = ne.noise_moments(problem, params, symmetries)
        return list(zip(fast, [reference_moments(problem, params, s) for s in symmetries], strict=True))

    arrays, rebuild = split(params)
    return both(arrays)


@every_case
@pytest.mark.filterwarnings("ignore:the loss does not depend:UserWarning")  # two cases are there for that
def test_equal_to_the_definition(case: Case):
    problem = ne.Problem(case.loss, case.data)
    symmetries = [symmetry_of(case, algebra) for algebra in case.algebras]
    for algebra, (fast, slow) in zip(case.algebras, fast_and_slow(problem, case.params, symmetries), strict=True):
        assert_same_moments(fast, slow, what=algebra)


@every_case
def test_takes_the_expected_path(case: Case):
    """So that a fast path cannot be lost silently."""
    bound = symmetry_of(case, case.algebras[0]).bind(case.params)
    tapped = tap(ne.Problem(case.loss, case.data), case.params, [leg.index for leg in bound.legs])
    names = {leg.index: leg.name.removeprefix("params") for leg in bound.legs}
    assert (len(tapped.uses), tuple(names[i] for i in tapped.escaped)) == (case.uses, case.escaped)


def test_several_symmetries_in_one_pass_equal_one_at_a_time():
    """A deep linear net: the middle layer belongs to both symmetries."""

    def deep(p, z):
        return squared(p["c"] @ (p["b"] @ (p["a"] @ z[0])), z[1])

    params = {"a": normal(1, 3, 4), "b": normal(2, 2, 3), "c": normal(3, 2, 2)}
    problem = ne.Problem(deep, (normal(4, 5, 4), normal(5, 5, 2)))
    symmetries = [ne.double_rotation(leaf("c"), leaf("b")), ne.double_rotation(leaf("b"), leaf("a")), ne.scaling()]
    together = ne.noise_moments(problem, params, symmetries)
    assert isinstance(together, tuple)
    for moments, symmetry in zip(together, symmetries, strict=True):
        assert_same_moments(moments, ne.noise_moments(problem, params, symmetry), relative=1e-14)
        assert_same_moments(moments, reference(problem, params, symmetry))


def test_an_empty_sequence_of_symmetries_is_refused():
    with pytest.raises(ValueError, match="expected a Symmetry, or a sequence of at least one"):
        ne.noise_moments(ne.Problem(linear, DATA), PARAMS, [])


# --- memory bounded by the chunk -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [(1, [1]), (2**11, [2, 3, 4, 5])], ids=["one-by-one", "some-at-once"])
def test_chunks_change_nothing(monkeypatch, size, most):
    def loss(p, z):  # a fresh function: what is compiled with another chunk must not be found again
        x, y = z
        return squared(p["u"] @ jnp.tanh(p["w"] @ x), y) + x[0] * jnp.sum(p["w"] ** 2)

    taken = []

    def spy(sums, data, count, most):
        taken.append(most)
        return in_chunks(sums, data, count, most)

    in_chunks = _gram_plan.sum_over_samples
    monkeypatch.setattr(_chunks, "CHUNK_BYTES", size)
    monkeypatch.setattr(_gram_plan, "sum_over_samples", spy)
    problem = ne.Problem(loss, (normal(3, 7, 4), normal(4, 7, 2)))
    symmetry = ne.double_rotation(leaf("u"), leaf("w"))
    assert_same_moments(ne.noise_moments(problem, two_layer(), symmetry), reference(problem, two_layer(), symmetry))
    assert len(taken) == 1
    assert taken[0] in most


@pytest.mark.parametrize(("count", "most"), [(12, 12), (12, 5), (12, 1), (7, 3), (1, 1), (13, 4)])
def test_chunks_hold_every_sample_once_and_no_more_than_they_may(count, most):
    sizes = []

    def sums(samples):
        sizes.append(len(samples))
        return jnp.sum(samples), jnp.sum(samples**2)

    data = normal(1, count)
    total = jax.jit(lambda data: _chunks.sum_over_samples(sums, data, count, most))(data)
    np.testing.assert_allclose(total, (np.sum(data), np.sum(data**2)), rtol=1e-13)
    assert max(sizes) <= most


reference = jax.jit(reference_moments, static_argnums=2)


# --- laws of theory, on losses that have the symmetry ----------------------------------------------------------------


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


def quadratic_activation(p, z):
    return squared(p["u"] @ jax.nn.relu(p["w"] @ z[0]) ** 2, z[1])


def scale_free(p, z):
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)))
    return squared(p["u"] / norm @ jnp.tanh(p["w"] @ z[0] / norm), z[1])


PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4), "b": normal(6, 3)}
DATA = (normal(3, 5, 4), normal(4, 5, 2))
ELEMENT = 0.3 * normal(7, 3, 3)
SYMMETRIC = {
    "rescaling": (linear, ne.rescaling(leaf("u"), leaf("w")), 0.4),
    "neurons": (relu_loss, NEURONS, ELEMENT[0]),
    "homogeneous": (
        quadratic_activation,
        ne.Symmetry([ne.Leg(leaf("w"), 0, 1), ne.Leg(leaf("u"), 1, -2)], "diagonal"),
        ELEMENT[0],
    ),
    "rotation": (linear, ne.double_rotation(leaf("u"), leaf("w")), ELEMENT + ELEMENT.T),
    "scaling": (scale_free, ne.scaling(), 0.4),
}
every_symmetry = pytest.mark.parametrize("name", SYMMETRIC)


@every_symmetry
def test_every_sample_gradient_is_orthogonal_to_the_orbit(name):
    loss, symmetry, element = SYMMETRIC[name]
    tangent, _ = ne.flatten(symmetry.generator(PARAMS, element))
    gradients = per_sample_gradients(ne.Problem(loss, DATA), PARAMS)
    rows = np.concatenate([np.reshape(g, (len(g), -1)) for g in gradients], axis=1)
    sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(tangent)
    np.testing.assert_allclose(rows @ tangent / sizes, 0, atol=1e-14)


@every_symmetry
def test_moments_transform_along_the_orbit(name):
    """Under P: weights θ → θ P, gradients g → g P⁻¹; so each Gram of power k gains P^k or P^{−k} on both sides."""
    loss, symmetry, element = SYMMETRIC[name]
    problem = ne.Problem(loss, DATA)
    before = ne.noise_moments(problem, PARAMS, symmetry)
    after = ne.noise_moments(problem, symmetry.act(PARAMS, element), symmetry)

    def transformed(gram, exponent):
        if symmetry.algebra == "symmetric":
            factor = jax.scipy.linalg.expm(exponent * element)
            return factor @ gram @ factor
        return np.exp(2 * exponent * element) * gram

    expected = ne.Moments(
        weight=tuple(transformed(g, k) for g, k in zip(before.weight, before.powers, strict=True)),
        noise=tuple(transformed(g, -k) for g, k in zip(before.noise, before.powers, strict=True)),
        mean=tuple(transformed(g, -k) for g, k in zip(before.mean, before.powers, strict=True)),
        powers=before.powers,
    )
    assert_same_moments(after, expected)


def test_totals_count_legs_with_their_power():
    loss, symmetry, _ = SYMMETRIC["homogeneous"]
    moments = ne.noise_moments(ne.Problem(loss, DATA), PARAMS, symmetry)
    assert moments.powers == (1, -2)
    np.testing.assert_allclose(moments.weight_plus, np.sum(PARAMS["w"] ** 2, axis=1), rtol=1e-14)
    np.testing.assert_allclose(moments.weight_minus, 2 * np.sum(PARAMS["u"] ** 2, axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.weight_plus - moments.weight_minus, symmetry.charge(PARAMS), rtol=1e-13)
    np.testing.assert_array_equal(moments.noise_minus, 2 * moments.noise[1])
    np.testing.assert_array_equal(moments.mean_minus, 2 * moments.mean[1])


def test_one_sign_only_leaves_the_other_zero():
    moments = ne.noise_moments(ne.Problem(scale_free, DATA), PARAMS, ne.scaling())
    assert float(moments.noise_plus) > 0
    assert [float(total) for total in (moments.weight_minus, moments.noise_minus, moments.mean_minus)] == [0, 0, 0]


def test_two_layer_linear_moments_have_their_closed_form():
    """M_U = 4 W (E[‖r‖²xxᵀ] − KᵀK) Wᵀ and M_W = 4 Uᵀ (E[‖x‖²rrᵀ] − KKᵀ) U, K = E[r xᵀ]; Section 5.2."""
    moments = ne.noise_moments(ne.Problem(linear, DATA), PARAMS, ne.double_rotation(leaf("u"), leaf("w")))
    u, w, (x, y) = np.asarray(PARAMS["u"]), np.asarray(PARAMS["w"]), map(np.asarray, DATA)
    r = x @ w.T @ u.T - y
    k = r.T @ x / len(x)
    inputs = np.einsum("n,ni,nj->ij", np.sum(r**2, axis=1), x, x) / len(x)
    residuals = np.einsum("n,ni,nj->ij", np.sum(x**2, axis=1), r, r) / len(x)
    np.testing.assert_allclose(moments.noise_plus, 4 * w @ (inputs - k.T @ k) @ w.T, rtol=1e-11)
    np.testing.assert_allclose(moments.noise_minus, 4 * u.T @ (residuals - k @ k.T) @ u, rtol=1e-11)
    np.testing.assert_allclose(moments.mean_plus, 4 * w @ k.T @ k @ w.T, rtol=1e-11)


def test_weight_decay_is_not_noise():
    plain, decayed = (ne.Problem(linear, DATA, decay) for decay in (0.0, 0.5))
    symmetry = ne.rescaling(leaf("u"), leaf("w"))
    assert_same_moments(
        ne.noise_moments(decayed, PARAMS, symmetry), ne.noise_moments(plain, PARAMS, symmetry), relative=0
    )


def test_one_sample_makes_no_noise():
    one = ne.Problem(linear, jax.tree.map(lambda x: x[:1], DATA))
    moments = ne.noise_moments(one, PARAMS, ne.double_rotation(leaf("u"), leaf("w")))
    np.testing.assert_allclose(moments.noise_plus, 0, atol=1e-13 * float(jnp.max(moments.mean_plus)))


# --- transformations -------------------------------------------------------------------------------------------------


def test_vmap_over_params_equals_a_loop():
    problem, symmetry = ne.Problem(linear, DATA), ne.double_rotation(leaf("u"), leaf("w"))
    runs = [jax.tree.map(lambda x, factor=factor: factor * x, PARAMS) for factor in (0.5, 1.0, 2.0)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    together = jax.vmap(lambda params: ne.noise_moments(problem, params, symmetry))(batch)
    alone = [ne.noise_moments(problem, params, symmetry) for params in runs]
    for run, moments in enumerate(alone):
        assert_same_moments(jax.tree.map(lambda x, run=run: x[run], together), moments, relative=1e-14)


def test_vmap_over_data_equals_a_loop():
    symmetry = ne.rescaling(leaf("u"), leaf("w"))
    batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), DATA)
    together = jax.vmap(lambda data: ne.noise_moments(ne.Problem(linear, data), PARAMS, symmetry).noise_plus)(batch)
    alone = ne.noise_moments(ne.Problem(linear, jax.tree.map(lambda x: 2 * x, DATA)), PARAMS, symmetry).noise_plus
    np.testing.assert_allclose(together[1], alone, rtol=1e-13)


def through_views(p, z):
    w = 0.5 * p["w"] + 0.1 * p["w"] @ (p["w"].T @ p["w"])
    return squared(p["u"] @ jnp.tanh(w[:, :2] @ z[0][:2] + w @ z[0]), z[1])


@pytest.mark.parametrize("loss", [linear, scale_free, through_views], ids=["fast", "escaped", "views"])
def test_derivative_equals_finite_difference(loss):
    problem, symmetry = ne.Problem(loss, DATA), ne.rescaling(leaf("u"), leaf("w"))
    vector, unflatten = ne.flatten(PARAMS)
    direction = normal(8, vector.size)

    def noise(step):
        moments = ne.noise_moments(problem, unflatten(vector + step * direction), symmetry)
        return jnp.stack([moments.noise_plus, moments.noise_minus, moments.mean_plus, moments.weight_minus])

    h = 2e-4  # with the five-point formula an error of h⁴ ~ 2e-15 times a fifth derivative, and rounding of ε/h ~ 1e-12
    far, near = (unoptimised_jit(lambda h: noise(h) - noise(-h))(steps * h) for steps in (2, 1))
    difference = (8 * near - far) / (12 * h)
    forward = unoptimised_jit(jax.jacfwd(noise))(0.0)
    reverse = unoptimised_jit(jax.jacrev(noise))(0.0)
    np.testing.assert_allclose(forward, difference, rtol=1e-8)
    np.testing.assert_allclose(reverse, forward, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.float32
@every_case
@pytest.mark.filterwarnings("ignore:the loss does not depend:UserWarning")
def test_every_case_in_single_precision(case: Case):
    """Against the definition in double precision; the paths are chosen from shapes, and so are the same."""
    symmetries = [symmetry_of(case, algebra) for algebra in case.algebras]
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if is_parameter(x) else x, (case.params, case.data))
    fast = ne.noise_moments(ne.Problem(case.loss, single[1]), single[0], symmetries)
    chex.assert_type(jax.tree.leaves(fast), jnp.float32)
    with jax.enable_x64(True):
        arrays, rebuild = split(case.params)
        problem = ne.Problem(case.loss, case.data)
        exact = unoptimised_jit(lambda arrays: [reference_moments(problem, rebuild(arrays), s) for s in symmetries])(
            arrays
        )
    for ours, theirs in zip(fast, exact, strict=True):
        assert_same_moments(ours, theirs, relative=1e-4, what=case.name)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["rotation", "neurons"])
def test_single_precision_agrees_with_double(name):
    loss, symmetry, _ = SYMMETRIC[name]
    single = jax.tree.map(lambda x: np.asarray(x, np.float32), PARAMS)
    moments = ne.noise_moments(ne.Problem(loss, jax.tree.map(jnp.asarray, DATA)), single, symmetry)
    chex.assert_type(jax.tree.leaves(moments), jnp.float32)
    with jax.enable_x64(True):
        double = reference(ne.Problem(loss, DATA), PARAMS, symmetry)
    assert_same_moments(moments, double, relative=1e-5)  # ε = 6e-8, tens of operations


@pytest.mark.float32
@pytest.mark.parametrize("name", ["rotation", "neurons", "rescaling"])
def test_half_precision_accumulates_in_single(name):
    """bfloat16 holds 8 bits: activations and gradients are right to about 1 %, and sums over samples lose nothing."""
    loss, symmetry, _ = SYMMETRIC[name]
    params, data = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.bfloat16), (PARAMS, (normal(3, 512, 4), normal(4, 512, 2)))
    )
    moments = ne.noise_moments(ne.Problem(loss, data), params, symmetry)
    chex.assert_type(jax.tree.leaves(moments), jnp.float32)
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, data))
    single = ne.noise_moments(ne.Problem(loss, exact[1]), exact[0], symmetry)
    assert_same_moments(moments, single, relative=0.02)


@pytest.mark.parametrize("name", ["rotation", "scaling"])
def test_moments_of_a_batch_of_seeds_are_those_of_each(name):
    """vmap over parameters and data at once, through the fast path and through parameters tapped at themselves."""
    loss, symmetry, _ = SYMMETRIC[name]

    def noise(key):
        keys = jax.random.split(key, 2)
        params = jax.tree.map(
            lambda x: x * (1 + 0.1 * jax.random.normal(keys[0], x.shape)), jax.tree.map(jnp.asarray, PARAMS)
        )
        data = jax.tree.map(lambda x: x + jax.random.normal(keys[1], x.shape), jax.tree.map(jnp.asarray, DATA))
        return ne.noise_moments(ne.Problem(loss, data), params, symmetry)

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(noise)(keys)
    for seed, key in enumerate(keys):
        assert_same_moments(jax.tree.map(lambda x, seed=seed: x[seed], together), noise(key), relative=1e-13)


def test_dtype_follows_the_params_under_x64():
    params, data = jax.tree.map(lambda x: x.astype(np.float32), (PARAMS, DATA))
    moments = ne.noise_moments(ne.Problem(linear, data), params, ne.double_rotation(leaf("u"), leaf("w")))
    chex.assert_type(jax.tree.leaves(moments), jnp.float32)


def test_parameter_cast_to_single_precision_in_the_loss_stays_on_the_fast_path():
    def loss(p, z):
        down, up, x, y = (a.astype(jnp.float32) for a in (p["w"], p["u"], *z))
        return squared(up @ (down @ x), y)

    problem, symmetry = ne.Problem(loss, DATA), ne.double_rotation(leaf("u"), leaf("w"))
    tapped = tap(problem, PARAMS, [1, 2])
    assert (len(tapped.uses), tapped.escaped) == (2, ())
    moments = ne.noise_moments(problem, PARAMS, symmetry)
    chex.assert_type(jax.tree.leaves(moments), jnp.float64)
    assert_same_moments(moments, reference(problem, PARAMS, symmetry), relative=1e-6)


# --- what recompiles, and what does not ------------------------------------------------------------------------------


def test_nothing_recompiles_when_only_numbers_change():
    @chex.assert_max_traces(n=1)
    def loss(p, z):
        return linear(p, z)

    def moments(factor, decay):
        params = jax.tree.map(lambda x: factor * x, PARAMS)
        symmetry = ne.double_rotation(lambda p: p["u"], lambda p: p["w"])  # rebuilt in each call
        return ne.noise_moments(ne.Problem(loss, DATA, decay), params, symmetry)

    for factor, decay in ((1.0, 0.0), (2.0, 0.0), (1.0, 0.1), (1.0, jnp.asarray(0.1)), (3.0, jnp.asarray(0.2))):
        moments(factor, decay)


# --- parameters and samples of unusual kind --------------------------------------------------------------------------


def test_samples_may_hold_keys_and_integers():
    def loss(p, z):
        keep = jax.random.bernoulli(z["key"], 0.5, (3,))
        logits = p["u"] @ jnp.where(keep, jnp.tanh(p["w"] @ z["x"]), 0)
        return -jax.nn.log_softmax(logits)[z["label"]]

    data = {"key": jax.random.split(jax.random.key(0), 5), "x": DATA[0], "label": jnp.array([0, 1, 1, 0, 1])}
    problem, symmetry = ne.Problem(loss, data), ne.double_rotation(leaf("u"), leaf("w"))
    assert_same_moments(ne.noise_moments(problem, PARAMS, symmetry), reference(problem, PARAMS, symmetry))


def test_a_leaf_without_gradient_has_no_noise():
    problem = ne.Problem(lambda p, z: linear({**p, "w": jax.lax.stop_gradient(p["w"])}, z), DATA)
    moments = ne.noise_moments(problem, PARAMS, ne.double_rotation(leaf("u"), leaf("w")))
    np.testing.assert_array_equal(moments.noise_minus, 0)
    assert float(jnp.trace(moments.noise_plus)) > 0


def test_stream_is_refused():
    problem = ne.Problem(linear, ne.Stream(lambda key: DATA))
    with pytest.raises(ValueError, match=r"noise_moments needs an expectation.*problem\.sampled\(key, n\)"):
        ne.noise_moments(problem, PARAMS, ne.rescaling(leaf("u"), leaf("w")))


def test_loss_that_is_not_a_scalar_is_refused():
    problem = ne.Problem(lambda p, z: p["u"] @ (p["w"] @ z[0]), DATA)
    with pytest.raises(ValueError, match=r"shape \(2,\) and dtype float64 for one sample; expected a real scalar"):
        ne.noise_moments(problem, PARAMS, ne.rescaling(leaf("u"), leaf("w")))


def test_an_escape_remembers_the_primitive_that_made_it():
    def loss(p, z):
        return jnp.sum((p["u"] @ (jnp.sin(p["w"]) @ z)) ** 2)

    tapped = tap(ne.Problem(loss, normal(1, 5, 4)), {"u": normal(2, 2, 3), "w": normal(3, 3, 4)}, [0, 1])
    assert (tapped.escaped, tapped.culprits) == ((1,), ("sin",))
