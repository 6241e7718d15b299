"""Linear regression data with known covariances."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


class LinearTeacher(eqx.Module):
    """y = V x + ε with x ~ N(0, Σ_x) and ε ~ N(0, Σ_ε) independent; `Stream(LinearTeacher(...))` is the population.

    Args:
        V: the teacher, of shape (d_y, d_x).
        cov_x: Σ_x, symmetric positive semidefinite, of shape (d_x, d_x).
        cov_noise: Σ_ε, likewise, of shape (d_y, d_y).

    Raises:
        ValueError: if the shapes do not fit, or a covariance is not symmetric positive semidefinite.
    """

    V: Float[Array, "d_y d_x"]
    root_x: Float[Array, "d_x d_x"]
    root_noise: Float[Array, "d_y d_y"]

    def __init__(self, V: Float[Array, "d_y d_x"], cov_x: Float[Array, "d_x d_x"], cov_noise: Float[Array, "d_y d_y"]):
        d_y, d_x = np.shape(V)
        self.V = jnp.asarray(V)
        self.root_x = jnp.asarray(_root(cov_x, d_x, "cov_x"), self.V.dtype)
        self.root_noise = jnp.asarray(_root(cov_noise, d_y, "cov_noise"), self.V.dtype)

    def __call__(self, key: PRNGKeyArray) -> tuple[Float[Array, " d_x"], Float[Array, " d_y"]]:
        """One sample (x, y)."""
        d_y, d_x = self.V.shape
        normal = jax.random.normal(key, (d_x + d_y,), self.V.dtype)
        x = self.root_x @ normal[:d_x]
        return x, self.V @ x + self.root_noise @ normal[d_x:]

    def moment_matched(self) -> tuple[Float[Array, "n d_x"], Float[Array, "n d_y"]]:
        """N = d_x + d_y samples whose second moments are exactly those of the population.

        The risk of a loss that is quadratic in (x, y) is therefore the population's, and so is gradient descent on it.
        Higher moments are not: the gradient noise of these samples is not the population's.
        """
        d_y, d_x = self.V.shape
        n = d_x + d_y
        spread = jnp.asarray(n**0.5, self.V.dtype)
        x = spread * jnp.concatenate([self.root_x, jnp.zeros((d_y, d_x), self.V.dtype)])
        noise = spread * jnp.concatenate([jnp.zeros((d_x, d_y), self.V.dtype), self.root_noise])
        return x, x @ self.V.T + noise


def _root(covariance: Float[Array, "d d"], size: int, name: str) -> np.ndarray:
    """The symmetric square root, in double precision."""
    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.shape != (size, size):
        raise ValueError(f"{name} has shape {matrix.shape}; expected {(size, size)} to fit V.")
    values, vectors = np.linalg.eigh(matrix)
    if not np.allclose(matrix, matrix.T) or values[0] < -1e-6 * max(values[-1], 0):
        raise ValueError(f"{name} is not symmetric positive semidefinite (least eigenvalue {values[0]:.3g}).")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
