"""The models have the symmetries they come with, and are what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

MODELS = {
    "two-layer": (
        lambda key: linear.init(key, 3, 4, 2),
        linear,
        [linear.symmetry],
        (3, 2),
    ),
    "deep": (
        lambda key: ne.models.deep_linear.init(key, 3, [4, 5], 2),
        ne.models.deep_linear,
        ne.models.deep_linear.symmetries(3),
        (3, 2),
    ),
    "rank-one": (
        lambda key: ne.models.rank_one.init(key, 4),
        ne.models.rank_one,
        [ne.models.rank_one.symmetry, ne.models.rank_one.rescaling],
        ((), ()),
    ),
    "scale-invariant": (
        lambda key: jax.random.normal(key, (3,)),
        ne.models.scale_invariant,
        [ne.models.scale_invariant.symmetry],
        (3, ()),
    ),
    "relu": (
        lambda key: linear.init(key, 3, 4, 2),
        ne.models.two_layer.relu,
        ne.models.two_layer.relu.symmetries,
        (3, 2),
    ),
    "leaky-relu": (
        lambda key: linear.init(key, 3, 4, 2),
        ne.models.two_layer.leaky_relu,
        ne.models.two_layer.leaky_relu.symmetries,
        (3, 2),
    ),
    "net-a": (
        lambda key: linear.init(key, 3, 4, 2),
        ne.models.normalized.net_a,
        ne.models.normalized.net_a.symmetries,
        (3, 2),
    ),
    "net-b": (
        lambda key: linear.init(key, 3, 4, 2),
        ne.models.normalized.net_b,
        ne.models.normalized.net_b.symmetries,
        (3, 2),
    ),
    "deep-relu": (
        lambda key: ne.models.deep_relu.init(key, 3, [4, 5], 2, bias=0.5),
        ne.models.deep_relu.leaky_relu,
        ne.models.deep_relu.symmetries(3),
        (3, 2),
    ),
    "attention": (
        lambda key: ne.models.attention.init(key, 3, 4, 2),
        ne.models.attention.Network(),
        [ne.models.attention.Network().query_key, ne.models.attention.Network().value_output],
        ((5, 3), (5, 2)),
    ),
    "two heads": (
        lambda key: ne.models.attention.init(key, 3, 2, 2, heads=2),
        ne.models.attention.Network(2),
        [ne.models.attention.Network(2).query_key, ne.models.attention.Network(2).value_output],
        ((5, 3), (5, 2)),
    ),
}


def samples_of(shapes, n=5):
    sizes = [(size,) if isinstance(size, int) else size for size in shapes]
    return tuple(
        jax.random.normal(key, (n, *size))
        for key, size in zip(jax.random.split(jax.random.key(9), 2), sizes, strict=True)
    )


@pytest.mark.parametrize("name", slow_but(MODELS, *(MODELS.keys() - {"two heads", "deep"})))
def test_every_model_has_the_symmetries_next_to_it(name):
    start, model, symmetries, shapes = MODELS[name]
    params = start(jax.random.key(0))
    problem = ne.Problem(model.loss, samples_of(shapes))
    for symmetry in symmetries:
        ne.check_symmetry(problem, params, symmetry)
        charge = symmetry.charge(params)
        draw = jax.random.normal(jax.random.key(1), charge.shape)
        moved = symmetry.act(params, (draw + jnp.swapaxes(draw, -1, -2)) / 2 if draw.ndim > 1 else draw)
        np.testing.assert_allclose(problem.risk(moved), problem.risk(params), rtol=1e-10)
        assert float(jnp.linalg.norm(symmetry.charge(moved) - charge)) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_squared_error_of_its_prediction(name):
    start, model, _, shapes = MODELS[name]
    params, (x, y) = start(jax.random.key(0)), samples_of(shapes)
    errors = jax.vmap(model.predict, (None, 0))(params, x) - y
    losses = jax.jit(jax.vmap(model.loss, (None, 0)))(params, (x, y))
    np.testing.assert_allclose(losses, jnp.sum(errors.reshape(5, -1) ** 2, axis=1), rtol=1e-12)


def test_a_deep_network_is_the_product_of_its_weights():
    weights = ne.models.deep_linear.init(jax.random.key(0), 3, [4, 5], 2)
    assert [w.shape for w in weights] == [(4, 3), (5, 4), (2, 5)]
    x = jnp.arange(3.0)
    np.testing.assert_allclose(ne.models.deep_linear.predict(weights, x), weights[2] @ weights[1] @ weights[0] @ x)
    wide = ne.models.deep_linear.init(jax.random.key(0), 100, [90], 110)
    for weight in wide:
        np.testing.assert_allclose(jnp.std(weight), weight.shape[1] ** -0.5, rtol=0.05)
    upper, lower = ne.models.deep_linear.symmetries(3)[1].charge(weights), weights[2].T @ weights[2]
    np.testing.assert_allclose(upper, lower - weights[1] @ weights[1].T, rtol=1e-12, atol=1e-15)


def test_one_layer_has_no_double_rotation():
    with pytest.raises(ValueError, match="depth is 1; expected an integer of at least 2"):
        ne.models.deep_linear.symmetries(1)


def test_the_gradients_of_rank_one_are_the_factor_times_the_other_side():
    params, sample = ne.models.rank_one.init(jax.random.key(0), 4), (jnp.array(1.5), jnp.array(-0.5))
    factor = ne.models.rank_one.factor(params, sample)
    gradient = jax.grad(ne.models.rank_one.loss)(params, sample)
    np.testing.assert_allclose(gradient.up, factor * params.down, rtol=1e-13)
    np.testing.assert_allclose(gradient.down, factor * params.up, rtol=1e-13)


X = np.array([1.0, -2.0])


def test_two_layer_networks_by_hand():
    params = linear.Params(jnp.array([[2.0, 3.0]]), jnp.array([[1.0, 0.0], [1.0, 1.0]]))  # W x = (1, −1)
    expected = {
        "tanh": 2 * np.tanh(1) - 3 * np.tanh(1),
        "swish": 2 / (1 + np.exp(-1)) - 3 / (1 + np.exp(1)),
        "relu": 2.0,
        "leaky_relu": 2 - 0.3,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(ne.models.two_layer.Network(name).predict(params, X), [value], rtol=1e-14)
    assert ne.models.two_layer.tanh.symmetries == ne.models.two_layer.swish.symmetries == []
    with pytest.raises(ValueError, match="activation is 'gelu'; expected one of tanh, swish, relu, leaky_relu"):
        ne.models.two_layer.Network("gelu")


def test_the_rotation_of_tanh_holds_near_zero_only():
    """Its violation falls as the square of the inputs: tanh z = z − z³/3."""
    params = linear.init(jax.random.key(0), 3, 4, 2)
    x, y = samples_of((3, 2))
    near, far = (
        ne.symmetry_violation(
            ne.Problem(ne.models.two_layer.tanh.loss, (scale * x, y)), params, ne.models.two_layer.rotation
        )
        for scale in (1e-3, 1e-2)
    )
    np.testing.assert_allclose(far / near, 100, rtol=0.05)


def test_normalised_networks_by_hand():
    params = linear.Params(jnp.array([[3.0], [4.0]]), jnp.array([[0.0, 2.0]]))  # ‖U‖ = 5, ‖W‖ = 2, W x = −4
    net_a, net_b = ne.models.normalized.net_a, ne.models.normalized.net_b
    np.testing.assert_allclose(net_a.predict(params, X), np.array([3, 4]) / 2 * np.tanh(-4 / 5), rtol=1e-14)
    np.testing.assert_allclose(net_b.predict(params, X), np.array([3, 4]) / 5 * np.tanh(-4 / 2), rtol=1e-14)
    assert [symmetry.charge(params).tolist() for symmetry in net_b.symmetries] == [29, 25, 4, [25], [4]]


def test_a_deep_relu_network_by_hand():
    layer = ne.models.deep_relu.Layer
    params = [
        layer(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([0.5, 0.0])),  # (1.5, −1) → (1.5, −0.1)
        layer(jnp.array([[2.0, 1.0]]), jnp.array([-1.0])),  # 1.9
        layer(jnp.array([[3.0]]), jnp.array([1.0])),
    ]
    np.testing.assert_allclose(ne.models.deep_relu.leaky_relu.predict(params, X), [6.7], rtol=1e-14)
    np.testing.assert_allclose(ne.models.deep_relu.relu.predict(params, X), [7.0], rtol=1e-14)
    charges = [symmetry.charge(params) for symmetry in ne.models.deep_relu.symmetries(3)]
    np.testing.assert_allclose(charges[0], [1.25 - 4, 2 - 1])
    np.testing.assert_allclose(charges[1], [6 - 9])
    with pytest.raises(ValueError, match="depth is 1; expected an integer of at least 2"):
        ne.models.deep_relu.symmetries(1)
    wide = ne.models.deep_relu.init(jax.random.key(0), 100, [90], 110, bias=0.3)
    for (weight, bias), gain in zip(wide, (2, 1), strict=True):
        np.testing.assert_allclose(jnp.std(weight), (gain / weight.shape[1]) ** 0.5, rtol=0.05)
        np.testing.assert_allclose(jnp.std(bias), 0.3, rtol=0.25)  # standard error 1/√(2·90) = 7 %


def test_attention_by_hand():
    """One head of one number: weights softmax(q x_t k x_s), values v x_s."""
    q, k, v, o = 0.7, -0.4, 1.5, 2.0
    params = ne.models.attention.Params(*(jnp.array([[number]]) for number in (q, k, v, o)))
    x = np.array([[1.0], [-0.5], [2.0]])
    weights = np.exp(q * k * x * x.T)
    expected = o * v * (weights / weights.sum(axis=1, keepdims=True)) @ x
    np.testing.assert_allclose(ne.models.attention.Network().predict(params, jnp.asarray(x)), expected, rtol=1e-13)


def test_heads_add_up():
    single, double = ne.models.attention.Network(), ne.models.attention.Network(2)
    params = ne.models.attention.init(jax.random.key(0), 3, 2, 4, heads=2, std=(2.0, 1.0))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    heads = [
        ne.models.attention.Params(*(leaf[part] for leaf in params[:3]), params.out[:, part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose(double.predict(params, x), sum(single.predict(head, x) for head in heads), rtol=1e-12)
    for name in ("query_key", "value_output"):
        charges = [getattr(single, name).charge(head) for head in heads]
        np.testing.assert_allclose(getattr(double, name).charge(params), np.stack(charges), rtol=1e-12)
    with pytest.raises(ValueError, match="heads is 0; expected an integer of at least 1"):
        ne.models.attention.Network(0)


@pytest.mark.parametrize("name", slow_but(["net-a", "deep-relu", "two heads"], "two heads"))
def test_the_moments_of_the_models_are_those_of_the_dense_covariance(name):
    start, model, symmetries, shapes = MODELS[name]
    params = start(jax.random.key(0))
    problem = ne.Problem(model.loss, samples_of(shapes, 6))
    sigma, size = ne.gradient_covariance(problem, params), len(ne.flatten(params)[0])
    unflatten = ne.flatten(params)[1]
    for symmetry in symmetries:
        flow = ne.noether_flow(problem, params, symmetry, 0.5)  # 2σ² = 1
        element = jnp.zeros_like(flow).at[(..., *[0] * min(flow.ndim, 2))].set(1)  # the first neuron, or entry
        columns = jax.vmap(lambda e, s=symmetry, w=element: ne.flatten(s.generator(unflatten(e), w))[0])(jnp.eye(size))
        expected = jnp.sum(sigma * columns)
        np.testing.assert_allclose(jnp.sum(flow * element), expected, rtol=1e-9)
