"""Two-layer networks U φ(W x) with an activation φ: ℓ = ‖U φ(Wx) − y‖², and the symmetry of homogeneous ones.

    network     φ                      symmetry
    tanh        tanh z                 none that is exact; near z = 0 the double rotation of `two_layer_linear`
    swish       z/(1 + e^{−z})         none that is exact; near z = 0 likewise, with φ ≈ z/2
    relu        max(z, 0)              one rescaling per neuron
    leaky_relu  max(z, 0.1 z)          one rescaling per neuron

A double rotation that holds only approximately still moves the network towards U and W in balance, Section 5.4.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._symmetry import Symmetry, neuron_rescaling
from .two_layer_linear import Params, init, symmetry

__all__ = ["Network", "Params", "init", "leaky_relu", "relu", "rotation", "swish", "tanh"]

LEAK = 0.1
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "swish": jax.nn.swish,
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, LEAK),
}
rotation = symmetry
"""U → U P, W → P⁻¹ W; only approximate for tanh and swish, and none for the others beyond its diagonal."""


class Network(eqx.Module):
    """U φ(W x); call `network.loss(params, sample)`, with params as in `two_layer_linear`.

    Args:
        activation: the name of φ: tanh, swish, relu or leaky_relu.

    Raises:
        ValueError: for another name.
    """

    activation: str = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}.")

    def predict(self, params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
        """U φ(W x)."""
        return ACTIVATIONS[self.activation](x @ params.down.T) @ params.up.T

    def loss(self, params: Params, sample: tuple[Float[Array, " d_x"], Float[Array, " d_y"]]) -> Float[Array, ""]:
        """‖U φ(Wx) − y‖²; no factor ½, summed over outputs."""
        x, y = sample
        return jnp.sum((self.predict(params, x) - y) ** 2)

    @property
    def symmetries(self) -> list[Symmetry]:
        """The exact ones: w_j → (1+ρ_j)w_j, u_j → (1−ρ_j)u_j where φ is homogeneous; charges ‖w_j‖² − ‖u_j‖²."""
        if self.activation in ("tanh", "swish"):
            return []
        return [neuron_rescaling((lambda params: params.down, 0), (lambda params: params.up, 1))]


tanh, swish, relu, leaky_relu = (Network(name) for name in ACTIVATIONS)
