"""The two regressions of the study, y = Vx + ε with white x and ε, and how much sharpness SGD can stand on them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import noise_equilibrium as ne
from noise_equilibrium.models.two_layer_linear import Params, loss

NOISE = 1.0  # σ_ε


@dataclass(frozen=True)
class Task:
    """One panel of the figure.

    Attributes:
        name: its name.
        size: d_x = d_y = d.
        rank: of V, whose singular values are 1.
        width: d_h.
        low: η at the start of the warmup.
        high: η at its end.
        warmup: its steps.
        steps: of a run at the high rate.
        final: η after these, at which Tr ∇²L is compared with theory: that lies O(η) beside it.
        cooling: the steps at the final rate.
        batch: S.
    """

    name: str
    size: int
    rank: int
    width: int
    low: float
    high: float
    warmup: int
    steps: int
    final: float
    cooling: int
    batch: int = 8

    @property
    def teacher(self) -> np.ndarray:
        """V; rotations of x and y, which are white, change nothing, so it is diagonal."""
        return np.diag((np.arange(self.size) < self.rank).astype(np.float32))

    @property
    def problem(self) -> ne.Problem:
        """‖UWx − y‖² over the population."""
        teacher = jnp.asarray(self.teacher)

        def sample(key: Array) -> tuple[Array, Array]:
            x, noise = jax.random.normal(key, (2, self.size))
            return x, teacher @ x + NOISE * noise

        return ne.Problem(loss, ne.Stream(sample))

    @property
    def schedule(self) -> optax.Schedule:
        """η from low to high, linearly, then high, and from `steps` on the final one."""
        return optax.join_schedules(
            [optax.linear_schedule(self.low, self.high, self.warmup), optax.constant_schedule(self.final)], [self.steps]
        )

    @property
    def equilibrium(self) -> float:
        """Tr ∇²L at the noise equilibrium, Eq. (15)."""
        eye = np.eye(self.size, dtype=np.float32)
        return float(ne.exact.equilibrium_hessian_trace(self.teacher, eye, NOISE**2 * eye, self.width))

    def settled(self, rate: float) -> float:
        """The mean of Tr ∇²L over that at equilibrium, where SGD settles at this η: 1 − ηrσ_ε²/(2S) to first order.

        Σ = 2σ_ε²∇²L, so that SGD spreads in the normal directions of the minima alike, by ησ_ε²/S in each of these
        2dr − r²: ‖U‖² + ‖W‖² = 2r grows by that. The least entropic loss is inside, where the singular values of the
        product are 1 − ησ_ε²d/S.
        """
        return 1 - rate * self.rank * NOISE**2 / (2 * self.batch)

    def spreads(self) -> dict[str, tuple[float, float]]:
        """Standard deviations of U and W at the start: variance 1/fan-in, 1/(d + d_h), and a tenth of that."""
        even = (self.size + self.width) ** -0.5
        return {
            "1/fan-in": (self.width**-0.5, self.size**-0.5),
            "1/(d + d_h)": (even, even),
            "0.1/(d + d_h)": (0.1**0.5 * even, 0.1**0.5 * even),
        }

    def start(self, key: Array, spreads: tuple[float, float]) -> Params:
        """Independent normal weights of these standard deviations."""
        up, down = jax.random.split(key)
        return Params(
            spreads[0] * jax.random.normal(up, (self.size, self.width)),
            spreads[1] * jax.random.normal(down, (self.width, self.size)),
        )

    def frontier(self, rate: np.ndarray) -> np.ndarray:
        """The largest Tr ∇²L of a minimum at which SGD is stable in mean square, for learning rates η.

        Linearised at a minimum with UUᵀ = A, WᵀW = B the gap Δ = UW − V moves by Δ' = Δ − 2η(ΔX̂B + AΔX̂), X̂ the
        minibatch mean of xxᵀ with E[X̂CX̂] = C + (C + Tr C)/S for white Gaussian x (ours). For A = a I, B = b I the
        mean square of Δ stays bounded iff η(a + b)(1 + (d + 1)/S) ≤ 1; for rank one see `_one_unit`.
        """
        if self.rank == self.size:
            return 2 * self.size**2 / (rate * (1 + (self.size + 1) / self.batch))
        return np.array([_one_unit(one, self.size, self.batch) for one in np.ravel(rate)])


def _one_unit(rate: float, d: int, batch: int) -> float:
    """The frontier for one hidden unit at u wᵀ of norm 1, a = ‖u‖² > b = ‖w‖² = 1/a, by bisection in a.

    The gap in the row of u has the second moment α along w and β across; it moves by I − 2η(a I + b ŵŵᵀ)X̂:

        α' = α(1 − 4ηc + 4η²c²(1 + 1/S)) + 4η²c²(α + (d − 1)β)/S,    c = a + b,
        β' = β(1 − 4ηa + 4η²a²(1 + 1/S)) + 4η²a²(α + (d − 1)β)/S.
    """

    def grows(a: float) -> bool:
        moves = 2 * rate * np.array([a + 1 / a, a])
        keep = np.diag(1 - 2 * moves + moves**2 * (1 + 1 / batch))
        mixed = np.outer(moves**2, [1, d - 1]) / batch
        return bool(np.max(np.abs(np.linalg.eigvals(keep + mixed))) > 1)

    low, high = 1.0, 1 / rate
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if grows(middle) else (middle, high)
    return 2 * d * (low + 1 / low)


TASKS = (
    Task("rank-one teacher", 40, 1, 1, low=0.004, high=0.03, warmup=6000, steps=10_000, final=0.0075, cooling=6000),
    Task("autoencoder", 10, 10, 100, low=0.02, high=0.08, warmup=2000, steps=4000, final=0.02, cooling=4000),
)
