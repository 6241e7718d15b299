"""Section 5.4: a symmetry that a term ζ ℓ₁ breaks, from ζ = 0 to large, in theory and under SGD."""

from dataclasses import dataclass
from pathlib import Path

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class ApproximateSymmetry:
    """Section 5.4: a broken symmetry settles between the noise equilibrium and the minimum of what breaks it."""

    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of data and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics."""
        output = Output(f"approximate_symmetry-{'quick' if self.quick else 'full'}-seed{self.seed}", self.out)
        from experiments.approximate_symmetry import study  # here, so that --help and --list answer at once

        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
