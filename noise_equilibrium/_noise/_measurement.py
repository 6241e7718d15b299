"""A measurement: what the gradient noise does along a symmetry at one point, taken once and used by everything."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._double import single
from .._group import AbstractGroup, Groups
from .._numbers import cast, jit
from .._parameters import split
from .._problem import Problem
from .._symmetry import AbstractSymmetry, ExponentialSymmetry, bind, bind_each
from ._abstract import AbstractMoments
from ._finite import require_finite_gradients
from ._moments import moments_and_mean

P = ParamSpec("P")
R = TypeVar("R")


class Source(eqx.Module):
    """What a law of motion asks of a problem: its decay, and how many samples a batch is drawn from.

    Attributes:
        weight_decay: γ.
        num_samples: N; 0 for a Stream, of which samples never run out.
        is_stream: whether it is one.
    """

    weight_decay: Any
    num_samples: int = eqx.field(static=True)
    is_stream: bool = eqx.field(static=True, default=False)
    # What a law asks before it counts the samples: whether they are `Redrawn`. N here is right in either case.
    data: None = eqx.field(static=True, default=None)


class Measurement(eqx.Module):
    """What the gradient noise does along one symmetry at a point; made by `measure`.

    Every function of this package that takes (problem, params, symmetry) and needs the moments takes a measurement in
    place of the three: `noether_flow(measurement, law)`, and likewise `expected_charge_step`, `relaxation_rates`,
    `relaxation_modes`, `time_scales`, `orbit_flow` and `find_equilibrium`.

    Attributes:
        params: the point.
        gradient: the mean gradient of the risk L_γ there, a pytree like params; None unless it was asked for.
        count: how many gradients the moments are sums of.
        symmetry: the symmetry, bound to the parameters.
        measured: the moments, with Grams of matrices in double precision.
        within: for data that are redrawn at every visit the noise of the redrawing, else None. `measured` holds that of
            the choice of samples then.
        source: what a law asks of the problem.
        problem: the problem, for work that goes on to other points; None where the data are not at hand.
    """

    params: PyTree
    gradient: PyTree
    count: Any
    symmetry: AbstractGroup
    measured: AbstractMoments
    within: Any
    source: Source
    problem: Problem | None

    @property
    def num_samples(self) -> int:
        """N, the number of samples that batches are drawn from; 0 for a Stream."""
        return self.source.num_samples

    @property
    def moments(self) -> AbstractMoments:
        """The moments as `noise_moments` returns them."""
        return single(self.measured)

    @property
    def weight(self) -> Any:
        """Grams of the parameters, with the block axis: one for each power of the legs."""
        return self._with_blocks(self.measured.weight)

    @property
    def noise(self) -> Any:
        """Grams of the gradient noise, likewise."""
        return self._with_blocks(self.measured.noise)

    @property
    def mean(self) -> Any:
        """Grams of the mean gradient, likewise."""
        return self._with_blocks(self.measured.mean)

    def _with_blocks(self, grams: Any) -> Any:
        if not isinstance(grams, tuple):  # along the powers of a generator
            return grams
        return tuple(gram.reshape(self.symmetry.shape) for gram in single(grams))

    def require_problem(self, what: str) -> Problem:
        """The problem.

        Raises:
            ValueError: where the data are not at hand.
        """
        if self.problem is None:
            raise ValueError(
                f"{what} looks at the loss at other points, and this measurement has no data: it is a sum of parts, an "
                f"estimate, or of redrawn data. Call {what}(problem, params, symmetry, …) on a sample of the data."
            )
        return self.problem


def measure(
    problem: Problem, params: PyTree, symmetry: AbstractSymmetry | Sequence[AbstractSymmetry], *, gradient: bool = False
) -> Any:
    """Open the parameters, bind the symmetry and take the moments, once for everything that needs them.

    Args:
        problem: a finite problem of N samples.
        params: the parameters, any pytree.
        symmetry: a symmetry of the loss; of a sequence all are measured in one pass.
        gradient: whether to return the mean gradient ∇L_γ too, weight decay included; from the same pass, at little
            more.

    Returns:
        A `Measurement`; a tuple of them for a sequence. It may cross `jit`, `vmap` and derivatives.

    Raises:
        ValueError: as `noise_moments`. A matrix-free generator is measured, alone in its call: enough for its flow.

    Warns:
        UserWarning: as `noise_moments`.

    For data that do not fit see `partial_moments`, for a Stream `estimate_moments`, for redrawn data
    `redrawn_moments`: what these return can be used like a measurement.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: p["u"] * p["w"] * z, jnp.array([1.0, -1.0]))
        >>> params = {"u": jnp.array(2.0), "w": jnp.array(3.0)}
        >>> here = ne.measure(problem, params, ne.rescaling(lambda p: p["u"], lambda p: p["w"]))
        >>> float(ne.noether_flow(here, 0.5)), float(ne.relaxation_rates(here, 0.5))  # 2σ²(9 − 4), 2σ²(9 + 4)/(4 + 9)
        (5.0, 1.0)
    """
    problem.require_finite("measure")
    if isinstance(symmetry, ExponentialSymmetry):
        each, several = (bind(symmetry, params),), False
    else:
        bound = bind_each(symmetry, params, "measure")
        each, several = bound.each, bound.several
    found = _measure(problem, params, each, gradient)
    require_finite_gradients(problem, params, single([one.measured for one in found]))
    return found if several else found[0]


def _measure(problem: Problem, params: PyTree, symmetries: Groups, gradient: bool = False) -> tuple[Measurement, ...]:
    """A measurement of each symmetry, from one pass; warns of what has no noise."""
    moments, mean, silence = moments_and_mean(problem, params, symmetries, True, gradient)
    silence.warn()
    slope = _with_decay(problem, params, mean) if gradient else None
    # An array: a Python float in here would be compiled in, and every decay compile its consumers anew.
    source, count = Source(jnp.asarray(problem.weight_decay), problem.num_samples), problem.num_samples
    return tuple(
        Measurement(params, slope, count, symmetry, of_one, None, source, problem)
        for symmetry, of_one in zip(symmetries, moments, strict=True)
    )


@jit
def _with_decay(problem: Problem, params: PyTree, mean: list[Array]) -> PyTree:
    """∇L_γ = ḡ + 2γθ, in the precision of the parameters."""
    arrays, rebuild = split(params)
    twice = [2 * cast(problem.weight_decay, slope) for slope in mean]
    slopes = [g + c * theta.astype(g.dtype) for g, c, theta in zip(mean, twice, arrays, strict=True)]
    return rebuild([slope.astype(theta.dtype) for slope, theta in zip(slopes, arrays, strict=True)])


def or_measurement(function: Callable[P, R]) -> Callable[P, R]:
    """A function of (problem, params, symmetry, …) that takes a measurement in place of these three.

    The function itself then gets the measurement as its first argument and None for the other two, as `measured` takes
    them.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        if args and (isinstance(args[0], Measurement) or hasattr(args[0], "measurement")):
            args = (args[0], None, None, *args[1:])
        return function(*args, **kwargs)

    return call


def measured(problem: Any, params: PyTree, symmetry: Any, what: str, matrix: bool = True) -> Measurement:
    """The measurement that was given, or else that of one symmetry.

    Args:
        problem: a finite problem, or a measurement, or what can be used like one.
        params: the parameters, or None.
        symmetry: one symmetry, or None.
        what: the work, for messages.
        matrix: whether it needs the spectrum of a generator.

    Raises:
        ValueError: for several measurements or symmetries; for a matrix-free generator where its spectrum is needed;
            as `measure`.
    """
    if isinstance(problem, Problem):
        problem.require_finite(what)
        bound = bind(symmetry, params)
        if matrix:
            bound.require_spectrum(what)
        return _measure(problem, params, (bound,))[0]
    found = problem if isinstance(problem, Measurement) else problem.measurement()
    if not isinstance(found, Measurement):
        raise ValueError(f"{what} got the measurements of {len(found)} symmetries; expected one: give it each in turn.")
    if matrix:
        found.symmetry.require_spectrum(what)
    return found


def without_data(
    params: PyTree, bound: AbstractGroup, moments: AbstractMoments, count: Any, source: Source, within: Any = None
) -> Measurement:
    """A measurement of data that are not at hand."""
    return Measurement(params, None, count, bound, moments, within, source, None)
