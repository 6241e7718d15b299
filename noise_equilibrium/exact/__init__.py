"""Closed forms for linear networks: equilibria, sharpness, noise moments and rates, with no training and no sampling.

Everything here is for x ~ N(0, Σ_x) and y = V x + ε, ε ~ N(0, Σ_ε) independent of x, and a loss ‖prediction − y‖²
without a factor ½. `data.LinearTeacher(V, cov_x, cov_noise).noise_matched()` is a finite data set with the same noise,
on which the rest of the program computes the same things without knowing the answer.

    equilibria   two_layer_equilibrium, deep_linear_equilibrium, balanced_factors, balanced_minimum
    sharpness    hessian_trace, deep_hessian_trace, initial_hessian_trace, equilibrium_hessian_trace,
                 flattest_hessian_trace
    noise        residual_moments, two_layer_moments
    rates        sign_alignment_rate, scale_invariant_norm

Arrays may be traced; what is known at call time is checked. The results follow the dtype of V: use double precision.
"""

from ._deep_linear import deep_linear_equilibrium
from ._gaussian import ResidualMoments, residual_moments, two_layer_moments
from ._rates import scale_invariant_norm, sign_alignment_rate
from ._sharpness import (
    deep_hessian_trace,
    equilibrium_hessian_trace,
    flattest_hessian_trace,
    hessian_trace,
    initial_hessian_trace,
)
from ._two_layer import balanced_factors, balanced_minimum, two_layer_equilibrium

__all__ = [
    "ResidualMoments",
    "balanced_factors",
    "balanced_minimum",
    "deep_hessian_trace",
    "deep_linear_equilibrium",
    "equilibrium_hessian_trace",
    "flattest_hessian_trace",
    "hessian_trace",
    "initial_hessian_trace",
    "residual_moments",
    "scale_invariant_norm",
    "sign_alignment_rate",
    "two_layer_equilibrium",
    "two_layer_moments",
]
