"""What a reader of a figure has to know: what it shows, the settings of its study, and what differs from the paper."""

import dataclasses
import re
from importlib import import_module
from typing import NamedTuple

from experiments._registry import STUDIES
from experiments.report.captions import CAPTIONS, DEVIATIONS
from experiments.report.runs import Run


class Setting(NamedTuple):
    """One number of a preset.

    Attributes:
        name: as in the code.
        value: of this run.
        says: what it is.
    """

    name: str
    value: str
    says: str


class About(NamedTuple):
    """What belongs to the figure of a run.

    Attributes:
        caption: what it shows, and what its symbols are.
        settings: the preset it was made with.
        deviations: pairs of what the paper does, and what is done here.
    """

    caption: str
    settings: list[Setting]
    deviations: tuple[tuple[str, str], ...]


def about(run: Run) -> About:
    """What belongs to the figure of a run; the caption of a study without one is what its command line says."""
    caption = CAPTIONS.get(run.name) or (STUDIES[run.study].__doc__ or "").splitlines()[0]
    return About(caption, _settings(run), DEVIATIONS.get(run.name, ()))


def _settings(run: Run) -> list[Setting]:
    """The presets of all modules of a study, with what their docstrings say of each number."""
    package = f"experiments.{run.study}"
    names = {"alignment": ("isotropic", "tasks"), "alignment-digits": ("digits",)}.get(run.name, ("study",))
    found = []
    for name in names:
        preset = getattr(import_module(f"{package}.{name}"), "QUICK" if "--quick" in run.arguments else "FULL", None)
        if not dataclasses.is_dataclass(preset):
            continue
        says = dict(re.findall(r"^ {8}(\w+): (.+?)(?=\n {8}\w+: |\n\s*\Z|\Z)", preset.__doc__ or "", re.M | re.S))
        for field in dataclasses.fields(preset):
            words = re.sub(r"\s+", " ", says.get(field.name, "")).strip()
            title = field.name if len(names) == 1 else f"{name}: {field.name}"
            found.append(Setting(title, str(getattr(preset, field.name)), words))
    return found
