"""Builds the documentation into build/site: runs the gallery, lets Zensical make pages, adds formulas and links.

- Formulas become MathML, which browsers draw by themselves: no script, no font and no network is needed.
- A public name in code becomes a link to its reference.
- "Eq. (7)", "Theorem 4.3" and the like in the reference become links to the page that explains them.
- A link or an anchor that leads nowhere is an error.
"""

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from posixpath import relpath
from urllib.parse import unquote

import gallery
from latex2mathml.converter import convert

import noise_equilibrium as ne

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
PAGES = ROOT / "build" / "docs"  # what Zensical reads: docs/, and the pages made of the gallery
GALLERY = ROOT / "build" / "gallery"  # kept from build to build

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
MARKED = re.compile(r"^```python [\w-]+$", re.MULTILINE)
TAG = re.compile(r"\\tag\{(.*?)\}")
# In running text a formula is Unicode, with `_` and `^` where no letter is small or high enough: C_B, t_equi, e^{−t}.
LOW = re.compile(
    r"(?<![a-z_])([^\W\d][\u0300-\u036f'*]?)_"
    r"(?:\{([^}]+)\}|(equi|erm|noise|loss|leg|eff|min|max|ij|kl|[A-Z](?![A-Z])|[^\WA-Z]|±)(?![a-z_]))"
)
HIGH = re.compile(r"(?<=[\w\u0300-\u036f)\]>*'])\^(?:\{([^}]+)\}|([\w*−]))")
AS_TYPED = {"code", "pre", "script", "style", "title", "math", "svg", "nav", "label"}
# What stands in a heading, a block of code or a link is not a link of its own.
KEPT = re.compile(r"<(a|h[1-6]|pre|title|nav|script)\b.*?</\1>", re.DOTALL)
NAMES = "|".join(sorted(ne.__all__, key=len, reverse=True))
CODE = re.compile(rf"<code>(?:ne\.)?({NAMES})(\(.*?\))?</code>")
STATED = {  # where each statement of the paper is explained
    "theorems/fixed_point.html": [
        *("Theorem 4.3", "Theorem D.1", "Remark 4.4", "Appendix D"),
        *("Eq. (5)", "Eq. (6)", "Eq. (7)", "Eq. (8)", "Eq. (9)"),
    ],
    "theorems/convergence.html": ["Theorem 4.5", "Theorem B.6", "Section 4.2"],
    "theorems/two_layer.html": [
        *("Proposition 5.1", "Theorem 5.2", "Proposition 5.3", "Section 5.1"),
        *(f"Eq. ({number})" for number in range(10, 16)),
    ],
    "theorems/deep_linear.html": ["Theorem 5.4", "Theorem E.1", *(f"Eq. ({number})" for number in range(16, 20))],
    "theorems/approximate.html": ["Section 5.4", *(f"Eq. ({number})" for number in range(20, 24))],
    "theorems/scale.html": ["Appendix A.1", "Eq. (24)"],
    "theory.html#the-sde": ["Eq. (1)"],
}
STATEMENTS = {label: page for page, labels in STATED.items() for label in labels}
STATEMENT = re.compile(
    "|".join(rf"{re.escape(label)}(?![\w.]?\d)" for label in sorted(STATEMENTS, key=len, reverse=True))
)
LINK = re.compile(r'(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'\bid="([^"]+)"')


def outside(pattern: re.Pattern, replace, text: str) -> str:
    """Replaces a pattern, but not inside of what is `KEPT`."""
    parts, start = [], 0
    for kept in KEPT.finditer(text):
        parts += [pattern.sub(replace, text[start : kept.start()]), kept.group()]
        start = kept.end()
    return "".join([*parts, pattern.sub(replace, text[start:])])


def places(pages: dict[str, str]) -> dict[str, str]:
    """For every public name the page and anchor of its reference."""
    found = {}
    for page, content in pages.items():
        for name in re.findall(r'id="noise_equilibrium\.(\w+)"', content):
            found.setdefault(name, f"{page}#noise_equilibrium.{name}")
    return found


def set_indices(content: str) -> str:
    """Indices and exponents of formulas in running text."""
    inside, parts = [], []
    for part in re.split(r"(<[^>]*>)", content):
        tag = re.match(r"<(/?)(\w+)", part)
        if tag and tag[2] in AS_TYPED and not part.endswith("/>"):
            if not tag[1]:
                inside.append(tag[2])
            elif inside and inside[-1] == tag[2]:
                inside.pop()
        elif not tag and not inside:
            part = LOW.sub(lambda found: f"{found[1]}<sub>{found[2] or found[3]}</sub>", part)
            part = HIGH.sub(lambda found: f"<sup>{found[1] or found[2]}</sup>", part)
        parts.append(part)
    return "".join(parts)


def finish(page: str, content: str, calls: dict[str, str]) -> str:
    """Formulas and links of one page."""

    def formula(found: re.Match) -> str:
        text = html.unescape(found[2]).strip()
        if found[1] == "span":
            return convert(text, display="inline")
        numbers = "".join(f'<span class="number">({number})</span>' for number in TAG.findall(text))
        return f'<div class="formula">{convert(TAG.sub("", text), display="block")}{numbers}</div>'

    def link(target: str, text: str) -> str:
        place, _, anchor = target.partition("#")
        if place == page and not anchor:
            return text
        return f'<a href="{relpath(place, Path(page).parent.as_posix())}{"#" * bool(anchor)}{anchor}">{text}</a>'

    content = FORMULA.sub(formula, content)
    content = outside(CODE, lambda found: link(calls[found[1]], found.group()), content)
    if page.startswith("reference/"):
        content = outside(STATEMENT, lambda found: link(STATEMENTS[found.group()], found.group()), content)
    return set_indices(content)


def broken(pages: dict[str, str]) -> list[str]:
    """Links of the site to itself that lead nowhere."""
    anchors = {page: set(ANCHOR.findall(content)) for page, content in pages.items()}
    found = []
    for page, content in pages.items():
        for target in LINK.findall(content):
            if re.match(r"[a-z]+:|//", target):
                continue
            path, _, anchor = html.unescape(unquote(target)).partition("#")
            place = ((SITE / page).parent / path).resolve() if path else SITE / page
            name = place.relative_to(SITE).as_posix() if place.is_relative_to(SITE) else None
            if name is None or not place.exists() or (anchor and anchor not in anchors.get(name, {anchor})):
                found.append(f"{page}: {target}")
    return sorted(set(found))


def gather() -> None:
    """All pages in one folder."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py"))
    for page in PAGES.rglob("*.md"):  # what is said to the tests of a block is no part of its language
        page.write_text(MARKED.sub("```python", page.read_text(encoding="utf-8")), encoding="utf-8")
    gallery.build(GALLERY)
    shutil.copytree(GALLERY, PAGES / "gallery", ignore=shutil.ignore_patterns("*.done", "*.npz"), dirs_exist_ok=True)


def main() -> int:
    """Builds; 1 if something leads nowhere, or what Zensical says if it fails."""
    gather()
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=False)
    if done.returncode:
        return done.returncode
    pages = {path.relative_to(SITE).as_posix(): path.read_text(encoding="utf-8") for path in SITE.rglob("*.html")}
    calls = places(pages)
    pages = {page: finish(page, content, calls) for page, content in pages.items()}
    for page, content in pages.items():
        (SITE / page).write_text(content, encoding="utf-8")
    pages.pop("404.html", None)  # is served from anywhere, so its links are absolute
    wrong = broken(pages)
    print(*(f"error: broken link, {each}" for each in wrong), sep="\n", end="")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
