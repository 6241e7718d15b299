"""Figure 2: SGD aligns the two layers of a linear network, gradient descent does not.

`isotropic` follows charges in time and compares with the exact rate; `tasks` compares the end points of independent
anisotropic tasks with theory; `digits` repeats the study on real images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class Alignment:
    """Figure 2: SGD goes to the noise equilibrium of a two-layer linear network, GD does not."""

    data: Literal["synthetic", "digits"] = "synthetic"
    """Gaussian inputs with a linear teacher, or scikit-learn's handwritten digits."""
    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of initialisations, teachers and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics."""
        preset = "quick" if self.quick else "full"
        output = Output(f"alignment-{self.data}-{preset}-seed{self.seed}", self.out)
        # Imported here, so that --help and --list answer at once.
        if self.data == "digits":
            from experiments.alignment import digits as study
        else:
            from experiments.alignment import synthetic as study
        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
