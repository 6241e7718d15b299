"""Stochastic gradient descent with momentum: a heavy ball, or Nesterov's, and the charge that it keeps."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._flow import ChargeLaw
from .._minibatch import EPOCH, Replacement, as_replacement
from .._numbers import as_number, cast, jit, require, require_scalar
from .._parameters import split
from .._problem import Problem, weighted_gradient
from .._symmetry import AbstractSymmetry
from .._validate import integer
from ._draws import draw_batch, first_epoch, noise_ratio
from ._dynamics import as_rate, constant_rate, rate_at
from ._noisy import AbstractMinibatched
from ._sgd import equal_weights


class Momentum(AbstractMinibatched):
    """SGD with momentum: m' = βm + ĝ + 2γθ, θ' = θ − ηm'; of Nesterov θ' = θ − η(ĝ + 2γθ + βm').

    Time counts in units of the learning rate that it amounts to, η_eff = η/(1−β), in which it follows the same gradient
    flow as SGD; σ² = η_eff/(2S). Weight decay of the problem is part of the gradient, as in `SGD`. `Momentum(η, 0, S)`
    is `SGD(η, S)`, and `Momentum(η, β, S)` is `Optax(optax.sgd(η, β), S)`.

    Every step moves a charge 𝒞 of parameters and momentum, C(θ − βη_eff m) at γ = 0, see `charge`, by exactly

        Δ𝒞 = −4η_eff γ' C(θ) + η_eff² [ĝᵀAĝ + 2ρ mᵀAĝ],    heavy ball: ρ = β, γ' = γ(1 − ηγ/(1+β)),

    and ρ = β² in Nesterov's at γ = 0. The noise acts as that of SGD at η_eff; the mean gradient, whose push
    m has kept as well, acts (1+β)/(1−β) times as much.

    Args:
        learning_rate: η > 0; a number, an array under `vmap`, or an optax schedule.
        momentum: 0 ≤ β < 1; a number, or an array under `vmap`.
        batch_size: S ≥ 1.
        replacement: as in `SGD`.
        nesterov: whether the step looks ahead, in the form of optax and PyTorch.

    Raises:
        ValueError: for a learning rate ≤ 0, β outside [0, 1), a batch size below 1, or a batch that does not fit.

    Source: theory, "Momentum".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> ne.Momentum(0.05, 0.5, 5).noise_scale  # σ² = η/(1−β)/(2S)
        0.01
        >>> problem = ne.Problem(lambda p, z: p["u"] * p["w"] * z, jnp.array([2.0, 0.0]))
        >>> params = {"u": jnp.array(1.0), "w": jnp.array(2.0)}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> step = ne.expected_charge_step(problem, params, symmetry, ne.Momentum(0.1, 0.5, 1))
        >>> round(float(step), 6)  # η_eff² [(w² − u²) Var z + 3 (w² − u²) (E z)²]
        0.48
    """

    learning_rate: Any
    momentum: Any
    batch_size: int = eqx.field(static=True)
    replacement: Replacement = eqx.field(static=True)
    nesterov: bool = eqx.field(static=True)
    is_discrete: ClassVar[bool] = True

    def __init__(
        self,
        learning_rate: Any,
        momentum: Any,
        batch_size: int,
        replacement: Replacement = True,
        nesterov: bool = False,
    ):
        self.learning_rate, self.momentum = as_rate(learning_rate, "learning_rate"), as_number(momentum)
        if callable(self.momentum):
            raise ValueError(f"momentum is {momentum!r}; expected a number 0 ≤ β < 1.")
        require(
            lambda beta: (beta >= 0) & (beta < 1),
            self.momentum,
            f"momentum is {momentum}; expected a number 0 ≤ β < 1.",
        )
        self.batch_size, self.replacement = integer(batch_size, "batch_size", 1), as_replacement(replacement)
        if not isinstance(nesterov, bool | np.bool_):
            raise ValueError(f"nesterov is {nesterov!r}; expected True or False.")
        self.nesterov = bool(nesterov)

    @property
    def noise_scale(self) -> Any:
        """σ² = η/(2S(1−β)), for sampling with replacement."""
        return self._effective(constant_rate(self.learning_rate, "noise_scale")) / (2 * self.batch_size)

    def noise_scale_at(self, step: Any) -> Any:
        """σ² with the learning rate of that step: what it is if the rate changes little in 1/(1−β) steps."""
        return self._effective(rate_at(self.learning_rate, step)) / (2 * self.batch_size)

    @property
    def time_step(self) -> Any:
        """η/(1−β)."""
        require_scalar(self.momentum, "momentum")
        if callable(self.learning_rate):
            return lambda step: self._effective(rate_at(self.learning_rate, step))
        return self._effective(self.learning_rate)

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of one step divided by η_eff, for E Δ𝒞 = −4η_eff γ' C + η_eff² [Tr Σ_S A + (1 + 2ρ/(1−β)) ḡᵀAḡ].

        Exact: that a step moves 𝒞 so if m has its mean ḡ/(1−β), up to what is along Aθ; that at rest
        4γ'E C(θ) = η_eff E[ĝᵀAĝ + 2ρmᵀAĝ], so at a minimum without curvature in mᵀAḡ the equilibrium for every η. To
        first order in η: the means of m and mᵀAḡ while ḡ changes. What θ and m fluctuate together leaves out
        −2ρη_eff Tr[AHΣ_S]/(1−β²) beside Tr[AΣ_S], H the Hessian; around a minimum, where E ḡᵀAḡ is ½η_eff Tr[AHΣ_S] for
        commuting matrices, ḡ then counts (1−β)/(1+β) times instead of (1+β)/(1−β) times.

        With shuffled epochs a batch shares no sample with those that m remembers of its epoch, which takes
        2ρ/(1−β) · [1 − (1 − βᵀ)/(T(1−β))]/(N−1) from the weight of Σ, T the steps of an epoch: at leading order, where
        SGD has no such term.

        Raises:
            ValueError: where the decay alone does not contract, ηγ ≥ 1 + β, or ≥ (1 + β)/(1 + 2β) for Nesterov.
        """
        rate, beta = constant_rate(self.learning_rate, "the discrete law"), self.momentum
        require_scalar(beta, "momentum")
        limit = (1 + beta) / (1 + 2 * beta) if self.nesterov else 1 + beta
        require(
            lambda share: share < 1,
            rate * problem.weight_decay / limit,
            f"learning rate × weight decay is {rate * problem.weight_decay}; expected less than {limit} for the "
            f"discrete law at momentum {beta}.",
        )
        form = self._form(rate, problem.weight_decay)
        memory = 2 * form.cross / (1 - beta)
        noise = noise_ratio(self.batches, problem)
        if self.replacement == EPOCH and not problem.is_stream:
            count = problem.num_samples
            steps = count // self.batch_size
            noise = noise - memory / max(count - 1, 1) * (1 - (1 - beta**steps) / (steps * (1 - beta)))
        effective = self._effective(rate)
        return ChargeLaw(decay=form.decay / (4 * effective), scale=effective / 2, noise=noise, mean=1 + memory)

    def charge(self, problem: Problem, params: PyTree, state: PyTree, symmetry: AbstractSymmetry) -> Array:
        """The charge 𝒞 of parameters and momentum that every step moves by what `Momentum` says, exactly.

        𝒞 = αC(θ) + aθᵀAm + b mᵀAm. At γ = 0 it is C(θ − βη_eff m), and C(θ − β²η_eff m) for Nesterov. With decay the
        heavy ball has 𝒞 = C(rθ − βη_eff m) + 4η_eff γ' C(θ)/(1−β²), r = 1 − 2γη_eff/(1+β), and 𝒞 = C(θ)(1 + O(ηγ)).

        Args:
            problem: whose weight decay takes part.
            params: the parameters.
            state: of these dynamics, as `init` and `step` return it, or `trajectory.state.dynamics`.
            symmetry: whose charge.

        Returns:
            The charge, of the shape of `symmetry.charge(params)`.

        Raises:
            ValueError: for a schedule; if the symmetry does not fit params.
        """
        rate = constant_rate(self.learning_rate, "the charge")
        form, effective = self._form(rate, problem.weight_decay), self._effective(rate)
        weights = form.theta, form.mixed / effective, form.velocity / effective**2
        return _charge(weights, effective, params, state[0], symmetry)

    def init(self, problem: Problem, params: PyTree) -> PyTree:
        """m = 0, one array for each parameter, and the permutation of the epoch, if there are epochs."""
        return [jnp.zeros_like(array) for array in split(params)[0]], first_epoch(self.batches, problem)

    def step(
        self, problem: Problem, params: PyTree, state: PyTree, key: PRNGKeyArray, step: Any
    ) -> tuple[PyTree, PyTree]:
        """One step on the next minibatch."""
        before, permutation = state
        samples, permutation = draw_batch(self.batches, problem, permutation, key, step)
        arrays, rebuild = split(params)
        gradients = weighted_gradient(problem, params, samples, equal_weights(params, 1.0, self.batch_size))
        rate, moved, after = rate_at(self.learning_rate, step), [], []
        for array, old, gradient in zip(arrays, before, gradients, strict=True):
            beta, slope = cast(self.momentum, array), gradient + 2 * cast(problem.weight_decay, array) * array
            new = beta * old + slope
            moved.append(array - cast(rate, array) * (slope + beta * new if self.nesterov else new))
            after.append(new)
        return rebuild(moved), (after, permutation)

    def _effective(self, rate: Any) -> Any:
        return rate / (1 - self.momentum)

    def _form(self, rate: Any, decay: Any) -> "Form":
        return kept_form(rate, self.momentum, decay, self.nesterov)


class Form(NamedTuple):
    """𝒞 = αC(θ) + aθᵀAm + b mᵀAm with Δ𝒞 = −νC(θ) + η_eff² [ĝᵀAĝ + 2ρ mᵀAĝ].

    Attributes:
        theta: α.
        mixed: a.
        velocity: b.
        decay: ν.
        cross: ρ.
    """

    theta: Any
    mixed: Any
    velocity: Any
    decay: Any
    cross: Any


def kept_form(rate: Any, beta: Any, decay: Any, nesterov: bool) -> Form:
    """The one quadratic form of (θ, m) whose change in a step has no other terms than these.

    A step is θ' = pθ − qm − sĝ, m' = hθ + βm + ĝ, and θᵀAĝ = 0. That neither θᵀAm nor mᵀAm is left in Δ𝒞 are two linear
    equations for a/α and b/α, and the weight of ĝᵀAĝ gives α.
    """
    h = 2 * decay
    if nesterov:
        p, q, s = 1 - rate * h * (1 + beta), rate * beta**2, rate * (1 + beta)
    else:
        p, q, s = 1 - rate * h, rate * beta, rate
    lost = 1 - beta**2
    mixed = -2 * q * (p - h * beta * q / lost) / (1 - p * beta + q * h * (1 + 2 * beta**2 / lost))
    velocity = q * (q - mixed * beta) / lost
    effective = rate / (1 - beta)
    theta = effective**2 / (s**2 - mixed * s + velocity)
    return Form(
        theta=theta,
        mixed=theta * mixed,
        velocity=theta * velocity,
        decay=h * theta * (s * (1 + p) - mixed * p - velocity * h),
        cross=theta * (2 * q * s - mixed * (q + s * beta) + 2 * velocity * beta) / (2 * effective**2),
    )


@jit
def _charge(weights: Any, effective: Any, params: PyTree, velocity: list[Array], symmetry: AbstractSymmetry) -> Array:
    """The quadratic form in θ and η_eff m, which are of one size, so that their sum can be told from them."""
    arrays, rebuild = split(params)
    moves = [cast(effective, array) * m for array, m in zip(arrays, velocity, strict=True)]
    sums = [array + move for array, move in zip(arrays, moves, strict=True)]
    own, moving, of_sum = (symmetry.charge(rebuild(vectors)) for vectors in (arrays, moves, sums))
    theta, mixed, velocity_weight = (cast(number, own) for number in weights)
    return theta * own + mixed * (of_sum - own - moving) / 2 + velocity_weight * moving
