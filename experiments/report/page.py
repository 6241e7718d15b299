"""The report as HTML, in one file that needs no other and no network."""

import base64
import re
from html import escape

from experiments.report.about import about
from experiments.report.rows import MEANING, TITLE, Content, Row, Verdict, figures, measured, number
from experiments.report.runs import Result

MANY = 24  # metrics of a row before they are folded
KINDS = {
    Verdict.HOLDS: "holds",
    Verdict.CORRECTED: "corrected",
    Verdict.FAILS: "fails",
    Verdict.REPORTED: "reported",
    Verdict.OUTSIDE: "outside",
    Verdict.MISSING: "reported",
    Verdict.FULL: "reported",
}
SELDOM = (Verdict.OUTSIDE, Verdict.MISSING, Verdict.FULL)  # explained only where there are some

STYLE = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --good: #0b6b3a; --bad: #a40e26; --other: #0550ae;
  --fail: #8a4600; --shade: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 68rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
h3 { margin: 0; font-size: 1rem; }
article { padding: 1rem 0; border-top: 1px solid var(--line); }
article > p { margin: .3rem 0; } code { font-size: .85em; overflow-wrap: anywhere; }
.note, .where { color: var(--soft); font-size: .9rem; }
.holds { color: var(--good); } .corrected { color: var(--other); } .fails { color: var(--fail); font-weight: 600; }
.reported { color: var(--soft); } .outside { color: var(--bad); font-weight: 700; }
.head { display: flex; justify-content: space-between; gap: 1rem; }
table { width: 100%; border-collapse: collapse; margin: .5rem 0; font-size: .85rem; }
th { color: var(--soft); font-weight: 500; text-align: left; } td, th { padding: .15rem .5rem .15rem 0; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { width: 6.5rem; white-space: nowrap; }
tbody tr:nth-child(odd) { background: var(--shade); }
figure { margin: .8rem 0; } figcaption { color: var(--soft); font-size: .85rem; }
.box { overflow-x: auto; } .box img { height: auto; }
figure:target .box img { width: 100rem !important; max-width: none; } .fit { display: none; }
figure:target .fit { display: inline; } figure:target .full { display: none; }
summary { cursor: pointer; font-size: .9rem; } nav a { margin-right: 1rem; }
pre { overflow-x: auto; background: var(--shade); padding: .7rem; font-size: .8rem; }
@media (max-width: 40rem) {
  body { padding: 1rem; } .numbers thead { display: none; }
  .numbers, .numbers tbody, .numbers tr, .numbers td { display: block; }
  .numbers tr { padding: .3rem .4rem; }
  .numbers td, .numbers td:not(:first-child) { width: auto; white-space: normal; padding: 0; }
  .numbers td:nth-child(n+2) { display: inline-block; margin-right: .8rem; }
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
    places = figures(sections)
    body = [
        f"<h1>{escape(TITLE)}</h1>",
        *(f"<p>{text(word)}</p>" for word in words),
        "<nav>",
        '<a href="#statements">All statements</a>',
        *(f'<a href="#part-{place}">{escape(title)}</a>' for place, (title, _) in enumerate(sections)),
        '<a href="#studies">Settings and deviations</a><a href="#runs">Runs and machine</a></nav>',
        *_contents(sections),
    ]
    for place, (title, rows) in enumerate(sections):
        body.append(f'<h2 id="part-{place}">{escape(title)}</h2>')
        body += [_row(row, places) for row in rows]
    body.append('<h2 id="studies">Studies: settings, and what differs from the paper</h2>')
    body += [_study(result, places) for result in results]
    body.append('<h2 id="runs">Runs and machine</h2>')
    rows = [
        (
            f"<code>{escape(result.run.command)}</code>",
            f"{sum(m['pass'] for m in result.metrics)} of {len(result.metrics)}",
            f"{result.seconds:.0f}",
        )
        for result in results
    ]
    body.append(_table(("command", "passed", "seconds"), rows))
    for name, end in failures.items():
        body.append(f'<p class="outside">{escape(name)} broke off:</p><pre>{escape(end)}</pre>')
    body += [f'<p class="note">{escape(name)}: {escape(value)}</p>' for name, value in made.items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Noise equilibrium: the report</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _contents(sections: list[tuple[str, list[Row]]]) -> list[str]:
    """What the verdicts mean, and all statements with theirs, each with a link."""
    rows = [row for _, found in sections for row in found]
    meaning = [
        f"<li>{_verdict(verdict)} ({sum(row.verdict == verdict for row in rows)}): {escape(says)}</li>"
        for verdict, says in MEANING.items()
        if verdict not in SELDOM or any(row.verdict == verdict for row in rows)
    ]
    lines = [
        (
            f'<a href="#{row.anchor}">{text(row.statement.label)}</a>',
            _verdict(row.verdict),
            f"<code>{escape(row.statement.run)}</code>",
        )
        for row in rows
    ]
    return [
        '<h2 id="statements">All statements</h2>',
        f"<ul>{''.join(meaning)}</ul>",
        _table(("statement", "verdict", "study"), lines),
    ]


def _verdict(verdict: Verdict) -> str:
    return f'<span class="{KINDS[verdict]}">{verdict}</span>'


def _row(row: Row, places: dict[str, str]) -> str:
    statement, result = row.statement, row.result
    where = ", ".join(f"<code>{escape(name)}</code>" for name in statement.code)
    study = f"<code>experiments/{escape(statement.run.split('-')[0])}</code>"
    if result is not None:
        study = f'<a href="#study-{statement.run}">{study}</a>'
    parts = [
        f'<article id="{row.anchor}"><div class="head"><h3>{text(statement.label)}</h3>{_verdict(row.verdict)}</div>',
        f"<p>{text(statement.says)}</p>",
        f'<p class="where">in {where} · measured by {study} · <a href="#statements">↑ all statements</a></p>',
    ]
    for beginning, words in (("Fails as printed", statement.fails), ("Corrected", statement.corrected)):
        if words:
            parts.append(f"<p><strong>{beginning}:</strong> {text(words)}</p>")
    if statement.note:
        parts.append(f'<p class="note">{text(statement.note)}</p>')
    if result is None:
        return "\n".join([*parts, '<p class="note">Its study was left out, or broke off; see the end.</p></article>'])
    if row.left_to_full:
        return "\n".join(
            [*parts, '<p class="note">The quick preset leaves it out; the full report has it.</p></article>']
        )
    here = places[statement.run] == row.anchor
    if here:
        parts.append(_figure(result))
    rows = _metrics(row.metrics)
    if len(row.metrics) > MANY:
        passed = sum(metric["pass"] for metric in row.metrics)
        opened = " open" if passed < len(row.metrics) else ""
        rows = f"<details{opened}><summary>{len(row.metrics)} measurements</summary>{rows}</details>"
    parts.append(rows)
    if not here:
        parts.append(
            f'<p class="where"><a href="#{result.run.name}">figure</a> · <code>{escape(result.run.command)}</code></p>'
        )
    return "\n".join([*parts, "</article>"])


def _metrics(metrics: list[dict]) -> str:
    kinds = {"pass": "holds", "FAIL": "outside", "reported": "reported"}
    rows = [
        (
            text(metric["name"]),
            number(metric["predicted"]),
            measured(metric),
            escape(metric["tolerance"]) if metric["tolerance"] != "reported" else "",
            f'<span class="{kinds[metric["result"]]}">{metric["result"]}</span>',
        )
        for metric in metrics
    ]
    return _table(("measured quantity", "predicted", "measured", "mark", ""), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], kind: str = "numbers") -> str:
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = [
        "<tr>"
        + "".join(
            f'<td data-of="{of}">{cell}</td>' if place and of else f"<td>{cell}</td>"
            for place, (cell, of) in enumerate(zip(row, head, strict=True))
        )
        + "</tr>"
        for row in rows
    ]
    return f'<table class="{kind}"><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _figure(result: Result) -> str:
    """The figure in a box that scrolls where it is wider than the screen, and at its full size as a target of links."""
    name, caption = result.run.name, about(result.run).caption
    vector = result.folder / "figure.svg"
    kind, source = ("svg+xml", vector) if vector.exists() else ("png", result.folder / "figure.png")
    image = base64.b64encode(source.read_bytes()).decode()
    found = re.search(r'<svg [^>]*?width="([\d.]+)pt"', source.read_text(encoding="utf-8")) if kind != "png" else None
    own = float(found[1]) / 12 if found else 60.0  # its own width in rem, at which its letters are those of the page
    size = f"width: max(min(100%, {own:.0f}rem), {min(own, 44):.0f}rem)"  # where that is wider than a phone, it scrolls
    return (
        f'<span id="{name}"></span><figure id="{name}-large"><div class="box">'
        f'<img style="{size}" alt="{escape(caption, quote=True)}" src="data:image/{kind};base64,{image}"></div>'
        f"<figcaption>{text(caption)} <code>{escape(result.run.command)}</code> · "
        f'<a class="full" href="#{name}-large">full size</a><a class="fit" href="#{name}">fit to the page</a>'
        "</figcaption></figure>"
    )


def _study(result: Result, places: dict[str, str]) -> str:
    """The settings of a run, and what differs from the paper."""
    found, name = about(result.run), result.run.name
    parts = [f'<article id="study-{name}"><h3><code>{escape(name)}</code></h3>']
    if name in places:
        parts.append(f'<p class="where"><a href="#{name}">figure</a> · <a href="#statements">↑ all statements</a></p>')
    if found.settings:
        rows = [(f"<code>{escape(one.name)}</code>", escape(one.value), text(one.says)) for one in found.settings]
        parts.append(_table(("setting", "value", ""), rows, "words"))
    if found.deviations:
        rows = [(text(paper), text(here)) for paper, here in found.deviations]
        parts.append(_table(("in the paper", "here"), rows, "words"))
    return "\n".join([*parts, "</article>"])
