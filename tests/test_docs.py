"""Every code block of the documentation and of the README runs, page by page, as a reader would paste it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import noise_equilibrium as ne

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path for room in ("noise_equilibrium", "experiments", "benchmarks") for path in (ROOT / room).rglob("*.py")
)
CITATION = re.compile(r'theory, ((?:"[^"]+"(?:, and |, | and )?)+)')
BLOCK = re.compile(r"^```python( no-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Blocks that need a cluster, a process of their own, or a library that no test requires.
NEEDS_MACHINES = {"sweeps.md": 4, "symmetries.md": 2}


def blocks(page: Path) -> list[tuple[bool, str]]:
    """For every block whether it is run, and its code."""
    return [(not skipped, code) for skipped, code in BLOCK.findall(page.read_text(encoding="utf-8"))]


def pages_with_code() -> list:
    """All of them; the README is slow here, and its first example is run with the wheel too."""
    found = [page for page in PAGES if blocks(page)]
    return [pytest.param(page, marks=[pytest.mark.slow] if page.name == "README.md" else []) for page in found]


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path):
    code = "\n".join(code for run, code in blocks(page) if run)
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
    kept = [code for run, code in blocks(page) if not run]
    assert len(kept) == NEEDS_MACHINES.get(page.name, 0)
    for code in kept:
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
