"""Where a loss has no gradient noise whatever the numbers are: it is no error, and seldom what was meant."""

import contextlib
import inspect
import os
import warnings

import equinox as eqx
import jax

# What stands between a line of the user's and this one: this package, and what traces and compiles for it.
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BETWEEN = (
    *(os.path.join(folder, "") for folder in (PACKAGE, *(os.path.dirname(m.__file__ or "") for m in (jax, eqx)))),
    contextlib.__file__,
)


class Silence(eqx.Module):
    """What a loss does not depend on. Static: read from its program once, and returned by every call of a compiled one.

    Attributes:
        varies: whether the loss depends on the sample.
        ignored: the parameters that were asked for and do not enter the loss, as paths into params.
    """

    varies: bool = eqx.field(static=True, default=True)
    ignored: tuple[str, ...] = eqx.field(static=True, default=())

    def warn(self, of_parameters: bool = True) -> None:
        """Warn, at the line of the user's that led here, of a loss without the sample or else of what it ignores.

        Args:
            of_parameters: whether to speak of ignored parameters; not where all of params are meant.
        """
        if not self.varies:
            warn_user(
                "the loss does not depend on the sample, so it has no gradient noise; a loss of all data at once looks "
                "so (expected loss(params, sample) of one sample)."
            )
        elif self.ignored and of_parameters:
            warn_user(f"the loss does not depend on {', '.join(self.ignored)}, so there is no gradient noise there.")


def warn_user(message: str) -> None:
    """Warn at the line of the user's that led here."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
