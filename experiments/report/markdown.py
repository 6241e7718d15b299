"""The report as Markdown; its figures are the files in the folders of the runs."""

from experiments.report.about import About, about
from experiments.report.rows import MEANING, TITLE, Content, Row, measured, number


def markdown(content: Content) -> str:
    """The page."""
    words, sections, results, failures, made = content
    lines = [f"# {TITLE}", ""]
    lines += [line for word in words for line in (word, "")]
    lines += ["## Verdicts", "", *(f"- **{verdict}**: {says}" for verdict, says in MEANING.items()), ""]
    lines += ["| statement | verdict | study |", "|---|---|---|"]
    lines += [
        f"| {row.statement.label} | {row.verdict} | `{row.statement.run}` |" for _, rows in sections for row in rows
    ]
    for title, rows in sections:
        lines += ["", f"## {title}", ""]
        for row in rows:
            lines += _row(row)
    lines += ["## Studies: settings, and what differs from the paper", ""]
    for result in results:
        lines += _about(result.run.name, about(result.run))
    lines += ["## Runs and machine", "", "| command | passed | seconds |", "|---|---|---|"]
    for result in results:
        passed = sum(metric["pass"] for metric in result.metrics)
        lines.append(f"| `{result.run.command}` | {passed} of {len(result.metrics)} | {result.seconds:.0f} |")
    lines += ["", *(f"- {name} broke off: `{end.splitlines()[-1] if end else ''}`" for name, end in failures.items())]
    lines += [f"- {name}: {value}" for name, value in made.items()]
    return "\n".join(lines) + "\n"


def _row(row: Row) -> list[str]:
    statement, result = row.statement, row.result
    where = ", ".join(f"`{name}`" for name in statement.code)
    lines = [f"### {statement.label}: {row.verdict}", "", statement.says, "", f"In {where}."]
    for beginning, words in (
        ("Fails as printed", statement.fails),
        ("Corrected", statement.corrected),
        ("Note", statement.note),
    ):
        lines += ["", f"*{beginning}: {words}*"] if words else []
    if result is None:
        return [*lines, "", "**Its study was left out, or broke off.**", ""]
    if row.left_to_full:
        return [*lines, "", "**The quick preset leaves it out; the full report has it.**", ""]
    lines += ["", f"[figure]({result.folder.name}/figure.svg), made by `{result.run.command}`", ""]
    lines += ["| measured quantity | predicted | measured | mark | |", "|---|---|---|---|---|"]
    for metric in row.metrics:
        name = metric["name"].replace("|", "\\|")
        cells = (name, number(metric["predicted"]), measured(metric), metric["tolerance"])
        lines.append(f"| {' | '.join(cells)} | {metric['result'].replace('FAIL', '**FAIL**')} |")
    return [*lines, ""]


def _about(name: str, about: About) -> list[str]:
    lines = [f"### {name}", "", about.caption, ""]
    if about.settings:
        lines += ["| setting | value | |", "|---|---|---|"]
        lines += [f"| {setting.name} | {setting.value} | {setting.says} |" for setting in about.settings]
        lines.append("")
    if about.deviations:
        lines += ["| in the paper | here |", "|---|---|"]
        lines += [f"| {paper} | {here} |" for paper, here in about.deviations]
        lines.append("")
    return lines
