"""Linear regression data with known covariances."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._linalg import svd
from ._cubature import normal_points


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

    def __init__(self, V: ArrayLike, cov_x: ArrayLike, cov_noise: ArrayLike):
        d_y, d_x = np.shape(V)
        self.V = jnp.asarray(V)
        self.root_x = jnp.asarray(_root(cov_x, d_x, "cov_x"), self.V.dtype)
        self.root_noise = jnp.asarray(_root(cov_noise, d_y, "cov_noise"), self.V.dtype)

    def __call__(self, key: PRNGKeyArray) -> tuple[Float[Array, " d_x"], Float[Array, " d_y"]]:
        """One sample (x, y)."""
        return self._sample(jax.random.normal(key, (sum(self.V.shape),), self.V.dtype))

    def moment_matched(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d_x"], Float[Array, "n d_y"]]:
        """n samples, corrected so that the second moments of (x, ε) are exactly those of the population.

        A risk that is quadratic in (x, y) is therefore exactly the population's, and so is gradient descent on it.
        Higher moments, and so the gradient noise, are those of n draws: the population's as n grows.

        Args:
            key: a JAX PRNG key.
            n: the number of samples, at least d_x + d_y.

        Raises:
            ValueError: if n < d_x + d_y.
        """
        size = sum(self.V.shape)
        if n < size:
            raise ValueError(f"n is {n}; expected at least d_x + d_y = {size} samples.")
        # The polar factor: of all matrices with orthonormal columns the closest to what was drawn.
        left, _, right = svd(jax.random.normal(key, (n, size), self.V.dtype))
        return jax.vmap(self._sample)(jnp.sqrt(jnp.asarray(n, self.V.dtype)) * (left @ right))

    def noise_matched(self) -> tuple[Float[Array, "n d_x"], Float[Array, "n d_y"]]:
        """A finite data set with all moments of the population up to the fourth degree: a linear network cannot tell.

        The per-sample gradient of a linear network of any depth is quadratic in (x, y). On these samples it therefore
        has exactly the population's mean and covariance, and so the risk, the noise moments, the Noether flow, the
        equilibria, gradient descent and the SDE are those of the population; no sampling error, no key. (SGD is not:
        its gradients have more moments than two. Run it on `Stream(teacher)`.)

        Returns:
            x and y of N = (2^r + 2)² samples, r ≥ 2 the smallest with d_x + d_y < 2^r: 36 samples for up to 3
            dimensions, 100 for 7, 324 for 15, 1156 for 31, 4356 for 63.

        Raises:
            ValueError: if d_x + d_y > 255.

        Examples:
            >>> import numpy as np, noise_equilibrium as ne
            >>> x, y = ne.data.LinearTeacher(np.eye(2), np.eye(2), np.eye(2)).noise_matched()
            >>> x.shape, round(float((x[:, 0] ** 4).mean()), 4), round(float((x[:, 0] ** 2 * x[:, 1] ** 2).mean()), 4)
            ((100, 2), 3.0, 1.0)
        """
        return jax.vmap(self._sample)(jnp.asarray(normal_points(sum(self.V.shape)), self.V.dtype))

    def _sample(self, normal: Float[Array, " dims"]) -> tuple[Float[Array, " d_x"], Float[Array, " d_y"]]:
        d_x = self.V.shape[1]
        x = self.root_x @ normal[:d_x]
        return x, self.V @ x + self.root_noise @ normal[d_x:]


def _root(covariance: ArrayLike, size: int, name: str) -> np.ndarray:
    """The symmetric square root, in double precision."""
    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.shape != (size, size):
        raise ValueError(f"{name} has shape {matrix.shape}; expected {(size, size)} to fit V.")
    values, vectors = np.linalg.eigh(matrix)
    # Of a singular covariance in single precision the least eigenvalue may be −dε of the largest, some −1e-6.
    if not np.allclose(matrix, matrix.T) or values[0] < -1e-6 * max(values[-1], 0):
        raise ValueError(f"{name} is not symmetric positive semidefinite (least eigenvalue {values[0]:.3g}).")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
