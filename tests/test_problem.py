"""Problems: the risk, streams, losses of every kind, and wrong input."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium._problem import weighted_gradient

DATA = np.array([1.0, 2.0, 4.0])


def squared(w, z):
    return jnp.sum((w * z - 1) ** 2)


class Scaled(eqx.Module):
    """A loss with a number of its own, and with leaves that are neither number nor array."""

    scale: float
    activation: object = jnp.tanh
    name: str = "scaled"

    def __call__(self, w, z):
        return self.scale * jnp.sum(self.activation(w * z))


# --- the risk --------------------------------------------------------------------------------------------------------


def test_risk_in_closed_form():
    w, decay = jnp.array([0.5, -1.0]), 0.25
    expected = np.mean([(0.5 * z - 1) ** 2 + (z + 1) ** 2 for z in DATA]) + decay * 1.25
    np.testing.assert_allclose(ne.Problem(squared, DATA, decay).risk(w), expected, rtol=1e-15)


def test_weight_decay_counts_every_parameter_and_nothing_else():
    params = {"w": jnp.array([3.0]), "b": jnp.array(4.0), "table": jnp.arange(5), "rate": 2.0}
    problem = ne.Problem(lambda p, z: 0.0 * z, DATA, weight_decay=0.1)
    np.testing.assert_allclose(problem.risk(params), 0.1 * 25, rtol=1e-15)


def test_derivative_of_risk_is_that_of_the_update_of_sgd():
    problem, w = ne.Problem(squared, DATA, 0.3), jnp.array([0.5, -1.0])
    data_part = np.mean(2 * DATA[:, None] * (DATA[:, None] * w - 1), axis=0)
    np.testing.assert_allclose(jax.grad(problem.risk)(w), data_part + 2 * 0.3 * w, rtol=1e-14)


def test_risk_under_vmap_over_params_data_and_decay():
    problem = ne.Problem(squared, DATA, 0.3)
    params = jnp.array([[0.5], [1.0], [2.0]])
    decays = jnp.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(jax.vmap(problem.risk)(params), [problem.risk(w) for w in params], rtol=1e-15)
    swept = jax.vmap(lambda data, decay: ne.Problem(squared, data, decay).risk(params[1]), (None, 0))(DATA, decays)
    np.testing.assert_allclose(swept, [ne.Problem(squared, DATA, float(d)).risk(params[1]) for d in decays], rtol=1e-15)


def test_a_problem_is_a_pytree():
    problem = ne.Problem(squared, DATA, 0.3)
    doubled = jax.tree.map(lambda x: 2 * x, problem)
    assert (doubled.weight_decay, doubled.data.tolist()) == (0.6, [2, 4, 8])
    w = jnp.array([0.5])
    np.testing.assert_allclose(jax.jit(lambda p, w: p.risk(w))(problem, w), problem.risk(w), rtol=1e-15)


def test_num_samples_and_kind():
    assert ne.Problem(squared, {"x": np.ones((4, 2)), "y": (np.ones(4), None)}).num_samples == 4
    assert not ne.Problem(squared, DATA).is_stream


def test_weighted_gradient_is_the_sum_of_weighted_gradients():
    weights, params = jnp.array([0.5, -2.0, 3.0]), {"w": jnp.array([0.5, -1.0]), "f": jnp.tanh}
    problem = ne.Problem(lambda p, z: squared(p["f"](p["w"]), z), DATA, weight_decay=7.0)
    (gradient,) = weighted_gradient(problem, params, problem.data, weights)
    each = [jax.grad(lambda w, z=z: squared(jnp.tanh(w), z))(params["w"]) for z in DATA]
    np.testing.assert_allclose(gradient, sum(w * g for w, g in zip(weights, each, strict=True)), rtol=1e-14)


@pytest.mark.float32
def test_dtype_follows_the_params_in_single_precision():
    problem = ne.Problem(lambda w, z: jnp.sum((w * z - 1) ** 2), DATA, weight_decay=0.1)
    assert problem.risk(jnp.ones(2)).dtype == jnp.float32


def test_dtype_follows_the_params_under_x64():
    problem = ne.Problem(squared, DATA.astype(np.float32), weight_decay=0.1)
    assert problem.risk(jnp.ones(2, jnp.float32)).dtype == jnp.float32


def test_a_decay_keeps_its_double_precision():
    assert float(ne.Problem(lambda w, z: 0 * z, DATA, 0.1).risk(jnp.array(1.0))) == 0.1


# --- losses of every kind --------------------------------------------------------------------------------------------


def test_numbers_never_recompile():
    class Counted(Scaled):
        @chex.assert_max_traces(n=1)
        def __call__(self, w, z):
            return super().__call__(w, z)

    w = jnp.array([0.5])
    values = [
        float(ne.Problem(Counted(scale), factor * DATA, decay).risk(w))
        for scale, factor, decay in [(1.0, 1.0, 0.0), (2.0, 1.0, 0.5), (3.0, 2.0, 1.5)]
    ]
    expected = [s * np.mean(np.tanh(0.5 * f * DATA)) + d * 0.25 for s, f, d in [(1, 1, 0), (2, 1, 0.5), (3, 2, 1.5)]]
    np.testing.assert_allclose(values, expected, rtol=1e-14)


def test_vmap_over_a_number_in_the_loss():
    w = jnp.array([0.5])
    risks = jax.vmap(lambda scale: ne.Problem(Scaled(scale), DATA).risk(w))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(risks, np.mean(np.tanh(0.5 * DATA)) * np.array([1, 2]), rtol=1e-14)


def test_derivative_with_respect_to_a_number_in_the_loss():
    slope = jax.grad(lambda scale: ne.Problem(Scaled(scale), DATA).risk(jnp.array([0.5])))(3.0)
    np.testing.assert_allclose(slope, np.mean(np.tanh(0.5 * DATA)), rtol=1e-14)


def test_moments_of_a_module_loss_under_vmap_over_its_number():
    def noise(scale):
        return ne.noise_moments(ne.Problem(Scaled(scale), DATA), jnp.array([0.5]), ne.scaling()).noise_plus

    np.testing.assert_allclose(jax.vmap(noise)(jnp.array([1.0, 3.0])), [noise(1.0), 9 * noise(1.0)], rtol=1e-13)


def test_a_python_float_in_params_is_a_constant_of_the_model():
    class Model(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        slope: float

    linear = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0))
    model = Model(linear, eqx.nn.Dropout(0.5, inference=True), 3.0)

    def loss(model, z):
        assert isinstance(model.slope, float)  # not traced, so that a model may branch on it
        return jnp.sum(model.dropout(model.slope * model.linear(z[None])))

    problem = ne.Problem(loss, DATA, weight_decay=1.0)
    weight = float(linear.weight[0, 0])
    np.testing.assert_allclose(problem.risk(model), 3 * weight * np.mean(DATA) + weight**2, rtol=1e-14)
    assert ne.flatten(model)[0].shape == (1,)
    noise = ne.sample_noise(problem, model, jax.random.key(0))
    assert (noise.slope, noise.dropout.p, noise.linear.weight.shape) == (3.0, 0.5, (1, 1))


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), jnp.asarray(0.5)], ids=["float", "numpy", "jax"])
def test_a_loss_may_return_any_real_number(value):
    assert float(ne.Problem(lambda w, z: value, DATA).risk(jnp.ones(1))) == 0.5


# --- streams ---------------------------------------------------------------------------------------------------------


def draw(key):
    x_key, y_key = jax.random.split(key)
    return {"x": jax.random.normal(x_key, (2,)), "y": jax.random.normal(y_key)}


def test_sampled_draws_n_independent_samples():
    problem = ne.Problem(lambda w, z: z["y"] * jnp.sum(w * z["x"]), ne.Stream(draw), weight_decay=0.25)
    finite = problem.sampled(jax.random.key(1), 4)
    assert (problem.is_stream, finite.is_stream, finite.num_samples, finite.weight_decay) == (True, False, 4, 0.25)
    assert finite.data["x"].shape == (4, 2)
    assert len(np.unique(np.asarray(finite.data["x"]))) == 8
    again, other = problem.sampled(jax.random.key(1), 4), problem.sampled(jax.random.key(2), 4)
    np.testing.assert_array_equal(finite.data["x"], again.data["x"])
    assert not np.array_equal(finite.data["x"], other.data["x"])
    assert np.isfinite(finite.risk(jnp.ones(2)))


def test_a_stream_may_be_a_module_with_numbers():
    class Uniform(eqx.Module):
        top: float

        def __call__(self, key):
            return self.top * jax.random.uniform(key)

    wide = ne.Problem(squared, ne.Stream(Uniform(100.0))).sampled(jax.random.key(0), 50).data
    assert 90 < float(jnp.max(wide)) <= 100


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ones((3, 2)), np.ones(4)), r"leaves of data differ in length \(data\[0\]: 3, data\[1\]: 4\)"),
        ({"x": np.ones((2, 3)), "y": np.ones(3)}, r"differ in length \(data\['x'\]: 2, data\['y'\]: 3\)"),
        ((), "data has no array"),
        (None, "data has no array"),
        ({"x": np.ones(3), "s": np.float64(1)}, r"data\['s'\] is a scalar; expected an array with a leading axis"),
        ((np.ones(3), 2.0), r"data\[1\] is float; expected an array"),
        ([1.0, 2.0, 3.0], r"data\[0\] is float; expected an array"),
        (np.ones((0, 2)), "data holds 0 samples; expected at least 1"),
    ],
    ids=["lengths", "named", "empty", "none", "scalar", "number", "list", "no-samples"],
)
def test_data_that_are_not_samples_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ne.Problem(squared, data)


@pytest.mark.parametrize("decay", [-0.1, np.float32(-1), np.nan, jnp.array([0.1, -0.1])], ids=str)
def test_negative_weight_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"weight_decay is .*; expected a number γ ≥ 0"):
        ne.Problem(squared, DATA, decay)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(1), r"array of shape \(1,\) and dtype float64 for one sample; expected a real scalar"),
        (np.asarray(1), r"array of shape \(\) and dtype int64 for one sample"),
        (np.asarray(1j), "dtype complex128 for one sample"),
        (1, "the loss returned int; expected a real scalar"),
        (None, "the loss returned NoneType; expected a real scalar"),
        ((1.0, {}), "the loss returned tuple; expected a real scalar"),
    ],
    ids=["vector", "integer", "complex", "int", "none", "tuple"],
)
def test_a_loss_that_is_not_a_real_scalar_is_refused(value, message):
    problem = ne.Problem(lambda w, z: value, DATA)
    with pytest.raises(ValueError, match=message):
        problem.risk(jnp.ones(2))


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="got float; expected a function loss"):
        ne.Problem(1.0, DATA)
    with pytest.raises(ValueError, match="got ndarray; expected a function draw"):
        ne.Stream(DATA)


@pytest.mark.parametrize("params", [1.0, (1.0, "w"), jnp.arange(2)], ids=["bare-float", "tuple", "integers"])
def test_params_without_arrays_are_refused(params):
    with pytest.raises(ValueError, match="params has no floating-point array"):
        ne.Problem(lambda p, z: z, DATA).risk(params)


STREAM = ne.Problem(squared, ne.Stream(jax.random.normal))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("risk", lambda: STREAM.risk(jnp.ones(1))),
        ("num_samples", lambda: STREAM.num_samples),
        ("noise_moments", lambda: ne.noise_moments(STREAM, jnp.ones(1), ne.scaling())),
        ("gradient_covariance", lambda: ne.gradient_covariance(STREAM, jnp.ones(1))),
        ("sample_noise", lambda: ne.sample_noise(STREAM, jnp.ones(1), jax.random.key(0))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stream_is_refused_where_an_expectation_is_needed(name, call):
    with pytest.raises(ValueError, match=rf"{name} needs an expectation .* problem\.sampled\(key, n\)"):
        call()


def test_sampling_finite_data_is_refused():
    with pytest.raises(ValueError, match=r"finite already \(3 samples\)"):
        ne.Problem(squared, DATA).sampled(jax.random.key(0), 2)


@pytest.mark.parametrize("n", [0, -1])
def test_sampling_fewer_than_one_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}; expected an integer of at least 1"):
        STREAM.sampled(jax.random.key(0), n)


BAD_KEYS = {
    "none": (lambda: None, "got no key"),
    "seed": (lambda: 0, "got 0 as its key"),
    "rbg": (lambda: jax.random.key(0, impl="rbg"), "key of implementation .*rbg.*; expected threefry2x32"),
    "batch": (lambda: jax.random.split(jax.random.key(0), 3), r"got \(3,\) keys; expected a single one"),
    "floats": (lambda: jnp.zeros(2), r"array of dtype float64 and shape \(2,\) as its key"),
}
every_bad_key = pytest.mark.parametrize("name", BAD_KEYS)


@every_bad_key
def test_unsuitable_key_for_sampled_is_refused(name):
    make, message = BAD_KEYS[name]
    with pytest.raises(ValueError, match=message):
        STREAM.sampled(make(), 2)


@every_bad_key
def test_unsuitable_key_for_sample_noise_is_refused(name):
    make, message = BAD_KEYS[name]
    with pytest.raises(ValueError, match=message):
        ne.sample_noise(ne.Problem(squared, DATA), jnp.ones(1), make())
