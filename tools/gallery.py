"""Runs the notebooks of docs/gallery, and makes a page, a file for a hosted notebook and a thumbnail of each.

They are kept as text (jupytext's percent format); outputs and pictures are made when the site is built. A notebook
that has not changed since it ran with this version of the library's code is not run again.
"""

import hashlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "gallery"
# What depends on the machine and changes from run to run: no reader misses it, and pages stay the same.
NOISE = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>|\[<matplotlib.*?>\]")
AT_ONCE = 2  # notebooks; each is a process that compiles on one core most of the time


def state() -> str:
    """A digest of the code that notebooks call."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "noise_equilibrium").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def execute(source: Path, folder: Path, code: str) -> None:
    """Run one, and write NAME.md with its pictures, NAME.ipynb and NAME.done."""
    digest = hashlib.sha256(source.read_bytes() + code.encode()).hexdigest()
    done = folder / f"{source.stem}.done"
    if done.exists() and done.read_text() == digest:
        return
    notebook = jupytext.read(source)
    nbformat.write(notebook, folder / f"{source.stem}.ipynb")
    environment = {"kernel_name": "python3", "timeout": 600, "resources": {"metadata": {"path": str(folder)}}}
    NotebookClient(notebook, **environment).execute()
    notebook.cells = [cell for cell in notebook.cells if "skip-execution" not in cell.metadata.get("tags", [])]
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    for name, picture in resources["outputs"].items():
        (folder / f"{source.stem}-{name}").write_bytes(picture)
        text = text.replace(f"]({name})", f"]({source.stem}-{name})")
    text = NOISE.sub("", re.sub(r"^```ipython3?$", "```python", text, flags=re.MULTILINE))
    notice = f"[Download as a notebook]({source.stem}.ipynb)\n"
    heading, _, rest = text.lstrip().partition("\n")
    (folder / f"{source.stem}.md").write_text(f"{heading}\n\n{notice}{rest}", encoding="utf-8")
    done.write_text(digest)


def index(sources: list[Path], folder: Path) -> str:
    """The page of thumbnails."""
    cards = []
    for source in sources:
        text = (folder / f"{source.stem}.md").read_text(encoding="utf-8")
        title = text.partition("\n")[0].lstrip("# ")
        pictures = sorted(folder.glob(f"{source.stem}-*.png"))
        picture = f"![]({pictures[-1].name})" if pictures else ""
        cards.append(f'<a class="card" href="{source.stem}.html" markdown="span">{picture}<span>{title}</span></a>')
    words = "Small notebooks, run when this site is built. Each can be downloaded and runs by itself."
    return f'# Gallery\n\n{words}\n\n<div class="cards" markdown="block">\n' + "\n".join(cards) + "\n</div>\n"


def build(folder: Path) -> None:
    """Make all pages in a folder.

    Raises:
        nbclient.exceptions.CellExecutionError: of the first notebook that fails; its traceback says where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources, code = sorted(SOURCES.glob("*.py")), state()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda source: execute(source, folder, code), sources))
    (folder / "index.md").write_text(index(sources, folder), encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "gallery")
