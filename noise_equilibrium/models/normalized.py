"""Two-layer tanh networks with normalised weights, which do not know the size of their parameters: Figure 7.

With W_j the rows of W, U_j the columns of U and h hidden units,

    Net-A    f(x) = Σ_j (U_j/‖W_j‖) tanh(W_j·x/‖U_j‖),    invariant under (U_j, W_j) → c_j (U_j, W_j),
    Net-B    f(x) = Σ_j (U_j/‖U_j‖) tanh(W_j·x/‖W_j‖),    invariant under U_j → c_j U_j and W_j → c'_j W_j apart.

So the noise lets every ‖U_j‖² + ‖W_j‖² grow in Net-A, and every ‖U_j‖² and every ‖W_j‖² in Net-B (Appendix A.1).
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._symmetry import Leg, Symmetry, scaling
from .two_layer_linear import Params, init

__all__ = ["NetA", "NetB", "Params", "init", "net_a", "net_b"]


class _Network(eqx.Module):
    """What both have in common: the squared error."""

    @abc.abstractmethod
    def predict(self, params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
        """The output."""

    def loss(self, params: Params, sample: tuple[Float[Array, " d_x"], Float[Array, " d_y"]]) -> Float[Array, ""]:
        """‖f(x) − y‖²; no factor ½, summed over outputs. Not differentiable where a norm is 0."""
        x, y = sample
        return jnp.sum((self.predict(params, x) - y) ** 2)


class NetA(_Network):
    """Each layer is divided by the norm of the other."""

    def predict(self, params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
        """Σ_j (U_j/‖W_j‖) tanh(W_j·x/‖U_j‖)."""
        rows, columns = _norms(params)
        return jnp.tanh(x @ params.down.T / columns) / rows @ params.up.T

    @property
    def symmetries(self) -> list[Symmetry]:
        """Of everything, and of every neuron; charges ‖θ‖² and ‖U_j‖² + ‖W_j‖²."""
        return [scaling(), Symmetry((Leg(_down, 0), Leg(_up, 1)), "diagonal")]


class NetB(_Network):
    """Each layer is divided by its own norm."""

    def predict(self, params: Params, x: Float[Array, " d_x"]) -> Float[Array, " d_y"]:
        """Σ_j (U_j/‖U_j‖) tanh(W_j·x/‖W_j‖)."""
        rows, columns = _norms(params)
        return jnp.tanh(x @ params.down.T / rows) / columns @ params.up.T

    @property
    def symmetries(self) -> list[Symmetry]:
        """Of everything, of each layer, and of every neuron in each; charges are the squared norms."""
        neurons = [Symmetry((Leg(where, axis),), "diagonal") for where, axis in ((_up, 1), (_down, 0))]
        return [scaling(), scaling(_up), scaling(_down), *neurons]


def _up(params: Params) -> Array:
    return params.up


def _down(params: Params) -> Array:
    return params.down


def _norms(params: Params) -> tuple[Float[Array, " h"], Float[Array, " h"]]:
    """‖W_j‖ and ‖U_j‖."""
    return jnp.linalg.norm(params.down, axis=1), jnp.linalg.norm(params.up, axis=0)


net_a, net_b = NetA(), NetB()
