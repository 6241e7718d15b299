"""Metrics: what was predicted, what was measured, and whether it passed."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from experiments._extrapolate import limit


@dataclass(frozen=True)
class Metric:
    """One claim, decided by an interval that the code fixes: as numbers, or from the standard error of the runs.

    Attributes:
        name: what is measured.
        predicted: what theory says; None where it only says that the value is large.
        measured: what came out.
        low: the least value that passes.
        high: the greatest value that passes.
        error: the standard error of what came out, over independent runs; None if nothing in it is random, or if it
            was not estimated.
    """

    name: str
    predicted: float | None
    measured: float
    low: float = -math.inf
    high: float = math.inf
    error: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the measurement lies in the interval; a NaN does not."""
        return bool(self.low <= self.measured <= self.high)

    @property
    def reported(self) -> bool:
        """Whether every number lies in the interval: it is shown, and nothing is claimed of it."""
        return math.isinf(self.low) and math.isinf(self.high)

    @property
    def result(self) -> str:
        """`pass`, `FAIL` or `reported`; what is not promised can only fail by being no number."""
        if not self.passed:
            return "FAIL"
        return "reported" if self.reported else "pass"

    @property
    def tolerance(self) -> str:
        """The interval in words; "reported" if every number passes, which is not promised to be anything."""
        if self.reported:
            return "reported"
        if math.isinf(self.low):
            return f"≤ {self.high:g}"
        if math.isinf(self.high):
            return f"≥ {self.low:g}"
        if self.low < self.high and f"{self.low:g}" == f"{self.high:g}":
            return f"{self.low:g} ± {(self.high - self.low) / 2:.0e}"
        return f"[{self.low:g}, {self.high:g}]"

    def entry(self) -> dict[str, object]:
        """The metric as an entry of `metrics.json`; numbers that JSON does not know are spelled out."""

        def number(value: float | None) -> float | str | None:
            return value if value is None else float(value) if math.isfinite(value) else str(float(value))

        return {
            "name": self.name,
            "predicted": number(self.predicted),
            "measured": number(self.measured),
            "error": number(self.error),
            "tolerance": self.tolerance,
            "pass": self.passed,
            "result": self.result,
        }


def within(
    name: str, predicted: float, measured: float, error: float, *, bias: float = 0.0, runs: int | None = None
) -> Metric:
    """A metric that passes within four standard errors of the prediction, and a bias that theory leaves out.

    Four, because a report has some hundred random metrics: at three, one report of four would have a false alarm, and
    errors that are estimated from few runs are underestimated.

    Args:
        name: what is measured.
        predicted: what theory says.
        measured: the mean over independent runs.
        error: its standard error.
        bias: how far the mean itself may lie from the prediction, in the same unit: the next order in η, say; where
            it comes from is said where it is chosen.
        runs: how many runs the error was estimated from, if they are few: the interval is then that of Student's t
            which is missed as seldom as four standard errors of very many runs, 8.5 of them at eight runs.
    """
    factor = 4.0 if runs is None else math.nan if runs < 2 else float(stats.t.isf(stats.norm.sf(4), runs - 1))
    margin = factor * error + bias
    return Metric(name, predicted, measured, predicted - margin, predicted + margin, error)


def of_runs(name: str, predicted: float, values: np.ndarray, *, bias: float = 0.0) -> Metric:
    """`within` for the mean of independent runs, whose scatter gives the standard error, by Student's t.

    Args:
        name: what is measured.
        predicted: what theory says.
        values: one number for each run, at least two.
        bias: as in `within`.
    """
    values = np.asarray(values, np.float64).ravel()
    return within(name, predicted, float(values.mean()), standard_error(values), bias=bias, runs=len(values))


def extrapolated(name: str, predicted: float, coarse: np.ndarray, fine: np.ndarray, *, bias: float = 0.0) -> Metric:
    """`within` for the limit η → 0, 2·fine − coarse, of independent runs at η and at η/2.

    Args:
        name: what is measured.
        predicted: what theory says of the limit.
        coarse: one number for each run at η.
        fine: likewise at η/2.
        bias: what is of order η².
    """
    coarse, fine = (np.asarray(values, np.float64).ravel() for values in (coarse, fine))
    found = limit(coarse, fine)
    return within(name, predicted, float(found.value), float(found.error), bias=bias, runs=min(len(fine), len(coarse)))


def standard_error(values: np.ndarray) -> float:
    """That of the mean of independent runs; NaN, which passes nowhere, of fewer than two."""
    values = np.asarray(values, np.float64).ravel()
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan


def worst_of(metrics: list[Metric]) -> Metric:
    """The one that is nearest to failing, in units of what its interval allows; its name says which of them it is."""

    def strain(metric: Metric) -> float:
        middle, half = (metric.low + metric.high) / 2, (metric.high - metric.low) / 2
        value = abs(metric.measured - middle) / half
        return value if math.isfinite(value) else math.inf

    return max(metrics, key=strain)


def write_metrics(metrics: list[Metric], path: Path) -> None:
    """Write `metrics.json`, a list of entries."""
    path.write_text(json.dumps([metric.entry() for metric in metrics], indent=2, ensure_ascii=False) + "\n")


def _short(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def table(metrics: list[Metric]) -> str:
    """The metrics as a table for the terminal."""
    rows = [("", "predicted", "measured", "tolerance", "")]
    rows += [
        (
            m.name,
            _short(m.predicted),
            _short(m.measured) + (f" ± {m.error:.1g}" if m.error is not None else ""),
            m.tolerance,
            m.result,
        )
        for m in metrics
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths).rstrip(), *lines[1:]])
