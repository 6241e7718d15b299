"""Problems that several files of tests share."""

import jax
import jax.numpy as jnp

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

UP, DOWN = (leg.where for leg in linear.symmetry.legs)
SCALAR = ne.rescaling(UP, DOWN)
DIAGONAL = ne.neuron_rescaling((UP, 1), (DOWN, 0))
SYMMETRIES = {"scalar": SCALAR, "diagonal": DIAGONAL, "symmetric": linear.symmetry}  # of the two-layer linear network
BLOCKS = ne.double_rotation(UP, DOWN, blocks=2)
NEURONS = ne.neuron_rescaling([(lambda p: p["w"], 0), (lambda p: p["b"], 0)], (lambda p: p["u"], 1))


def linear_problem(d_out, d, d_in, samples, *, decay=0.0, seed=0, std=None):
    """The two-layer linear network on normal inputs and normal targets, and where to start."""
    keys = jax.random.split(jax.random.key(seed), 3)
    data = jax.random.normal(keys[0], (samples, d_in)), jax.random.normal(keys[1], (samples, d_out))
    return ne.Problem(linear.loss, data, decay), linear.init(keys[2], d_in, d, d_out, std)


def scale_free_loss(theta, sample):
    x, y = sample
    return (jnp.dot(theta, x) / jnp.linalg.norm(theta) - y) ** 2


def scale_free_problem(decay):
    keys = jax.random.split(jax.random.key(3), 3)
    data = jax.random.normal(keys[0], (7, 3)), jax.random.normal(keys[1], (7,))
    return ne.Problem(scale_free_loss, data, decay), jax.random.normal(keys[2], (3,))


def relu_loss(params, sample):
    """A ReLU network with biases, which has the symmetry `NEURONS`."""
    x, y = sample
    return jnp.sum((params["u"] @ jax.nn.relu(params["w"] @ x + params["b"]) - y) ** 2)


def status(equilibrium):
    return ne.Status(int(equilibrium.status))
