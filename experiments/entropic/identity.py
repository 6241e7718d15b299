"""The slope of the entropic loss along orbits against the steps of SGD themselves, for every family of symmetries.

−2 dF/dλ = E[C(θ') − C(θ)]/η over all steps θ' = θ − ηg_i, at random points that are no minima. The right side is an
average of charges over all samples: it knows neither the entropic loss nor the law of the charge.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noise_equilibrium as ne
from experiments._metrics import Metric
from noise_equilibrium.models import attention, deep_linear, deep_relu, normalized
from noise_equilibrium.models import two_layer_linear as linear

RATE, SAMPLES = 0.1, 7


def families(seed: int) -> dict[str, tuple[Any, Any, Any, Any]]:
    """For each family a loss, its data, random parameters, and a symmetry."""
    keys = jax.random.split(jax.random.key(seed), 8)

    def normal(place: int, *shape: int) -> jax.Array:
        return jax.random.normal(keys[place], (SAMPLES, *shape), jnp.float64)

    def double(params: Any) -> Any:
        return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    pairs = normal(0, 3), normal(1, 2)
    two = double(linear.init(keys[2], 3, 4, 2))
    up, down = (leg.where for leg in linear.symmetry.legs)
    signs = np.diag([1.0] * 8 + [-1.0] * 12)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    mixed = turn @ np.diag([1.0, 0.5, -0.5, -1]) @ turn.T
    # U → U e^{Z}, W → e^{−Z}W as one matrix on the vector of all parameters, row by row.
    generator = np.block(
        [
            [np.kron(np.eye(2), mixed), np.zeros((8, 12))],
            [np.zeros((12, 8)), -np.kron(mixed, np.eye(3))],
        ]
    )
    heads = attention.Network(2)
    tokens = normal(3, 3, 4), normal(4, 3, 2)
    net = double(normalized_params(keys[5]))
    return {
        "scalar": (linear.loss, pairs, two, ne.rescaling(up, down)),
        "diagonal": (linear.loss, pairs, two, ne.neuron_rescaling((up, 1), (down, 0))),
        "symmetric": (linear.loss, pairs, two, linear.symmetry),
        "blocks": (linear.loss, pairs, two, ne.double_rotation(up, down, blocks=2)),
        "diagonal generator": (linear.loss, pairs, two, ne.exponential_symmetry(signs)),
        "any spectrum": (linear.loss, pairs, two, ne.exponential_symmetry(generator)),
        "ReLU neurons": (
            deep_relu.relu.loss,
            pairs,
            double(deep_relu.init(keys[6], 3, (5, 4), 2, 0.5)),
            deep_relu.symmetries(3)[1],
        ),
        "deep linear": (
            deep_linear.loss,
            pairs,
            double(deep_linear.init(keys[7], 3, (4, 3), 2)),
            deep_linear.symmetries(3)[1],
        ),
        "attention heads": (
            heads.loss,
            tokens,
            double(attention.init(keys[5], 4, 3, 2, heads=2)),
            heads.query_key,
        ),
        "scale invariance": (normalized.net_a.loss, pairs, net, normalized.net_a.symmetries[0]),
    }


def normalized_params(key: jax.Array) -> Any:
    """Weights of Net-A."""
    return linear.init(key, 3, 4, 2)


def metrics(seed: int) -> list[Metric]:
    """The largest relative error over random elements of each family."""
    return [
        Metric(f"−2 dF/dλ against the steps of SGD: {name}", 0, error(seed, *parts), high=1e-11)
        for name, parts in families(seed).items()
    ]


def error(seed: int, loss: Any, data: Any, params: Any, symmetry: Any) -> float:
    """For one family; relative to the mean size of a change of the charge."""
    problem = ne.Problem(loss, data)
    charge = symmetry.charge(params)
    element = jax.random.normal(jax.random.key(seed + 1), charge.shape, jnp.float64)
    element = element + jnp.swapaxes(element, -1, -2) if element.ndim > 1 else element

    def entropic(size: Any) -> Any:
        return ne.entropic_loss(problem, symmetry.act(params, size * element), ne.SGD(RATE, 1))

    def after(sample: Any) -> Any:
        slope = jax.grad(problem.loss)(params, sample)
        return symmetry.charge(jax.tree_util.tree_map(lambda leaf, g: leaf - RATE * g, params, slope))

    slope = -2 * jax.jit(jax.grad(entropic))(0.0)
    changes = jnp.sum(element * (jax.jit(jax.vmap(after))(data) - charge), axis=tuple(range(1, charge.ndim + 1)))
    return float(jnp.abs(slope - changes.mean() / RATE) / (jnp.abs(changes).mean() / RATE))
