"""Makes the report: runs what is missing, joins it with the statements, writes the pages."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from experiments._metrics import Metric
from experiments._registry import STUDIES
from experiments.report.markdown import markdown
from experiments.report.page import html
from experiments.report.rows import Content, join, summary
from experiments.report.runs import LIBRARIES, Result, all_runs, make

MARK = ".noise_equilibrium-report"


def build(folder: Path, *, quick: bool, seed: int, workers: int, only: Sequence[str] = ()) -> list[Metric]:
    """Write `report.html` and `report.md` to a folder, in which runs are kept.

    Args:
        folder: new, empty, or an earlier report; its pages are made anew, its finished runs are never touched.
        quick: the quick presets.
        seed: of all studies.
        workers: studies that run at once.
        only: studies to run; all if none is named.

    Returns:
        For every run that was to be made, or is there, how many of its metrics passed.

    Raises:
        FileExistsError: if the folder holds something that is no report.
        ValueError: if workers is not positive, or if there is no such study.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1.")
    if unknown := sorted(set(only) - STUDIES.keys()):
        raise ValueError(f"there is no study {', '.join(unknown)}; expected some of {', '.join(STUDIES)}.")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists())):
        raise FileExistsError(f"{folder} holds something that is no report; give another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    runs = all_runs(quick=quick, seed=seed)
    results, failures = make(runs, folder, workers, only)
    sections = join(results)
    words = summary(sections, results, failures, quick=quick)
    made = {"Preset": "quick" if quick else "full", **_made(seed, workers, results)}
    content = Content(words, sections, results, failures, made)
    for name, text in (
        ("report.html", html(content)),
        ("report.md", markdown(content)),
    ):
        draft = folder / f".{name}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)
    counts = {result.run.name: (sum(m["pass"] for m in result.metrics), len(result.metrics)) for result in results}
    return [
        Metric(f"{run.name}: metrics that passed", *_pair(counts.get(run.name)), low=counts.get(run.name, (0, 1))[1])
        for run in runs
        if run.name in counts or not only or run.study in only
    ]


def _pair(count: tuple[int, int] | None) -> tuple[float | None, float]:
    return (None, 0) if count is None else (count[1], count[0])


def _made(seed: int, workers: int, results: list[Result]) -> dict[str, str]:
    """Versions, seeds and machine."""
    minutes = sum(result.seconds for result in results) / 60
    machines = sorted({result.machine for result in results})
    versions = ", ".join(f"{name} {version(name)}" for name in ("noise_equilibrium", *LIBRARIES))
    return {
        "Seed": f"{seed}, of data, initialisations and noise in every study",
        "Versions": f"{versions}, Python {platform.python_version()}",
        "Machine": f"{'; '.join(machines)}; {workers} runs at once, {minutes:.0f} minutes of runs in all",
    }
