"""What became of the search for an equilibrium."""

import enum


class Status(enum.IntEnum):
    """Outcome of `find_equilibrium`, an int32 code that survives `jit` and `vmap`.

    Compare with `==`, or name it with `Status(int(code)).name`.
    """

    CONVERGED = 0
    """A finite equilibrium; the flow vanishes there."""
    LIMIT = 1
    """The equilibrium lies at ±∞ in some directions, but the parameters have a finite limit, which is returned."""
    DIVERGES = 2
    """Some direction has no finite limit, as under scaling without weight decay; it is left unmoved."""
    NO_NOISE = 3
    """Neither noise nor weight decay acts along the symmetry: every point is an equilibrium, nothing is moved."""
    NOT_CONVERGED = 4
    """The flow does not vanish at the answer, which is returned all the same; the loss may lack the symmetry."""
    NON_FINITE_INPUT = 5
    """Parameters, data or moments hold a NaN or an infinity, or γ < 0 or ηγ ≥ 1 under a trace; nothing is moved."""
