"""Gradient noise: second moments along a symmetry, exact samples, and the dense covariance for reference."""

from ._abstract import AbstractMoments
from ._moments import Moments, bound_moments, noise_moments
from ._reference import gradient_covariance
from ._sample import noise_weights, sample_noise
from ._spectral import SpectralMoments

__all__ = [
    "AbstractMoments",
    "Moments",
    "SpectralMoments",
    "bound_moments",
    "gradient_covariance",
    "noise_moments",
    "noise_weights",
    "sample_noise",
]
