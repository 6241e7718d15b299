"""Section 5.1: noise makes all neurons of a rank-one factorisation agree in sign; gradient descent does not."""

from dataclasses import dataclass
from pathlib import Path

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class SignAlignment:
    """Section 5.1: noise makes all neurons of a rank-one factorisation agree in sign; gradient descent does not."""

    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of data and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics."""
        output = Output(f"sign_alignment-{'quick' if self.quick else 'full'}-seed{self.seed}", self.out)
        from experiments.sign_alignment import study  # here, so that --help and --list answer at once

        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
