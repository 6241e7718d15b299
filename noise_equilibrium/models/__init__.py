"""Models as pure functions: parameters, per-sample loss, and the symmetry next to them.

With closed forms in `noise_equilibrium.exact`: `two_layer_linear` (Section 5.2), `deep_linear` (Section 5.3),
`rank_one` (Section 5.1, and with one unit the rescaling of Figure 1) and `scale_invariant` (Figure 1, Appendix A.1).
Without: `two_layer` (tanh, swish, ReLU and leaky ReLU; Figures 6 and 9), `normalized` (Figure 7), `deep_relu` (any
depth, with biases) and `attention` (one or several heads).
"""

from . import (
    attention,
    deep_linear,
    deep_relu,
    normalized,
    rank_one,
    scale_invariant,
    two_layer,
    two_layer_linear,
)

__all__ = [
    "attention",
    "deep_linear",
    "deep_relu",
    "normalized",
    "rank_one",
    "scale_invariant",
    "two_layer",
    "two_layer_linear",
]
