"""Theorem 4.5: how closely a charge follows an equilibrium that drifts and diffuses."""

from dataclasses import dataclass
from pathlib import Path

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class MovingTarget:
    """Theorem 4.5: how closely a charge follows an equilibrium that drifts and diffuses."""

    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of data and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics."""
        output = Output(f"moving_target-{'quick' if self.quick else 'full'}-seed{self.seed}", self.out)
        from experiments.moving_target import study  # here, so that --help and --list answer at once

        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
