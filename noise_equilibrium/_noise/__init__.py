"""Gradient noise: second moments along a symmetry, exact samples, and the dense covariance for reference.

`_per_sample` tells what they are made of: the Grams of per-sample gradients, from one pass over the data.
"""

from .._per_sample import Explanation, LegPath, explain
from ._abstract import AbstractMoments, Moments
from ._measurement import Measurement, Source, measure, measured, or_measurement
from ._moments import measured_moments, moments_and_mean, noise_moments
from ._noise_scale import GradientNoise, gradient_noise_scale
from ._partial import MomentEstimate, PartialMoments, combine_moments, estimate_moments, partial_moments
from ._redrawn import RedrawnMoments, redrawn_moments
from ._reference import gradient_covariance
from ._sample import noise_weights, sample_noise
from ._spectral import SpectralMoments
from ._trace import charge_rates, noise_trace

__all__ = [
    "AbstractMoments",
    "Explanation",
    "GradientNoise",
    "LegPath",
    "Measurement",
    "MomentEstimate",
    "Moments",
    "PartialMoments",
    "RedrawnMoments",
    "Source",
    "SpectralMoments",
    "charge_rates",
    "combine_moments",
    "estimate_moments",
    "explain",
    "gradient_covariance",
    "gradient_noise_scale",
    "measure",
    "measured",
    "measured_moments",
    "moments_and_mean",
    "noise_moments",
    "noise_trace",
    "noise_weights",
    "or_measurement",
    "partial_moments",
    "redrawn_moments",
    "sample_noise",
]
