"""Densities and exponents in closed form (theory, "Stationary law of a balanced product")."""

from collections.abc import Callable

import numpy as np

GRID = 200_001


class Law:
    """The stationary law of v = m^D for D balanced factors u_i = m, from e(v) = E r' and q(v) = Var r'.

    dm = −e m^{D−1} dt + √(2σ²q) m^{D−1} dW has the stationary density
    p(m) ∝ m^{−2(D−1)} q⁻¹ exp(−∫ e/(σ²q m^{D−1}) dm) on m > 0; for D = 2 that of v is proportional to
    v^{−3/2} q⁻¹ exp(−∫ e/(2σ²vq) dv).

    Args:
        depth: D.
        mean: e, of v.
        variance: q, of v.
        scale: σ².
        largest: of m, beyond which there is nothing.
    """

    def __init__(
        self,
        depth: int,
        mean: Callable[[np.ndarray], np.ndarray],
        variance: Callable[[np.ndarray], np.ndarray],
        scale: float,
        largest: float,
    ):
        # In log m, where the density is smooth down to 0.
        log = np.linspace(np.log(largest) - 30, np.log(largest), GRID)
        m = np.exp(log)
        v = m**depth
        # A push of e/m^{D−1} beyond these numbers is a wall.
        push = np.clip(-mean(v) / (scale * variance(v) * m ** (depth - 2)), -1e6, 1e6)
        potential = np.concatenate([[0], np.cumsum((push[1:] + push[:-1]) / 2 * np.diff(log))])
        exponent = potential - (2 * depth - 3) * log - np.log(variance(v))
        weight = np.exp(exponent - exponent.max())
        total = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2 * np.diff(log))])
        self.v, self.below = v, total / total[-1]
        self.density = weight / total[-1] / (depth * v)  # of v, from that of log m

    def quantile(self, share: np.ndarray) -> np.ndarray:
        """The v below which this share of the law lies."""
        return np.interp(share, self.below, self.v)
