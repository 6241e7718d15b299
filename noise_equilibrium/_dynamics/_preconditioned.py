"""The law of optimisers that scale the gradient by one number per leg: Adam-mini, LAMB, LARS, and nearly Adam."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._flow import AbstractLaw, ChargeLaw
from .._minibatch import Minibatches, Replacement, as_replacement
from .._noise import measured, or_measurement
from .._numbers import as_number, cast, jit, require, require_scalar
from .._parameters import split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, bind
from .._validate import integer
from ._draws import noise_ratio
from ._dynamics import as_rate, constant_rate
from ._sgd import discrete_law


class Preconditioned(AbstractLaw):
    """The law of θ± ← θ± − η(d± ĝ± + 2γθ±): one number d₊ for all + legs of a symmetry, and one, d₋, for all − legs.

    Not Q but Q̃ = Q₊/d₊ − Q₋/d₋ is what only noise and decay move. Where d± and the batch are independent, exactly

        ΔQ̃ = −4ηγ(1 − ηγ) Q̃ + η² (d₊ ĝ₊ᵀĝ₊ − d₋ ĝ₋ᵀĝ₋)

    in every step: it is the law of SGD for the parameters θ±/√d±. At rest, without decay, d₊M₊ = d₋M₋, on a matrix
    orbit X = P² = (d₋M₋)⁻¹ # (d₊M₊). The weight decay γ of the problem is decoupled here, 2γ the λ of AdamW.

    Without numbers they follow the gradients, d± = (E mean ĝ±²)^{−1/2}, mean over the n± entries of the legs of a sign,
    as in Adam with one v for each side and a long memory. Without decay it then rests at n₊M₊ = n₋M₋, for any algebra:
    SGD balances the sums of squares of the noise over the entries of a side, Adam n± times their root mean squares.
    `noether_flow` and `relaxation_rates` are those of Q̃ at the numbers of the point, held fixed; as the numbers follow,
    a scalar charge relaxes half as fast.

    Args:
        learning_rate: η > 0; a number, or an array under `vmap`.
        batch_size: S ≥ 1.
        plus: d₊ > 0; a number, or an array under `vmap`. Both or neither.
        minus: d₋ > 0, likewise.
        replacement: as in `SGD`.

    Raises:
        ValueError: for a learning rate or a number ≤ 0, one number without the other, a batch size below 1; once the
            problem is known for a batch that does not fit the data, and ηγ ≥ 1.

    Assumed, not checked: that d± change little in the time that ĝ is remembered; of numbers that follow the gradients
    also that ε is small beside √v. Adam proper has a number per entry. Its charge moves at the first order in η too,
    so this holds as far as v is uniform in a leg: theory, "Preconditioners" has how far off it was found.

    Equilibria with decay and with numbers that follow are exact for one number per direction in all, as in the scalar
    algebra. For others `find_equilibrium` comes closer at each call, and its status is NOT_CONVERGED until it is there:
    give it its own result again. Derivatives of the equilibrium are right in the same cases.

    Source: theory, "Preconditioners".

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: (p["u"] @ p["w"] - z) ** 2, jnp.array([0.0, 2.0]))
        >>> start = {"u": jnp.array([1.0, 1.0]), "w": jnp.array([1.0, 0.0])}
        >>> symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
        >>> found = ne.find_equilibrium(problem, start, symmetry, ne.Preconditioned(0.01, 1, plus=4.0, minus=1.0))
        >>> round(float(jnp.sum(found.params["u"] ** 2) / jnp.sum(found.params["w"] ** 2)), 5)  # d₊‖w‖² = d₋‖u‖²
        4.0
    """

    learning_rate: Any
    batch_size: int = eqx.field(static=True)
    plus: Any
    minus: Any
    replacement: Replacement = eqx.field(static=True)
    is_discrete: ClassVar[bool] = True

    def __init__(
        self, learning_rate: Any, batch_size: int, plus: Any = None, minus: Any = None, replacement: Replacement = True
    ):
        self.learning_rate = as_rate(learning_rate, "learning_rate")
        constant_rate(self.learning_rate, "the discrete law")
        self.batch_size, self.replacement = integer(batch_size, "batch_size", 1), as_replacement(replacement)
        if (plus is None) != (minus is None):
            raise ValueError(
                f"plus is {plus!r} and minus is {minus!r}; expected two numbers > 0, or none to let them follow the "
                "gradients."
            )
        self.plus, self.minus = as_number(plus), as_number(minus)
        for name, value in (("plus", self.plus), ("minus", self.minus)):
            if value is not None:
                message = f"{name} is {value}; expected a number > 0."
                require(lambda number: (number > 0) & np.isfinite(number), value, message)

    @property
    def time_step(self) -> Any:
        """η."""
        return self.learning_rate

    def charge_law(self, problem: Problem) -> ChargeLaw:
        """The law of Q̃ in one step divided by η, with d± as given, or to be found at a point."""
        noise = noise_ratio(Minibatches(self.batch_size, self.replacement), problem)
        law = discrete_law(problem, constant_rate(self.learning_rate, "the discrete law"), noise)
        for value in (self.plus, self.minus):
            if value is not None:
                require_scalar(value, "a number of a leg")
        adapts = self.plus is None
        return ChargeLaw(law.decay, law.scale, law.noise, law.mean, self.plus, self.minus, adapts)

    def at(self, problem: Problem, params: PyTree = None, symmetry: AbstractSymmetry | None = None) -> "Preconditioned":
        """The law with fixed numbers d±, those of a point.

        Args:
            problem: a finite problem; or a `Measurement` in place of it and the next two.
            params: the point.
            symmetry: a symmetry with legs.

        Raises:
            ValueError: on a Stream; for a symmetry without legs; if a leg does not fit params.
        """
        return _at(problem, params, symmetry, self)

    def charge(self, params: PyTree, symmetry: AbstractSymmetry) -> Array:
        """Q̃ = Q₊/d₊ − Q₋/d₋, of the shape of `symmetry.charge(params)`.

        Raises:
            ValueError: where the numbers follow the gradients; if the symmetry does not fit params.
        """
        if self.plus is None:
            raise ValueError("the numbers d₊ and d₋ follow the gradients; fix them: law.at(problem, params, symmetry).")
        return _charge(self.plus, self.minus, params, symmetry)


@or_measurement
def _at(problem: Any, params: PyTree, symmetry: Any, law: Preconditioned) -> Preconditioned:
    if law.plus is not None:
        return law
    measurement = measured(problem, params, symmetry, "Preconditioned.at")
    law.charge_law(measurement.source)  # pyright: ignore[reportArgumentType]  # raises for bad numbers
    found = _numbers(measurement, law)
    return Preconditioned(law.learning_rate, law.batch_size, *found, law.replacement)


@jit
def _numbers(measurement: Any, law: Preconditioned) -> tuple[Array, Array]:
    _, coefficients = law.acting(measurement)
    return coefficients.plus, coefficients.minus


@jit
def _charge(plus: Any, minus: Any, params: PyTree, symmetry: AbstractSymmetry) -> Array:
    group, (arrays, _) = bind(symmetry, params), split(params)
    grams = group.gram(arrays)
    if isinstance(grams, dict):
        scaled = {power: gram / cast(plus if power > 0 else minus, gram) for power, gram in grams.items()}
    else:
        scaled = grams / jnp.where(cast(group.powers, grams) > 0, cast(plus, grams), cast(minus, grams))
    return group.public(group.weighted(scaled))
