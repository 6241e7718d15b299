"""Where an experiment writes, and what: a figure, the data, the metrics. Nothing is ever overwritten."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments._metrics import Metric, write_metrics


class Output:
    """A new folder for one run of an experiment.

    Args:
        name: the name of the default folder, `results/<name>`; if it is taken, a number is added.
        out: a folder to use instead; it may exist if it is empty.

    Raises:
        FileExistsError: if `out` holds something, or is a file.
    """

    def __init__(self, name: str, out: Path | None):
        if out is None:
            out = Path("results") / name
            number = 1
            while out.exists():
                number += 1
                out = Path("results") / f"{name}-{number}"
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} is not an empty folder; give another --out, so that nothing is overwritten.")
        out.mkdir(parents=True, exist_ok=True)
        self.folder = out

    def write(self, metrics: list[Metric], arrays: dict[str, np.ndarray], drawing: Figure) -> None:
        """Write `data.npz`, `figure.png` and, last, `metrics.json`: a folder that holds it is complete."""
        np.savez_compressed(self.folder / "data.npz", allow_pickle=False, **arrays)
        drawing.savefig(self.folder / "figure.png", dpi=150)
        write_metrics(metrics, self.folder / "metrics.json")
