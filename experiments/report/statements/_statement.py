"""One row of the report, and a part of it."""

from typing import NamedTuple


class Statement(NamedTuple):
    """One row of the report.

    Attributes:
        label: its name in the paper.
        says: the statement.
        code: public names that compute it, as written after `ne.`; `experiments` for what is only measured.
        run: the run that measures it, see `runs`.
        metrics: beginnings of the names of its metrics.
        note: a caveat.
        corrected: how the printed statement differs from the one that is measured; its verdict is then "holds as
            corrected".
        fails: what of the printed statement does not hold here; its verdict is then "fails", though the measurements,
            which show it, are inside their marks.
        full: whether the quick preset of its study leaves it out.
    """

    label: str
    says: str
    code: tuple[str, ...]
    run: str
    metrics: tuple[str, ...]
    note: str = ""
    corrected: str = ""
    fails: str = ""
    full: bool = False


class Section(NamedTuple):
    """A part of the paper.

    Attributes:
        title: its heading.
        statements: its rows.
    """

    title: str
    statements: tuple[Statement, ...]
