"""Statements joined with their measurements: what a page shows, before it is HTML or Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.report.runs import Result
from experiments.report.statements import SECTIONS, Statement

TITLE = "Parameter symmetry and noise equilibrium of SGD: every statement, measured"


@dataclass(frozen=True)
class Row:
    """A statement with the metrics that measure it.

    Attributes:
        statement: the statement.
        result: of the run; None if it broke off.
        metrics: entries of its `metrics.json`.
    """

    statement: Statement
    result: Result | None
    metrics: list[dict]

    @property
    def passed(self) -> bool:
        """Whether there are metrics and all passed."""
        return bool(self.metrics) and all(metric["pass"] for metric in self.metrics)

    @property
    def whole(self) -> bool:
        """Whether the figure of its run belongs to this row."""
        return self.statement.metrics == ("",) or "Figure" in self.statement.label


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
    for beginning in statement.metrics:
        if not any(metric["name"].startswith(beginning) for metric in result.metrics):
            raise ValueError(f"{statement.label}: no metric of {result.run.name} begins with {beginning!r}.")
    return Row(statement, result, [m for m in result.metrics if m["name"].startswith(statement.metrics)])


def number(value: object) -> str:
    """Four digits; — where theory names no number."""
    return "—" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def summary(sections: list[tuple[str, list[Row]]], results: list[Result], failures: dict[str, str]) -> list[str]:
    """What came out, in words."""
    rows = [row for _, found in sections for row in found]
    metrics = [metric for result in results for metric in result.metrics]
    promised = [metric for metric in metrics if metric["tolerance"] != "reported"]
    failed = [
        f"{m['name']} ({r.run.name})"
        for r in results
        for m in r.metrics
        if not m["pass"] and m["tolerance"] != "reported"
    ]
    identities = [result for result in results if result.run.name == "identities"]
    words = [
        f"{sum(row.passed for row in rows)} of {len(rows)} statements hold: {len(promised) - len(failed)} of "
        f"{len(promised)} measurements lie inside the intervals fixed for them beforehand, and "
        f"{len(metrics) - len(promised)} more are reported without a mark.",
    ]
    if identities:
        exact = [m for m in identities[0].metrics if "e-" in m["tolerance"] and m["predicted"] == 0]
        held, worst = sum(m["pass"] for m in exact), np.max([float(m["measured"]) for m in exact])
        words.append(
            f"Of the exact statements, {held} of {len(exact)} identities hold to rounding; the largest "
            f"error is {worst:.0e}, that of a finite limit or difference."
        )
    words.append(
        "The others are about training, where theory is the limit of a small learning rate, long time or large data: "
        "their marks say how near it has to be, and the studies with GD that the effect is the noise's."
    )
    if failed:
        words.append(f"Outside their marks: {'; '.join(failed)}.")
    if failures:
        words.append(f"Broke off, and are missing here: {', '.join(failures)}.")
    return words
