"""What an equation of a program may do to parameters: the nouns, and how to read an equation.

Parameters of equations are read through `read`, which answers None instead of failing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.core
from jax.extend import core

from ._linear_view import LOOP, POSITION, Axis, View


class Fact(NamedTuple):
    """What is known of a value.

    Attributes:
        views: the parameters in which it is linear; empty if it holds none.
        varies: whether it depends on the sample, or on the iteration of a loop.
    """

    views: tuple[View, ...] = ()
    varies: bool = False


class Use(NamedTuple):
    """A place where a parameter meets its input.

    Attributes:
        view: how the operand holds the parameter.
        side: which operand of the equation it is.
        kind: "product", "rows" (looked up at an index) or "convolution".
        output_axes: what lies along the axes of the product, and so of δ.
        other_axes: what lies along the axes of the other factor h (of a convolution, its patches).
        output: the labels of the axes of the pulled δ, below `POSITION` axes of the parameter.
        other: those of the pulled h; of rows, those of its positions and then the axis that is looked up.
        shape: of the pulled δ, with the loops around it in front.
        dtype: of the product.

    Examples:
        With W of shape (3, 4) and two inputs h_p of length 2 in columns, y = W[1:3].T @ h has the shape (4, 2). δ has
        axis 1 of W and the positions p along its axes, h has what the slice left of axis 0, two entries, and p:

        >>> from noise_equilibrium._per_sample._tapped_loss import tap
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, h: jnp.sum((w[1:3].T @ h) ** 2), jnp.ones((5, 2, 2)))
        >>> (use,) = tap(problem, jnp.ones((3, 4)), [0]).uses
        >>> use.side, use.kind, use.view.maps
        (0, 'product', (Window(label=0, start=1, size=2, stride=1, full=3),))
        >>> use.output_axes  # 1001, POSITION + 1: axis 1 of h, and none of W
        ((Atom(label=1, stride=1, size=4),), (Atom(label=1001, stride=1, size=2),))
        >>> use.other_axes
        ((Atom(label=0, stride=1, size=2),), (Atom(label=1001, stride=1, size=2),))
        >>> use.output, use.other, use.shape
        ((1, 1001), (0, 1001), (4, 2))

        So the gradient of W[1:3] is Σ_p h_p δ_pᵀ: two outer products, of shapes (2,) and (4,).
    """

    view: View
    side: int
    kind: str
    output_axes: tuple[Axis, ...]
    other_axes: tuple[Axis, ...]
    output: tuple[int, ...]
    other: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def shared(self) -> tuple[int, ...]:
        """The axes of the parameter that both factors have."""
        return tuple(label for label in self.output if label < POSITION and label in self.other)

    @property
    def looked_up(self) -> int | None:
        """The axis along which rows are looked up."""
        return self.other_axes[-1][0].label if self.kind == "rows" else None

    def looped(self, length: int) -> "Use":
        """The same use inside a loop whose iterations are stacked along a new first axis."""
        *outer, runs_over = self.view.loops
        label = LOOP + sum(axis >= LOOP for axis in self.output) if runs_over is None else runs_over
        return self._replace(
            view=self.view._replace(loops=tuple(outer)),
            output=(label, *self.output),
            other=(label, *self.other),
            shape=(length, *self.shape),
        )


class Derived(NamedTuple):
    """A view of a result.

    Attributes:
        view: how the result holds the parameter.
        value: the operand that the last of its maps needs at run time, if it is new here and needs one.
    """

    view: View
    value: int | None = None


class Viewed(NamedTuple):
    """The equation makes values that are linear in parameters, one list of views per result."""

    results: tuple[tuple[Derived, ...], ...]


class Used(NamedTuple):
    """The equation multiplies parameters with something that depends on the sample."""

    uses: tuple[Use, ...]


class Entered(NamedTuple):
    """The equation calls another program; `remat` says that the call recomputes on the way back."""

    program: core.ClosedJaxpr
    remat: dict[str, Any] | None


class Looped(NamedTuple):
    """The equation is a scan whose constants or sequences hold parameters."""

    program: core.ClosedJaxpr
    num_consts: int
    num_carry: int
    length: int
    options: dict[str, Any]

    def facts_inside(self, facts: Sequence[Fact]) -> list[Fact]:
        """What is known of the inputs of the body: a sequence loses its first axis, and a carry varies."""
        first_sequence = self.num_consts + self.num_carry
        return [
            Fact(
                tuple(view.in_loop(runs_over_it=place >= first_sequence) for view in views),
                varies or self.num_consts <= place < first_sequence,
            )
            for place, (views, varies) in enumerate(facts)
        ]


class Escaped(NamedTuple):
    """The equation does something to a parameter that is not understood."""

    primitive: str


Action = Viewed | Used | Entered | Looped | Escaped


def read(eqn: core.JaxprEqn, name: str, kind: type | tuple[type, ...]) -> Any:
    """A parameter of an equation, or None if it is absent or not of the expected kind."""
    value = eqn.params.get(name)
    return value if isinstance(value, kind) else None


def aval(var: Any) -> jax.core.ShapedArray:
    """Shape and dtype of a variable."""
    return var.aval
