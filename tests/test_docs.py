"""Every code block of the documentation and of the README runs, page by page, as a reader would paste it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import noise_equilibrium as ne

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path for room in ("noise_equilibrium", "experiments", "benchmarks") for path in (ROOT / room).rglob("*.py")
)
CITATION = re.compile(r'theory, ((?:"[^"]+"(?:, and |, | and )?)+)')
BLOCK = re.compile(r"^```python(?: (no-run|with-\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_MACHINES = {"sweeps.md": 4}  # blocks that need a cluster, or a process of their own


def blocks(page: Path) -> list[tuple[str, str]]:
    """For every block what is said of it, "no-run", or "with-flax" if it needs that library; and its code."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def libraries(page: Path) -> set[str]:
    """The libraries without which some blocks cannot run."""
    return {mark.removeprefix("with-") for mark, _ in blocks(page) if mark.startswith("with-")}


def pages_with_code() -> Iterator:
    """All of them; the README is slow here, and its first example is run with the wheel too."""
    for page in PAGES:
        if blocks(page):
            marks = [pytest.mark.slow] if page.name == "README.md" else []
            yield pytest.param(page, False, marks=marks, id=page.name)
        if libraries(page):
            yield pytest.param(page, True, marks=[pytest.mark.slow], id=f"{page.name}-libraries")


@pytest.mark.parametrize(("page", "with_libraries"), list(pages_with_code()))
def test_the_code_of_a_page_runs(page, with_libraries, tmp_path):
    missing = sorted(name for name in libraries(page) if importlib.util.find_spec(name) is None)
    if with_libraries and missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    kept = [code for mark, code in blocks(page) if not mark or (with_libraries and mark != "no-run")]
    code = "\n".join(kept)
    script = tmp_path / "page.py"
    # A pool of spawned processes imports the script again, and must find it cheap.
    script.write_text(
        "if __name__ == '__main__':\n" + "".join(f"    {line}\n" if line else "\n" for line in code.splitlines())
    )
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_that_are_not_run_are_python_and_few(page):
    kept = [(mark, code) for mark, code in blocks(page) if mark]
    assert sum(mark == "no-run" for mark, _ in kept) == NEEDS_MACHINES.get(page.name, 0)
    for _, code in kept:
        compile(code, page.name, "exec")


def citations(text: str) -> set[str]:
    """The headings in `theory, "One", "Two" and "Three"`, wherever lines break."""
    found = CITATION.findall(" ".join(text.split()))
    return {heading for group in found for heading in re.findall(r'"([^"]+)"', group)}


def test_citations_are_found_across_lines_and_in_lists():
    text = """Source: Eq. (7); theory, "Closed
        form", "Any spectrum" and "The singular case". By theory "alone". (theory, "Last")"""
    assert citations(text) == {"Closed form", "Any spectrum", "The singular case", "Last"}


def test_the_theory_that_docstrings_cite_is_on_its_page():
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## (.+)$", page, re.MULTILINE))
    cited = {path.relative_to(ROOT).as_posix(): citations(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert sum(map(len, cited.values())) > 30
    assert {name: missing for name, found in cited.items() if (missing := found - headings)} == {}


def test_the_reference_holds_every_public_name_once():
    names = [
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: noise_equilibrium\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(names) == sorted({*ne.__all__, "plots"})
