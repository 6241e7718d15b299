"""The first five minutes: one page that answers, for a small real network, where SGD's noise pushes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments._metrics import Metric


@dataclass(frozen=True)
class Demo:
    """One page on a small network and real data: its symmetries, who is balanced, and the prediction against SGD."""

    DONE: ClassVar[str] = "the page, to open in a browser, is\n{}"
    seed: int = 0
    """Seed of the initialisation and of the noise."""
    out: Path = Path("results")
    """Folder of the page, demo.html; if the name is taken, a number is added."""

    def run(self) -> tuple[Path, list[Metric]]:
        """Compute, write the page; its path, and what was predicted and measured."""
        from experiments.demo.page import html  # here, so that --help and --list answer at once
        from experiments.demo.study import study

        self.out.mkdir(parents=True, exist_ok=True)
        found = study(self.seed)
        number, page = 1, self.out / "demo.html"
        while page.exists():
            number += 1
            page = self.out / f"demo-{number}.html"
        page.write_text(html(found), encoding="utf-8")
        return page, found.metrics
