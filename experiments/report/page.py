"""The report as HTML, in one file that needs no other and no network."""

import base64
import re
from html import escape

from experiments.report.rows import TITLE, Content, Row, number
from experiments.report.runs import Result

MANY = 8  # metrics of a row before they are folded

STYLE = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --good: #0b6b3a; --bad: #a40e26; --shade: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 68rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
h3 { margin: 0; font-size: 1rem; }
article { padding: 1rem 0; border-top: 1px solid var(--line); }
article > p { margin: .3rem 0; } code { font-size: .85em; overflow-wrap: anywhere; }
.note, .where { color: var(--soft); font-size: .9rem; }
.pass { color: var(--good); } .fail { color: var(--bad); font-weight: 700; }
.head { display: flex; justify-content: space-between; gap: 1rem; }
table { width: 100%; border-collapse: collapse; margin: .5rem 0; font-size: .85rem; }
th { color: var(--soft); font-weight: 500; text-align: left; } td, th { padding: .15rem .5rem .15rem 0; }
td:not(:first-child), th:not(:first-child) { width: 6.5rem; white-space: nowrap; }
tbody tr:nth-child(odd) { background: var(--shade); }
img { max-width: 100%; height: auto; } figure { margin: .8rem 0; } figcaption { color: var(--soft); font-size: .85rem; }
summary { cursor: pointer; font-size: .9rem; } nav a { margin-right: 1rem; }
pre { overflow-x: auto; background: var(--shade); padding: .7rem; font-size: .8rem; }
@media (max-width: 40rem) {
  body { padding: 1rem; } thead { display: none; } table, tbody, tr, td { display: block; }
  tr { padding: .3rem .4rem; } td, td:not(:first-child) { width: auto; white-space: normal; padding: 0; }
  td:nth-child(n+2) { display: inline-block; margin-right: .8rem; }
  td[data-of]::before { content: attr(data-of) " "; color: var(--soft); }
}
"""


def text(words: str) -> str:
    """Words as HTML: `code`, indices and powers are set as printed: θ_λ, C_kl, e^{λA}; names like orbit_flow stay."""
    parts = escape(words, quote=False).split("`")
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = f"<code>{part}</code>"
            continue
        part = re.sub(r"\^(?:\{([^}]*)\}|(\w))", lambda found: f"<sup>{found[1] or found[2]}</sup>", part)
        index = r"(?<![A-Za-z]{3})_(?:\{([^}]*)\}|([A-Za-z]{1,4}|[α-ω]|\d)(?![A-Za-z0-9_]))"
        parts[place] = re.sub(index, lambda found: f"<sub>{found[1] or found[2]}</sub>", part)
    return "".join(parts)


def html(content: Content) -> str:
    """The page."""
    words, sections, results, failures, made = content
    shown: set[str] = set()
    body = [
        f"<h1>{escape(TITLE)}</h1>",
        *(f"<p>{text(word)}</p>" for word in words),
        "<nav>",
        *(f'<a href="#part-{place}">{escape(title)}</a>' for place, (title, _) in enumerate(sections)),
        '<a href="#runs">Runs and machine</a></nav>',
    ]
    for place, (title, rows) in enumerate(sections):
        body.append(f'<h2 id="part-{place}">{escape(title)}</h2>')
        body += [_row(row, shown) for row in rows]
    body.append('<h2 id="runs">Runs and machine</h2>')
    rest = [result for result in results if result.run.name not in shown]
    body += [_figure(result) for result in rest]
    body.append("<table><thead><tr><th>command</th><th>passed</th><th>seconds</th></tr></thead><tbody>")
    for result in results:
        passed = f"{sum(m['pass'] for m in result.metrics)} of {len(result.metrics)}"
        cells = (
            (f"<code>{escape(result.run.command)}</code>", ""),
            (passed, "passed"),
            (f"{result.seconds:.0f}", "seconds"),
        )
        body.append("<tr>" + "".join(_cell(cell, of) for cell, of in cells) + "</tr>")
    body.append("</tbody></table>")
    for name, end in failures.items():
        body.append(f'<p class="fail">{escape(name)} broke off:</p><pre>{escape(end)}</pre>')
    body += [f'<p class="note">{escape(name)}: {escape(value)}</p>' for name, value in made.items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Noise equilibrium: the report</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _row(row: Row, shown: set[str]) -> str:
    statement, result = row.statement, row.result
    verdict = '<span class="pass">pass</span>' if row.passed else '<span class="fail">FAIL</span>'
    where = ", ".join(f"<code>{escape(name)}</code>" for name in statement.code)
    parts = [
        f'<article><div class="head"><h3>{escape(statement.label)}</h3>{verdict}</div>',
        f"<p>{text(statement.says)}</p>",
        f'<p class="where">in {where} · measured by <code>experiments/{escape(statement.run.split("-")[0])}</code></p>',
    ]
    if statement.note:
        parts.append(f'<p class="note">{text(statement.note)}</p>')
    if result is None:
        return "\n".join([*parts, '<p class="fail">Its run broke off; see the end of the page.</p></article>'])
    if row.whole and result.run.name not in shown:
        shown.add(result.run.name)
        parts.append(_figure(result))
    rows = _table(row.metrics)
    if len(row.metrics) > MANY:
        passed = sum(metric["pass"] for metric in row.metrics)
        rows = f"<details><summary>{passed} of {len(row.metrics)} measurements passed</summary>{rows}</details>"
    parts.append(rows)
    if not row.whole:
        parts.append(
            f'<p class="where"><a href="#{result.run.name}">figure</a> · <code>{escape(result.run.command)}</code></p>'
        )
    return "\n".join([*parts, "</article>"])


def _table(metrics: list[dict]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("measured quantity", "predicted", "measured", "tolerance", ""))
    lines = []
    for metric in metrics:
        verdict = '<span class="pass">pass</span>' if metric["pass"] else '<span class="fail">FAIL</span>'
        cells = (
            (text(metric["name"]), ""),
            (number(metric["predicted"]), "predicted"),
            (number(metric["measured"]), "measured"),
            (escape(metric["tolerance"]), "tolerance"),
            ("" if metric["tolerance"] == "reported" and metric["pass"] else verdict, ""),
        )
        lines.append("<tr>" + "".join(_cell(cell, of) for cell, of in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(cell: str, of: str) -> str:
    return f'<td data-of="{of}">{cell}</td>' if of else f"<td>{cell}</td>"


def _figure(result: Result) -> str:
    image = base64.b64encode((result.folder / "figure.png").read_bytes()).decode()
    command = escape(result.run.command)
    return (
        f'<figure id="{result.run.name}"><img alt="Figure of {result.run.name}" src="data:image/png;base64,{image}">'
        f"<figcaption><code>{command}</code></figcaption></figure>"
    )
