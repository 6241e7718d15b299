"""The exponential symmetry of any symmetric generator: θ → e^{ρA}θ on the flattened parameters, Definition 4.1."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._inputs import pure
from .._numbers import cast, jit
from .._parameters import flatten, split, without_numbers
from ._symmetry import AbstractSymmetry

MatrixFree = Callable[..., Any]  # v ↦ Av on flat vectors


class BoundExponential(eqx.Module):
    """An exponential symmetry of known parameters: a pytree, so that the numbers of A are traced.

    Attributes:
        powers: the eigenvalues μ_i of A, (P,); None if A is matrix-free.
        vectors: the eigenvectors n_i of A in columns, (P, P); None if A is matrix-free.
        function: v ↦ Av if A is matrix-free, else None.
    """

    powers: Float[Array, " P"] | None
    vectors: Float[Array, "P P"] | None
    function: MatrixFree | None

    def coordinates(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        """n_iᵀv for every eigenvector."""
        return jnp.matmul(vector, cast(self.vectors, vector), precision=jax.lax.Precision.HIGHEST)

    def apply(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        """Av."""
        if self.function is not None:
            return cast(self.function(vector), vector)
        return self.of_spectrum(vector, self.powers)

    def of_spectrum(self, vector: Float[Array, " P"], values: Any) -> Float[Array, " P"]:
        """f(A)v, for the values f(μ_i)."""
        basis = cast(self.vectors, vector)
        scaled = cast(values, vector) * self.coordinates(vector)
        return jnp.matmul(basis, scaled, precision=jax.lax.Precision.HIGHEST)


class ExponentialSymmetry(AbstractSymmetry):
    """The symmetry θ → e^{ρA}θ of one symmetric generator A; made by `exponential_symmetry`.

    Attributes:
        powers: the eigenvalues of A, None if A is matrix-free.
        vectors: its eigenvectors in columns, likewise.
        function: v ↦ Av if A is matrix-free, else None.
    """

    powers: Any
    vectors: Any
    function: MatrixFree | None

    def bind(self, params: PyTree) -> BoundExponential:
        """The symmetry of these parameters, checked for its size.

        Raises:
            ValueError: if A has another size than the flattened parameters.
        """
        vector = jax.eval_shape(lambda arrays: flatten(arrays)[0], without_numbers(split(params)[0]))
        if self.function is None:
            if len(self.powers) != vector.size:
                raise ValueError(
                    f"A has shape {np.shape(self.vectors)} and the parameters are {vector.size} numbers; expected a "
                    f"generator of shape {(vector.size, vector.size)}, in the order of `flatten`."
                )
        else:
            result = jax.eval_shape(self.function, vector)
            if getattr(result, "shape", None) != vector.shape:
                raise ValueError(
                    f"the matrix-free A returns {result} for a vector of shape {vector.shape}; expected that shape."
                )
        return BoundExponential(self.powers, self.vectors, self.function)

    def charge(self, params: PyTree) -> Float[Array, ""]:
        """C = θᵀAθ, Eq. (6).

        Args:
            params: the parameters, any pytree of P numbers.

        Raises:
            ValueError: if A has another size than the parameters.
        """
        return _charge(self.bind(params), params)

    def act(self, params: PyTree, element: Array) -> PyTree:
        """e^{λA} θ, Eq. (8).

        Args:
            params: the parameters, any pytree of P numbers.
            element: λ, a number.

        Raises:
            ValueError: if A is matrix-free or has another size than the parameters; if λ is no single number.
        """
        self.require_matrix("the group action")
        element = _as_scalar(element)
        bound = self.bind(params)
        vector, unflatten = flatten(params)
        return unflatten(bound.of_spectrum(vector, jnp.exp(cast(element, vector) * cast(bound.powers, vector))))

    def generator(self, params: PyTree, element: Array) -> PyTree:
        """λAθ, the derivative of `act(params, ρλ)` at ρ = 0, Definition 4.1.

        Args:
            params: the parameters, any pytree of P numbers.
            element: λ, a number.

        Raises:
            ValueError: if A has another size than the parameters; if λ is no single number.
        """
        element = _as_scalar(element)
        vector, unflatten = flatten(params)
        return unflatten(cast(element, vector) * self.bind(params).apply(vector))

    def require_matrix(self, what: str) -> None:
        """Raise a ValueError if A is matrix-free."""
        if self.function is not None:
            raise ValueError(
                f"{what} needs the eigenvalues of A, and this A is a function. Give exponential_symmetry the matrix; "
                "a function is enough for the charge, the generator, Tr[ΣA] and the Noether flow."
            )


@jit
def _charge(symmetry: BoundExponential, params: PyTree) -> Float[Array, ""]:
    vector, _ = flatten(params)
    return jnp.vdot(vector, symmetry.apply(vector), precision=jax.lax.Precision.HIGHEST)


def exponential_symmetry(A: Any) -> ExponentialSymmetry:
    """The symmetry ℓ(e^{ρA}θ, z) = ℓ(θ, z) of a symmetric generator A on the flattened parameters, Definition 4.1.

    Args:
        A: a symmetric (P, P) array, rows and columns in the order of `flatten`; or a function v ↦ Av of a flat (P,)
            vector, for which only the charge, the generator, `noise_trace`, `noether_flow`, `expected_charge_step` and
            the symmetry checks are available.

    Returns:
        A symmetry whose charge is C = θᵀAθ, a scalar, and whose elements are numbers. The spectrum of a known matrix is
        taken once, in double precision; eigenvalues within rounding of 0 are 0.

    Raises:
        ValueError: if A is not a symmetric real matrix of finite numbers, or has more than 16,384 rows (2 GiB).

    Not checked: that a function is linear and symmetric; that the loss has the symmetry (`check_symmetry` does that).
    Assumed: A is a constant. Derivatives with respect to A go through an eigendecomposition, and hold where the
    eigenvalues are distinct.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> symmetry = ne.exponential_symmetry(jnp.diag(jnp.array([1.0, -1.0])))  # u × e^ρ, w × e^{−ρ}
        >>> params = {"u": jnp.array(3.0), "w": jnp.array(2.0)}
        >>> round(float(symmetry.charge(params)), 6)  # u² − w²
        5.0
    """
    if callable(A):
        return ExponentialSymmetry(None, None, pure(A, "v ↦ Av"))
    shape = np.shape(A)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"A has shape {shape}; expected a square matrix, or a function v ↦ Av.")
    require_room(
        f"the eigenvectors of A, of shape {shape},",
        shape[0] ** 2,
        np.float64,
        "Give a function v ↦ Av; or, if A is diagonal, a Symmetry with legs, whose powers are its entries.",
    )
    if isinstance(A, jax.core.Tracer):
        return ExponentialSymmetry(*_spectrum(A, jnp), None)
    matrix = np.asarray(A)
    if not (jnp.issubdtype(matrix.dtype, jnp.floating) or jnp.issubdtype(matrix.dtype, jnp.integer)):
        raise ValueError(f"A has dtype {matrix.dtype}; expected real numbers.")
    precision = jnp.finfo(matrix.dtype).eps if jnp.issubdtype(matrix.dtype, jnp.floating) else 0
    matrix = matrix.astype(np.float64)
    asymmetry, size = np.max(np.abs(matrix - matrix.T)), np.max(np.abs(matrix))
    if not np.isfinite(size) or asymmetry > 16 * precision * size:
        raise ValueError(
            f"max|A − Aᵀ| is {asymmetry:.3g} and max|A| is {size:.3g}; expected a symmetric matrix of finite numbers. "
            "Definition 4.1 is about symmetric generators: an antisymmetric part rotates, and has no charge θᵀAθ."
        )
    return ExponentialSymmetry(*_spectrum(matrix, np), None)


def _spectrum(matrix: Any, numpy: Any) -> tuple[Any, Any]:
    powers, vectors = numpy.linalg.eigh((matrix + matrix.T) / 2)
    floor = 8 * len(powers) * numpy.finfo(powers.dtype).eps * numpy.max(numpy.abs(powers))
    return numpy.where(numpy.abs(powers) <= floor, 0, powers), vectors


def _as_scalar(element: Any) -> Array:
    element = jnp.asarray(element)
    if element.shape != ():
        raise ValueError(f"the element has shape {element.shape}; expected one number, as the charge is one number.")
    return element
