"""The exponential symmetry of any symmetric generator: θ → e^{ρA}θ on the flattened parameters, Definition 4.1."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._budget import require_room
from .._group import ElementwiseGroup
from .._inputs import pure
from .._numbers import cast
from .._parameters import flatten, split, without_numbers
from ._symmetry import AbstractSymmetry

MatrixFree = Callable[..., Any]  # v ↦ Av on flat vectors


class BoundExponential(ElementwiseGroup):
    """The group e^{λA} of a generator: a pytree, so that the numbers of A are traced.

    Attributes:
        eigenvalues: μ_i of A, (P,): the powers; None if A is matrix-free.
        vectors: the eigenvectors n_i of A in columns, (P, P); None if A is matrix-free.
        function: v ↦ Av if A is matrix-free, else None. It has one power then, 1, whose Gram is vᵀAv, of either sign.
    """

    eigenvalues: Float[Array, " P"] | None
    vectors: Float[Array, "P P"] | None
    function: MatrixFree | None

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def public_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def name(self) -> str:
        return "a generator"

    @property
    def powers(self) -> Any:
        return np.ones(1) if self.eigenvalues is None else self.eigenvalues

    def leaves(self, count: int) -> set[int]:
        return set(range(count))

    def product(self, left: Sequence[Any], right: Sequence[Any]) -> Float[Array, " P"]:
        """n_iᵀu n_iᵀv for every eigenvector."""
        first = _vector(left)
        # The Gram of one vector with itself costs one product with the eigenvectors, not two.
        second = first if left is right else _vector(right)
        if self.function is not None:
            return jnp.vdot(first, self._apply(second), precision=jax.lax.Precision.HIGHEST)[None]
        return self._coordinates(first) * self._coordinates(second)

    def multiply(self, arrays: Sequence[Any], factors: Any) -> list[Any]:
        vector, unflatten = flatten(list(arrays))
        if self.function is not None:  # the one factor that there is, of the power 1, is that of a tangent
            return unflatten(cast(factors[0], vector) * self._apply(vector))
        scaled = cast(factors, vector) * self._coordinates(vector)
        return unflatten(jnp.matmul(cast(self.vectors, vector), scaled, precision=jax.lax.Precision.HIGHEST))

    def lengths(self, arrays: Sequence[Array]) -> Float[Array, " 1"]:
        moved = self.tangent(arrays, jnp.ones((), arrays[0].dtype))
        return jnp.linalg.norm(_vector(moved))[None]

    def require_spectrum(self, what: str) -> None:
        if self.function is not None:
            raise ValueError(
                f"{what} needs the eigenvalues of A, and this A is a function. Give exponential_symmetry the matrix; "
                "a function is enough for the charge, the generator, Tr[ΣA] and the Noether flow."
            )

    def _coordinates(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        return jnp.matmul(vector, cast(self.vectors, vector), precision=jax.lax.Precision.HIGHEST)

    def _apply(self, vector: Float[Array, " P"]) -> Float[Array, " P"]:
        assert self.function is not None
        return cast(self.function(vector), vector)


def _vector(arrays: Sequence[Array]) -> Float[Array, " P"]:
    return flatten(list(arrays))[0]


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
    # Whole numbers are symmetric exactly or not at all.
    precision = jnp.finfo(matrix.dtype).eps if jnp.issubdtype(matrix.dtype, jnp.floating) else 0
    matrix = matrix.astype(np.float64)
    asymmetry, size = np.max(np.abs(matrix - matrix.T)), np.max(np.abs(matrix))
    # A matrix that was computed is symmetric to a few roundings of its own dtype.
    if not np.isfinite(size) or asymmetry > 16 * precision * size:
        raise ValueError(
            f"max|A − Aᵀ| is {asymmetry:.3g} and max|A| is {size:.3g}; expected a symmetric matrix of finite numbers. "
            "Definition 4.1 is about symmetric generators: an antisymmetric part rotates, and has no charge θᵀAθ."
        )
    return ExponentialSymmetry(*_spectrum(matrix, np), None)


def _spectrum(matrix: Any, numpy: Any) -> tuple[Any, Any]:
    powers, vectors = numpy.linalg.eigh((matrix + matrix.T) / 2)
    # Eigenvalues err by up to dε of the largest. One that is 0 but for that would count as a power, and λ* be looked
    # for as far out as −h(0)/(4μ_min).
    floor = 8 * len(powers) * numpy.finfo(powers.dtype).eps * numpy.max(numpy.abs(powers))
    return numpy.where(numpy.abs(powers) <= floor, 0, powers), vectors
