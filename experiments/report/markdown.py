"""The report as Markdown; its figures are the files in the folders of the runs."""

from experiments.report.rows import TITLE, Content, Row, number


def markdown(content: Content) -> str:
    """The page."""
    words, sections, results, failures, made = content
    lines = [f"# {TITLE}", ""]
    lines += [line for word in words for line in (word, "")]
    for title, rows in sections:
        lines += [f"## {title}", ""]
        for row in rows:
            lines += _row(row)
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
    lines = [f"### {statement.label}: {'pass' if row.passed else 'FAIL'}", "", statement.says, "", f"In {where}."]
    lines += ["", f"*{statement.note}*"] if statement.note else []
    if result is None:
        return [*lines, "", "**Its run broke off.**", ""]
    lines += ["", f"[figure]({result.folder.name}/figure.png), made by `{result.run.command}`", ""]
    lines += ["| measured quantity | predicted | measured | tolerance | |", "|---|---|---|---|---|"]
    for metric in row.metrics:
        name = metric["name"].replace("|", "\\|")
        cells = (name, number(metric["predicted"]), number(metric["measured"]), metric["tolerance"])
        lines.append(f"| {' | '.join(cells)} | {'pass' if metric['pass'] else '**FAIL**'} |")
    return [*lines, ""]
