"""Figure 2: SGD aligns the two layers of a linear network, gradient descent does not.

`isotropic` follows charges in time and compares with the exact rate; `tasks` compares the end points of independent
anisotropic tasks with theory; `digits` repeats the study on real images.
"""

from dataclasses import dataclass
from typing import Literal

from experiments._study import Study


@dataclass(frozen=True)
class Alignment(Study):
    """Figure 2: SGD goes to the noise equilibrium of a two-layer linear network, GD does not."""

    data: Literal["synthetic", "digits"] = "synthetic"
    """Gaussian inputs with a linear teacher, or scikit-learn's handwritten digits."""

    @property
    def label(self) -> str:
        """With the data in it."""
        return f"alignment-{self.data}"

    @property
    def module(self) -> str:
        """The study of these data."""
        return f"experiments.alignment.{self.data}"
