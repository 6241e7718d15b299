"""Objectives that have the form of an equilibrium: the point of an orbit where a sum of squares is least.

On an orbit ‖θ‖² and the squares of what goes as a gradient, contragrediently, are sums of Grams. Where one of them is
least, R = T with R and T as in `ChargeLaw` (theory, "Variational form"): so each is a law, and has the closed forms of
an equilibrium.
"""

from typing import Any, ClassVar

import equinox as eqx

from .._flow import AbstractLaw, ChargeLaw


class LeastSquares(AbstractLaw):
    """The law whose equilibrium is the least of c₁‖θ‖² + c₂ Tr Σ + c₃‖∇L‖², whatever decay a problem has."""

    norm: float = eqx.field(static=True, default=0.0)
    noise: float = eqx.field(static=True, default=0.0)
    gradient: float = eqx.field(static=True, default=0.0)
    is_discrete: ClassVar[bool] = False

    def charge_law(self, problem: Any) -> ChargeLaw:
        return ChargeLaw(decay=self.norm / 2, scale=1.0, noise=self.noise, mean=self.gradient)


NOISE, NORM, GRADIENT = LeastSquares(noise=1.0), LeastSquares(norm=1.0), LeastSquares(gradient=1.0)
