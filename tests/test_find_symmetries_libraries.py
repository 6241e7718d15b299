"""Models of Flax (linen and NNX) and Haiku as these libraries build them: what is found, if they are installed."""

import jax
import jax.numpy as jnp
import pytest
from cases_symmetries import N, fits, pairs, squared

import noise_equilibrium as ne

# The libraries promote dtypes themselves, and warn of each other.
pytestmark = [pytest.mark.float32, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def lenient():
    with jax.numpy_dtype_promotion("standard"):
        yield


def found(loss, params, data):
    return sorted(
        (str(one).replace("['params']", ""), one.algebra) for one in ne.find_symmetries(ne.Problem(loss, data), params)
    )


def test_attention_and_norms_of_flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="mix")(nn.LayerNorm(name="n1")(x))
            return x + nn.Dense(6, name="down")(nn.relu(nn.Dense(7, name="up")(nn.LayerNorm(name="n2")(x))))

    module, data = Block(), pairs(4, 6, y=(4, 6))
    params = module.init(jax.random.key(0), data[0][0])
    assert found(fits(module.apply), params, data) == [
        ("['down']['kernel'] rows ↔ ['up']['bias'], ['up']['kernel'] columns: 7 scalings", "diagonal"),
        (
            "['mix']['key']['kernel'] as _ block * ↔ ['mix']['query']['bias'] as block *, "
            "['mix']['query']['kernel'] as _ block *: 2 blocks of 3, GL",
            "symmetric",
        ),
        (
            "['mix']['key']['kernel'] axis 0, ['mix']['query']['kernel'] axis 0, ['mix']['value']['kernel'] axis 0 ↔ "
            "['n1']['bias'], ['n1']['scale']: 6 scalings",
            "diagonal",
        ),
        (
            "['mix']['out']['kernel'] as block * _ ↔ ['mix']['value']['bias'] as block *, "
            "['mix']['value']['kernel'] as _ block *: 2 blocks of 3, GL",
            "symmetric",
        ),
        ("['n2']['bias'], ['n2']['scale'] ↔ ['up']['kernel'] rows: 6 scalings", "diagonal"),
    ]


def test_a_convolution_with_frozen_batch_statistics_of_flax_linen():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(6, (3, 3), name="conv")(x)))
            return nn.Dense(4, name="out")(nn.max_pool(x, (2, 2), (2, 2)).reshape(-1))

    module, data = Net(), pairs(6, 6, 2, y=(4,))
    variables = module.init(jax.random.key(0), data[0][0])
    rest = {"batch_stats": variables["batch_stats"]}
    loss = lambda p, z: squared(module.apply({"params": p, **rest}, z[0]), z[1])  # noqa: E731
    assert found(loss, variables["params"], data) == [
        ("['conv']['bias'], ['conv']['kernel'] axis 3 ↔ ['norm']['scale']: 6 scalings", "diagonal"),
        ("['norm']['bias'], ['norm']['scale'] ↔ ['out']['kernel'] as (_9 *) _: 6 scalings", "diagonal"),
    ]


def test_attention_of_flax_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Block(nnx.Module):
        def __init__(self, rngs):
            options = {"decode": False, "deterministic": True, "rngs": rngs}
            self.mix = nnx.MultiHeadAttention(num_heads=2, in_features=6, qkv_features=8, **options)
            self.up, self.down = nnx.Linear(6, 7, rngs=rngs), nnx.Linear(7, 6, rngs=rngs)

        def __call__(self, x):
            x = x + self.mix(jnp.tanh(x))
            return x + self.down(nnx.relu(self.up(jnp.tanh(x))))

    graph, params, rest = nnx.split(Block(nnx.Rngs(0)), nnx.Param, ...)
    loss = fits(lambda p, x: nnx.merge(graph, p, rest)(x))
    words = [(one.replace(".value", ""), algebra) for one, algebra in found(loss, params, pairs(4, 6, y=(4, 6)))]
    assert words == [
        ("['down']['kernel'] rows ↔ ['up']['bias'], ['up']['kernel'] columns: 7 scalings", "diagonal"),
        (
            "['mix']['key']['kernel'] as _ block * ↔ ['mix']['query']['bias'] as block *, "
            "['mix']['query']['kernel'] as _ block *: 2 blocks of 4, GL",
            "symmetric",
        ),
        (
            "['mix']['out']['kernel'] as block * _ ↔ ['mix']['value']['bias'] as block *, "
            "['mix']['value']['kernel'] as _ block *: 2 blocks of 4, GL",
            "symmetric",
        ),
    ]


def test_a_multilayer_perceptron_of_haiku():
    hk = pytest.importorskip("haiku")
    net, data = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 3], name="net")(x))), pairs(4, y=(3,))
    params = net.init(jax.random.key(0), data[0][0])
    assert len(data[0]) == N
    assert found(fits(net.apply), params, data) == [
        (
            "['net/~/linear_0']['b'], ['net/~/linear_0']['w'] columns ↔ ['net/~/linear_1']['w'] rows: 8 scalings",
            "diagonal",
        )
    ]
