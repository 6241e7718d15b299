"""Gradient noise: second moments along a symmetry, exact samples, and the dense covariance for reference.

`_program` reads the program of a loss, `_gradients` and `_parts` hold per-sample gradients as outer products, `_pass`
takes their Grams in one pass over the data; the other modules are what is made of them.
"""

from .._per_sample import Explanation, LegPath, explain
from ._abstract import AbstractMoments
from ._moments import Moments, bound_moments, noise_moments
from ._partial import MomentEstimate, PartialMoments, combine_moments, estimate_moments, partial_moments
from ._redrawn import RedrawnMoments, redrawn_moments
from ._reference import gradient_covariance
from ._sample import noise_weights, sample_noise
from ._spectral import SpectralMoments
from ._trace import charge_rates, noise_trace

__all__ = [
    "AbstractMoments",
    "Explanation",
    "LegPath",
    "MomentEstimate",
    "Moments",
    "PartialMoments",
    "RedrawnMoments",
    "SpectralMoments",
    "bound_moments",
    "charge_rates",
    "combine_moments",
    "estimate_moments",
    "explain",
    "gradient_covariance",
    "noise_moments",
    "noise_trace",
    "noise_weights",
    "partial_moments",
    "redrawn_moments",
    "sample_noise",
]
