"""What every experiment is: a few options, and a module `study` that computes, imported only when it runs."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from experiments._metrics import Metric
from experiments._output import Output


@dataclass(frozen=True)
class Study:
    """The options of an experiment; its package is the module in which its class is."""

    quick: bool = False
    """A smaller study with the same pass marks."""
    seed: int = 0
    """Seed of data, initialisations and noise."""
    out: Path | None = None
    """Folder to write to; results/… if not given."""

    @property
    def label(self) -> str:
        """The beginning of the name of the default folder."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def module(self) -> str:
        """The module with `run(quick=…, seed=…) -> (metrics, arrays, figure)`."""
        return f"{type(self).__module__}.study"

    def run(self) -> tuple[Path, list[Metric]]:
        """Run the study; the folder written to, and the metrics.

        Raises:
            FileExistsError: if `out` holds something, or is a file.
        """
        output = Output(f"{self.label}-{'quick' if self.quick else 'full'}-seed{self.seed}", self.out)
        study = import_module(self.module)  # here, so that --help and --list answer at once
        metrics, arrays, drawing = study.run(quick=self.quick, seed=self.seed)
        output.write(metrics, arrays, drawing)
        return output.folder, metrics
