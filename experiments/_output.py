"""Where an experiment writes, and what: a figure, the data, the metrics. Nothing is ever overwritten."""

import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments._metrics import Metric, write_metrics

MANY = 150  # points of one artist before a vector figure keeps it as pixels


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
        """Write `data.npz`, the figure and, last, `metrics.json`: a folder that holds it is complete.

        `figure.svg` is the one of the report: sharp at every size, with clouds of points as pixels, or it would be
        many times as large.
        """
        np.savez_compressed(self.folder / "data.npz", allow_pickle=False, **arrays)
        drawing.savefig(self.folder / "figure.png", dpi=150)
        for artist in drawing.findobj(lambda one: isinstance(one, Collection | Line2D)):
            artist.set_rasterized(_points(artist) > MANY)
        with mpl.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "path", "path.simplify_threshold": 0.5}):
            text = io.StringIO()
            drawing.savefig(text, format="svg", dpi=130, metadata={"Date": None})
        (self.folder / "figure.svg").write_text(_rounded(text.getvalue()), encoding="utf-8")
        write_metrics(metrics, self.folder / "metrics.json")


def _rounded(svg: str) -> str:
    """Paths and places to a twentieth of a point, which no screen shows: half of the size."""

    def shorter(found: re.Match[str]) -> str:
        return re.sub(r"(\.\d)\d+", r"\1", found[0])

    svg = re.sub(r' d="[^"]*"', shorter, svg)
    return re.sub(r' [xy]="[^"]*"', shorter, svg)


def _points(artist: object) -> int:
    if isinstance(artist, Line2D):
        drawn_as_points = artist.get_marker() not in ("", "None", None, " ")
        return np.size(artist.get_xdata()) * (5 if drawn_as_points else 1) // 4
    if isinstance(artist, Collection):
        offsets = len(np.atleast_2d(np.ma.getdata(artist.get_offsets())))
        return (
            max(offsets, *(np.shape(path.vertices)[0] for path in artist.get_paths()), 0)
            if artist.get_paths()
            else offsets
        )
    return 0
