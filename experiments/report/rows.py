"""Statements joined with their measurements: what a page shows, before it is HTML or Markdown."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from experiments.report.runs import Result
from experiments.report.statements import SECTIONS, Statement

TITLE = "Parameter symmetry and noise equilibrium of SGD: every statement, measured"


class Verdict(StrEnum):
    """What became of a statement."""

    HOLDS = "holds"
    CORRECTED = "holds as corrected"
    FAILS = "fails"
    REPORTED = "reported"
    OUTSIDE = "outside its mark"
    MISSING = "not measured"
    FULL = "in the full report"


MEANING = {
    Verdict.HOLDS: "as printed; every measurement lies inside its mark",
    Verdict.CORRECTED: "not as printed, but in the form given with it, whose measurements lie inside their marks",
    Verdict.FAILS: "as printed it does not hold here; the measurements show it, and lie inside the marks of what is",
    Verdict.REPORTED: "measured, and nothing is claimed of it",
    Verdict.OUTSIDE: "a measurement lies outside its mark",
    Verdict.MISSING: "its study was left out, or broke off",
    Verdict.FULL: "only the full preset measures it",
}


@dataclass(frozen=True)
class Row:
    """A statement with the metrics that measure it.

    Attributes:
        statement: the statement.
        result: of the run; None if it was left out or broke off.
        metrics: entries of its `metrics.json`.
    """

    statement: Statement
    result: Result | None
    metrics: list[dict]

    @property
    def verdict(self) -> Verdict:
        """What became of the statement."""
        if self.result is None:
            return Verdict.MISSING
        if self.left_to_full:
            return Verdict.FULL
        if not self.metrics or not all(metric["pass"] for metric in self.metrics):
            return Verdict.OUTSIDE
        if self.statement.fails:
            return Verdict.FAILS
        if self.statement.corrected:
            return Verdict.CORRECTED
        return Verdict.REPORTED if all(reported(metric) for metric in self.metrics) else Verdict.HOLDS

    @property
    def left_to_full(self) -> bool:
        """Whether this is a quick run of what the full preset alone measures."""
        quick = self.result is not None and "--quick" in self.result.run.arguments
        return quick and self.statement.full and not self.metrics

    @property
    def anchor(self) -> str:
        """A name of the statement for links."""
        return re.sub(r"[^a-z0-9]+", "-", self.statement.label.lower()).strip("-")

    @property
    def whole(self) -> bool:
        """Whether the figure of its run belongs to this row."""
        return self.statement.metrics == ("",) or "Figure" in self.statement.label


def reported(metric: dict) -> bool:
    """Whether nothing is claimed of a metric."""
    return metric["tolerance"] == "reported"


class Content(NamedTuple):
    """What a page shows.

    Attributes:
        words: the summary.
        sections: titles and rows.
        results: all runs.
        failures: the ends of what broken runs printed.
        made: with what it was made.
    """

    words: list[str]
    sections: list[tuple[str, list[Row]]]
    results: list[Result]
    failures: dict[str, str]
    made: dict[str, str]


def join(results: Iterable[Result]) -> list[tuple[str, list[Row]]]:
    """The rows of every section.

    Raises:
        ValueError: if a statement names metrics that its run does not have.
    """
    by_name = {result.run.name: result for result in results}
    return [(title, [_row(statement, by_name.get(statement.run)) for statement in rows]) for title, rows in SECTIONS]


def _row(statement: Statement, result: Result | None) -> Row:
    if result is None:
        return Row(statement, None, [])
    row = Row(statement, result, [m for m in result.metrics if m["name"].startswith(statement.metrics)])
    for beginning in statement.metrics:
        if not row.left_to_full and not any(metric["name"].startswith(beginning) for metric in row.metrics):
            raise ValueError(f"{statement.label}: no metric of {result.run.name} begins with {beginning!r}.")
    return row


def figures(sections: list[tuple[str, list[Row]]]) -> dict[str, str]:
    """For every run the anchor of the row that shows its figure: the one it belongs to, else the first."""
    rows, places = [row for _, found in sections for row in found if not row.left_to_full], {}
    for row in [*(row for row in rows if row.whole), *rows]:
        places.setdefault(row.statement.run, row.anchor)
    return places


def number(value: object) -> str:
    """Four digits; — where theory names no number."""
    return "—" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def measured(metric: dict) -> str:
    """What came out, with its standard error where one was estimated."""
    error = metric.get("error")
    return number(metric["measured"]) + (f" ± {error:.1g}" if isinstance(error, int | float) else "")


def summary(
    sections: list[tuple[str, list[Row]]], results: list[Result], failures: dict[str, str], *, quick: bool
) -> list[str]:
    """What came out, in words."""
    rows = [row for _, found in sections for row in found]
    metrics = [(result.run.name, metric) for result in results for metric in result.metrics]
    promised = [metric for _, metric in metrics if not reported(metric)]
    failed = [f"{metric['name']} ({run})" for run, metric in metrics if not metric["pass"]]
    counts = Counter(row.verdict for row in rows)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    held = sum(metric["pass"] for metric in promised)
    random = sum(metric.get("error") is not None for metric in promised)
    exact = [m for run, m in metrics if run == "identities" and "e-" in m["tolerance"] and m["predicted"] == 0]
    size = "This is the quick report: smaller studies with marks of the same kind. " if quick else ""
    words = [
        f"{size}Of {len(rows)} statements: {verdicts}. {held} of {len(promised)} measurements lie inside their marks, "
        f"and {len(metrics) - len(promised)} more are reported without one.",
    ]
    if exact:
        held, worst = sum(m["pass"] for m in exact), np.max([float(m["measured"]) for m in exact])
        words.append(
            f"Of the exact statements, {held} of {len(exact)} identities hold to rounding; the largest "
            f"error is {worst:.0e}, that of a finite limit or difference."
        )
    words.append(
        f"The others are about training. {random} of the marks are the prediction ± four standard errors of the runs, "
        "more where runs are few (Student's law), ± a bias, mostly of the order of η, whose size stands in the code "
        "with its reason; where a limit η → 0 is taken, the bias is estimated from the runs themselves. The others are "
        "fixed numbers in the code. It was written by people who had seen earlier runs at other seeds, and some tasks "
        "and marks were changed after such runs failed: fixed marks are no blind test. A new seed is."
    )
    if failed:
        words.append(f"Outside their marks: {'; '.join(failed)}.")
    taken = {(row.statement.run, metric["name"]) for row in rows for metric in row.metrics}
    loose = [f"{m['name']} ({run})" for run, m in metrics if not reported(m) and (run, m["name"]) not in taken]
    if loose:
        words.append(f"Measured, and in no statement above: {'; '.join(loose)}.")
    if failures:
        words.append(f"Broke off, and are missing here: {', '.join(failures)}.")
    return words
