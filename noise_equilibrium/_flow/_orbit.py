"""The flow of a charge along its orbit, with the loss directions at rest: theory, "Time scales"."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._double import single
from .._linalg import eigh
from .._noise import Measurement, measured, or_measurement
from .._numbers import jit
from .._parameters import accumulation_dtype, split
from .._problem import Problem
from .._symmetry import AbstractSymmetry
from ._charge_law import powers_of
from ._law import AbstractLaw, as_law

MAX_STEPS = 2**16


class OrbitFlow(eqx.Module):
    """Where the noise carries a point along its orbit.

    Attributes:
        time: (k,) times, in units of η × steps.
        element: λ(t), k elements of the charge's shape, 0 at time 0; the point is `act(params, element)`. None in the
            symmetric algebra, where P may drift for ever along directions in which the legs become empty.
        charge: Q(t), k charges. NaN where the solver gave up.
    """

    time: Float[Array, " k"]
    element: Array | None
    charge: Array


@or_measurement
def orbit_flow(problem: Problem, params: PyTree, symmetry: AbstractSymmetry, law: Any, times: Any) -> OrbitFlow:
    """λ(t) and Q(t) under the Noether flow alone, from any start, by one evaluation of the moments.

    At a minimum of the loss, where the other directions rest, this is the mean motion of SGD for small η. One number
    per direction moves as dλ/dt = G(λ)/(2 θ_λᵀA²θ_λ). A matrix moves by the least-norm motion with the given dQ/dt,
    U̇ = UB and Ẇ = −BW with BN + NB = dQ/dt, N = Q₊ + Q₋.

    Args:
        problem: a finite problem; or a `Measurement` in place of it and the next two.
        params: the start; any pytree.
        symmetry: whose orbit; a scalar, diagonal or symmetric algebra, or an exponential symmetry.
        law: σ² = η/(2S) > 0 or dynamics; for discrete dynamics the flow is G_d/η.
        times: (k,) ascending times ≥ 0.

    Returns:
        An `OrbitFlow`, by an adaptive Runge–Kutta method of order 8 (`diffrax.Dopri8`), to a relative 1e-9 in double
        and 1e-5 in single precision.

    Raises:
        ValueError: on a Stream; for a bad law; for times that are not ascending numbers ≥ 0; for a matrix-free A; for
            charges of more than 2 GiB together.

    Not checked: that the loss has the symmetry, and that the loss directions rest.
    """
    law = as_law(law)
    times = jnp.asarray(times)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"times has shape {times.shape}; expected a vector of at least one time.")
    if not isinstance(times, jax.core.Tracer):
        known = np.asarray(times)
        if not (np.isfinite(known).all() and known[0] >= 0 and (np.diff(known) >= 0).all()):
            raise ValueError("times are not ascending numbers ≥ 0; expected times = η × steps, counted from the start.")
    measurement = measured(problem, params, symmetry, "orbit_flow")
    law.charge_law(measurement.source)  # raises for bad numbers, which cannot be seen once they are traced
    bound = measurement.symmetry
    size = bound.size
    require_room(
        f"orbit_flow at {times.size} times with a charge of {size} numbers",
        times.size * size,
        accumulation_dtype(split(measurement.params)[0]),
        "Use fewer times.",
    )
    return _orbit_flow(measurement, law, times)


@jit
def _orbit_flow(measurement: Measurement, law: AbstractLaw, times: Array) -> OrbitFlow:
    symmetry = measurement.symmetry
    moments, coefficients = law.acting(measurement)
    if symmetry.of_matrices:
        moments = single(moments)
        grams = coefficients.weights(moments)
        sides = coefficients.sides(moments)
        if symmetry.blocks == 1:
            charge = _matrix_flow(grams, sides, times)
        else:  # one after the other: batched decompositions may wait for each other's threads for ever on a CPU
            charge = jax.lax.map(lambda block: _matrix_flow(block[0], block[1], times), (grams, sides))
            charge = jnp.swapaxes(charge, 0, 1)
        return OrbitFlow(times.astype(charge.dtype), None, charge)

    sizes, lowers, raises = coefficients.spectrum(moments)
    weight = jnp.stack(moments.weight) if isinstance(moments.weight, tuple) else moments.weight
    powers = powers_of(moments, weight.dtype)
    weight = weight / coefficients.numbers(powers).reshape(-1, *[1] * (weight.ndim - 1))

    def spread(values: Array, element: Array) -> Array:
        """e^{2λμ} for every power, of the shape of the weights."""
        return jnp.exp(2 * jnp.tensordot(values, element, axes=0))

    def speed(_: Any, element: Array, __: Any) -> Array:
        flow = 2 * jnp.tensordot(sizes, raises / spread(sizes, element) - lowers * spread(sizes, element), axes=1)
        inertia = 2 * jnp.tensordot(powers**2, weight * spread(powers, element), axes=1)
        # Where the legs of a direction are empty there is nothing to move; the inner choice keeps 0/0 out of
        # derivatives.
        return jnp.where(inertia > 0, flow / jnp.where(inertia > 0, inertia, 1), 0)

    element = _solve(speed, jnp.zeros(weight.shape[1:], weight.dtype), times)
    charge = jax.vmap(lambda element: jnp.tensordot(powers, weight * spread(powers, element), axes=1))(element)
    return OrbitFlow(times.astype(weight.dtype), element, charge)


def _matrix_flow(grams: tuple[Array, Array], sides: tuple[Array, Array], times: Array) -> Array:
    """Q from the flow of (Q₊, Q₋, R, T): a motion by B turns Q₊ and R by {B, ·}, and Q₋ and T by −{B, ·}."""

    def speed(_: Any, state: Array, __: Any) -> Array:
        plus, minus, lowers, raises = state
        motion = _anticommutator_inverse(plus + minus, 2 * (raises - lowers))
        turned = motion @ state + state @ motion
        return turned * jnp.array([1, -1, 1, -1], turned.dtype)[:, None, None]

    # An accelerator would multiply in TF32 or bfloat16, far coarser than the tolerance of the solver.
    with jax.default_matmul_precision("highest"):
        return _solve(speed, jnp.stack([*grams, *sides]), times, lambda state: state[0] - state[1])


def _anticommutator_inverse(matrix: Array, right: Array) -> Array:
    """The B with BN + NB = right, 0 on the null space of N."""
    values, vectors = eigh(matrix)
    sums = values[:, None] + values[None, :]
    # Eigenvalues of a d × d Gram are known to 8dε of the largest, as everywhere (theory, "The singular case").
    known = sums > 8 * len(values) * jnp.finfo(values.dtype).eps * values[-1]
    turned = vectors.T @ right @ vectors
    return vectors @ jnp.where(known, turned / jnp.where(known, sums, 1), 0) @ vectors.T


def _solve(speed: Any, start: Array, times: Array, kept: Callable[[Array], Array] = lambda state: state) -> Array:
    """What is kept of the solution at each time, NaN from where the solver gave up.

    From each time to the next, since a solver that is given all of them checks their order on the host, which an
    accelerator would wait for.
    """
    # A tenth of what is promised: the tolerance is that of a step, and errors of steps add up.
    tolerance = 1e-10 if start.dtype == jnp.float64 else 1e-6

    def onward(before: tuple[Array, Array], end: Array) -> tuple[tuple[Array, Array], Array]:
        begin, state = before
        alive = jnp.all(jnp.isfinite(state))
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(speed),
            diffrax.Dopri8(),
            begin,
            jnp.where(alive, end, begin),
            None,
            jnp.where(alive, state, 0),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=MAX_STEPS,
            throw=False,
        )
        assert found.ys is not None
        arrived = alive & (found.result == diffrax.RESULTS.successful)
        state = jnp.where(arrived, found.ys[0], jnp.nan)
        return (end, state), kept(state)

    times = times.astype(start.dtype)
    return jax.lax.scan(onward, (jnp.zeros_like(times[0]), start), times)[1]
