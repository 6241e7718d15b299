"""The whole paper on one page: runs the studies that are missing, and sets every statement beside its measurement."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from experiments._metrics import Metric


@dataclass(frozen=True)
class Report:
    """The whole paper on one page: every statement with its place in the code, prediction, measurement and figure."""

    quick: bool = False
    """The quick presets of all studies."""
    seed: int = 0
    """Seed of all studies."""
    out: Path | None = None
    """Folder of the page and of the runs it is made of; results/report-… if not given. Finished runs in it are used
    again if neither their options nor the code they depend on have changed."""
    only: tuple[str, ...] = ()
    """Studies to run, all if none is named. Of the others the page shows what is in the folder already."""
    workers: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    )
    """Studies that run at once."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Make what is missing, write `report.html` and `report.md`; the folder, and how many metrics of each passed.

        Raises:
            FileExistsError: if `out` holds something that is no report.
            ValueError: if `workers` is below 1, or `only` names no study.
        """
        from experiments.report.build import build  # here, so that --help and --list answer at once

        folder = self.out or Path("results") / f"report-{'quick' if self.quick else 'full'}-seed{self.seed}"
        return folder, build(folder, quick=self.quick, seed=self.seed, workers=self.workers, only=self.only)
