"""Rotational equilibrium: where decay and updates balance the norm of scale-invariant weights, for any optimiser."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._dynamics import SGD, Momentum, Optax
from .._keys import as_key
from .._numbers import jit, require, require_scalar
from .._parameters import split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, bind, scaling
from .._validate import integer

# The share of the steps that is left out at the start, while momentum and mean squares fill up.
BURN_IN = 0.25
# The second run starts with the parameters this much larger: far enough for the power law to stand out of the noise.
LARGER = 2.0


class RotationalEquilibrium(eqx.Module):
    """The rest of scale-invariant weights under an optimiser; see `rotational_equilibrium`.

    Every array has the shape of the charge of the symmetry: one number, or one for each neuron.

    Attributes:
        norm: ‖θ‖ at rest; ∞ without decay, for then it grows for ever.
        angle: the root-mean-square angle between θ before and after a step at rest, in radians.
        steps: the time in which a small deviation of ‖θ‖ from its rest falls to 1/e, in steps.
        measured_norm: √E‖θ‖² along the measured steps, and
        measured_angle: the angle per step there: what `norm` and `angle` are where the run is at rest already.
        growth: E[2(1−ηλ)⟨θ,u⟩ + ‖u‖²] there: what the updates add to ‖θ‖² per step.
        exponent: q in E‖u‖² ∝ ‖θ‖^(−2q): 1 for SGD, with or without momentum, 0 for Adam.
    """

    norm: Float[Array, "..."]
    angle: Float[Array, "..."]
    steps: Float[Array, "..."]
    measured_norm: Float[Array, "..."]
    measured_angle: Float[Array, "..."]
    growth: Float[Array, "..."]
    exponent: Float[Array, "..."]


def rotational_equilibrium(
    problem: Problem,
    params: PyTree,
    dynamics: SGD | Momentum | Optax,
    steps: int,
    *,
    key: PRNGKeyArray,
    symmetry: AbstractSymmetry | None = None,
    decay: Any = None,
) -> RotationalEquilibrium:
    """Norm at rest, angle per step and relaxation time of scale-invariant weights, from measured updates.

    A step θ' = (1−ηλ)θ + u moves the norm by exactly

        ‖θ'‖² = (1−ηλ)²‖θ‖² + 2(1−ηλ)⟨θ,u⟩ + ‖u‖².

    The mean of the last two terms, G, is measured along `steps` steps of the dynamics. Where the loss does not know the
    scale of θ, gradients fall as 1/‖θ‖, and with them the updates of SGD, but not those of Adam: G ∝ ‖θ‖^(−2q), q = 1
    for SGD, and measured for an optimiser of optax by a second run at twice the norm. So with D = 1 − (1−ηλ)²

        ‖θ*‖² = ‖θ‖² (G/(D‖θ‖²))^{1/(1+q)},    1/steps = D(1+q),

    and the angle per step is that of the updates at ‖θ*‖: √(2ηλ) for SGD, √(2ηλ/(1+β)) with momentum in the rates of
    optax, √(2ηλ(1−β₁)/(1+β₁)) for AdamW, all to first order, and measured here.

    Args:
        problem: whose loss is invariant.
        params: where to measure: in directions that training has reached, with a norm of any size.
        dynamics: an `SGD`, `Momentum` or `Optax`. The run starts with their initial state.
        steps: how many steps are measured, of which the first quarter fills the optimiser's state. Many against the
            memory of that, few against `steps` of the result. `vmap` over keys averages several short runs.
        key: of both runs.
        symmetry: whose legs are the weights: `scaling` of some of them, or a diagonal symmetry with one scale per
            neuron; all parameters as one if None.
        decay: ηλ, by which a step shrinks the weights. Of SGD and of Momentum it is known, 2γη/(1−β); an optimiser of
            optax does not tell: η·λ for `optax.adamw(η, weight_decay=λ)`, 0 for Adam. Decay that goes through the
            gradient of Adam, as weight decay of the problem does, has no factor of its own: expected is 0 there.

    Returns:
        A `RotationalEquilibrium`. Its norm at rest is NaN where the measured growth is not positive: the direction
        still drifts, or the steps are too few to tell.

    Raises:
        ValueError: without a key; for steps < 4; for dynamics that are no steps on minibatches, or have a schedule;
            for an optimiser of optax without `decay`, decay with others, or decay outside [0, 1); for weight decay of
            the problem in Optax; for a symmetry with − legs, of matrices, or with powers other than 1.

    Not checked: that the loss is invariant; that the direction of θ is at rest along the run.

    Source: Kosson et al., Rotational Equilibrium (2024); theory, "Rotational equilibrium".

    Examples:
        >>> import jax, jax.numpy as jnp, noise_equilibrium as ne
        >>> signs = ne.Problem(lambda w, z: z * w[1] / jnp.linalg.norm(w), jnp.array([1.0, -1.0]), weight_decay=0.01)
        >>> found = ne.rotational_equilibrium(signs, jnp.array([1.0, 0.0]), ne.SGD(0.1, 1), 8, key=jax.random.key(0))
        >>> round(float(found.angle) ** 2, 3), round(1 / float(found.steps), 3)  # 2ηλ and 4ηλ, of ηλ = 2ηγ = 0.002
        (0.004, 0.008)
    """
    key, steps = as_key(key, "rotational_equilibrium"), integer(steps, "steps", 4)
    if not isinstance(dynamics, SGD | Momentum | Optax):
        raise ValueError(f"dynamics is {dynamics!r}; expected SGD, Momentum or Optax, which take steps on minibatches.")
    dynamics.check(problem)
    group = bind(scaling() if symmetry is None else symmetry, params)
    if not isinstance(group, BoundSymmetry) or group.of_matrices or {leg.power for leg in group.legs} != {1}:
        raise ValueError(
            f"the symmetry of {group.name} is no scaling of weights; expected ne.scaling(...), or a diagonal Symmetry "
            "whose legs all have power 1."
        )
    return _found(problem, params, dynamics, steps, key, group, _decay(problem, dynamics, decay))


def _decay(problem: Problem, dynamics: Any, decay: Any) -> Any:
    """ηλ of a step, given or known."""
    if not isinstance(dynamics, Optax):
        if decay is not None:
            raise ValueError(
                f"decay is {decay!r} with {type(dynamics).__name__}; expected None: it is that of the problem, "
                "Problem(loss, data, weight_decay)."
            )
        if callable(dynamics.time_step):
            raise ValueError("dynamics has a schedule; expected one learning rate, whose equilibrium is meant.")
        return 2 * dynamics.time_step * problem.weight_decay
    if decay is None:
        raise ValueError(
            "decay is None, and an optax optimiser does not tell its own; expected ηλ, by which a step shrinks the "
            "weights: η·λ for optax.adamw(η, weight_decay=λ), 0 for an optimiser without."
        )
    require_scalar(decay, "decay")
    require(lambda share: (share >= 0) & (share < 1), decay, f"decay is {decay}; expected ηλ, 0 ≤ ηλ < 1.")
    weight_decay = problem.weight_decay
    require(
        lambda number: number == 0,
        weight_decay,
        f"weight_decay of the problem is {weight_decay} in Optax, where it goes through the gradient; expected 0, and "
        "decay in the optimiser, as optax.adamw and optax.add_decayed_weights have it.",
    )
    return decay


@jit
def _found(
    problem: Problem,
    params: PyTree,
    dynamics: Any,
    steps: int,
    key: PRNGKeyArray,
    group: BoundSymmetry,
    decay: Any,
) -> RotationalEquilibrium:
    arrays, rebuild = split(params)
    square, growth, update, turn = _means(problem, params, dynamics, steps, key, group, decay)
    exponent = jnp.ones_like(square)  # SGD's updates are proportional to gradients, with momentum too
    if isinstance(dynamics, Optax):
        larger = group.multiply(arrays, group.exponential(jnp.full(group.shape, jnp.log(LARGER), square.dtype)))
        square_there, _, update_there, _ = _means(problem, rebuild(larger), dynamics, steps, key, group, decay)
        exponent = -jnp.log(update_there / update) / jnp.log(square_there / square)
    lost = 1 - (1 - decay) ** 2
    # 0 without decay: then the norm has no rest, and neither has what is measured in units of it.
    rest = square * jnp.where(lost > 0, growth / (lost * square), jnp.inf) ** (1 / (1 + exponent))
    angle = jnp.arctan(jnp.sqrt(turn * (square / rest) ** (1 + exponent)))
    return RotationalEquilibrium(
        norm=jnp.sqrt(rest),
        angle=jnp.where(lost > 0, angle, 0),
        steps=1 / (lost * (1 + exponent)),
        measured_norm=jnp.sqrt(square),
        measured_angle=jnp.arctan(jnp.sqrt(turn)),
        growth=growth,
        exponent=exponent,
    )


def _means(
    problem: Problem, params: PyTree, dynamics: Any, steps: int, key: PRNGKeyArray, group: BoundSymmetry, decay: Any
) -> tuple[Array, ...]:
    """‖θ‖², 2(1−ηλ)⟨θ,u⟩ + ‖u‖², ‖u‖² and tan² of the angle of a step, in the mean over steps."""
    start, rebuild = split(params)
    kept = 1 - decay

    def inner(left: list[Array], right: list[Array]) -> Array:
        return group.public(group.weighted(group.product(left, right)))

    def step(carry: Any, number: Array) -> tuple[Any, tuple[Array, ...]]:
        arrays, state = carry
        after, state = dynamics.step(problem, rebuild(arrays), state, jax.random.fold_in(key, number), number)
        after, _ = split(after)
        update = [new - jnp.asarray(kept, old.dtype) * old for new, old in zip(after, arrays, strict=True)]
        square, across, length = inner(arrays, arrays), inner(arrays, update), inner(update, update)
        gained = 2 * kept * across + length
        turned = (length - across**2 / square) / (kept * jnp.sqrt(square) + across / jnp.sqrt(square)) ** 2
        return (after, state), (square, gained, length, turned)

    _, seen = jax.lax.scan(step, (start, dynamics.init(problem, params)), jnp.arange(steps))
    return tuple(jnp.mean(part[int(BURN_IN * steps) :], axis=0) for part in seen)
