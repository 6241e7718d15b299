"""Models as pure functions: parameters, per-sample loss, and the symmetry next to them.

`two_layer_linear` (Section 5.2), `deep_linear` (Section 5.3), `rank_one` (Section 5.1, and with one unit the rescaling
of Figure 1), `scale_invariant` (Figure 1, Appendix A.1). Their closed forms are in `noise_equilibrium.exact`.
"""

from . import deep_linear, rank_one, scale_invariant, two_layer_linear

__all__ = ["deep_linear", "rank_one", "scale_invariant", "two_layer_linear"]
