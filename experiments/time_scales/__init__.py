"""Section 4.2: the noise equilibrates faster than the loss settles, or slower, as σ² decides."""

from dataclasses import dataclass
from pathlib import Path

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class TimeScales:
    """Section 4.2: the noise equilibrates faster than the loss settles, or slower, as σ² decides."""

    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of data and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics."""
        output = Output(f"time_scales-{'quick' if self.quick else 'full'}-seed{self.seed}", self.out)
        from experiments.time_scales import study  # here, so that --help and --list answer at once

        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
