"""What a diagnosis says: numbers, a table that a person reads, and findings in plain words."""

import html
import math
from dataclasses import dataclass, fields
from typing import Any

# Below this relative flow, (T − R)/(T + R) = tanh 2λ, a charge counts as balanced: e^λ is within 2.5 % of 1.
BALANCED = 0.05
NUMBERS = (
    "charge", "imbalance", "flow", "relative_flow", "push", "decay_push", "noise_share",
    "slowest_steps", "fastest_steps", "decay_steps", "noise_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One symmetry.

    Attributes:
        name: the symmetry.
        plus: the parameters of its + legs.
        minus: those of its − legs.
        kind: its group in words.
        charge: ‖Q‖.
        imbalance: ‖Q₊ − Q₋‖ / ‖Q₊ + Q₋‖: 0 where the weights of both sides are equal.
        flow: ‖dQ/dt‖.
        relative_flow: ‖T − R‖ / (‖T‖ + ‖R‖): 0 at the equilibrium, 1 where one side acts alone.
        push: (Tr T − Tr R)/(Tr T + Tr R): positive where the + legs grow.
        decay_push: the part of it that is weight decay's; the rest is that of the noise.
        noise_share: the part of what acts that is noise; the rest is weight decay.
        slowest_steps: 1/κ of the slowest direction, in steps.
        fastest_steps: that of the fastest.
        decay_steps: that of weight decay alone, 1/(4γη).
        factors: the smallest and the largest factor that takes the + legs to the joint equilibrium; 0 and ∞ where a
            direction dies.
        noise_scale: Tr Σ/|∇L|² of its parameters, as a whole where a leg is a part of one: their critical batch size.
    """

    name: str
    plus: str
    minus: str
    kind: str
    charge: float
    imbalance: float
    flow: float
    relative_flow: float
    push: float
    decay_push: float
    noise_share: float
    slowest_steps: float
    fastest_steps: float
    decay_steps: float
    factors: tuple[float, float]
    noise_scale: float

    @property
    def finding(self) -> str:
        """What it means, in words."""
        if self.flow == 0 and self.noise_share == 0 and math.isinf(self.decay_steps):
            return "nothing acts: no noise and no weight decay"
        if self.push == 1 and self.factors[1] == math.inf:
            return f"grows without bound: nothing holds {self.plus} but weight decay, and there is none"
        if self.relative_flow < BALANCED:
            return "balanced by " + ("noise" if self.noise_share > 0.5 else "weight decay")
        towards = math.copysign(1, self.push)
        who = "noise" if towards * (self.push - self.decay_push) > towards * self.decay_push else "weight decay"
        up, down = (self.plus, self.minus) if self.push > 0 else (self.minus, self.plus)
        words = [f"{who} pulls " + " and ".join(f"{side} {way}" for side, way in ((up, "up"), (down, "down")) if side)]
        words.append(f"balanced in {_short(self.slowest_steps)} steps at this rate")
        if not math.isinf(self.decay_steps):
            words.append(f"weight decay alone would take {_short(self.decay_steps)}")
        return "; ".join(words)


@dataclass(frozen=True)
class Diagnosis:
    """The symmetries of a model; see `diagnose`.

    Attributes:
        rows: one for each symmetry.
        noise_scale: Tr Σ/|∇L|² of all parameters: the critical batch size; NaN if the data are too few to tell.
    """

    rows: tuple[Row, ...]
    noise_scale: float

    def to_dict(self) -> dict[str, float]:
        """Flat names → numbers, for a logger: "name/quantity"."""
        numbers: dict[str, float] = {}
        for row in self.rows:
            name, place = row.name, 2
            while f"{name}/flow" in numbers:  # two symmetries of the same legs
                name, place = f"{row.name} ({place})", place + 1
            numbers |= {f"{name}/{number}": getattr(row, number) for number in NUMBERS}
            numbers |= {f"{name}/least_factor": row.factors[0], f"{name}/largest_factor": row.factors[1]}
        return numbers | {"noise_scale": self.noise_scale}

    def to_dataframe(self) -> Any:
        """A pandas table, a row for each symmetry."""
        import pandas  # comes with xarray; only those who ask for a table load it

        names = [field.name for field in fields(Row)]
        return pandas.DataFrame([[getattr(row, name) for name in names] for row in self.rows], columns=names)

    def __str__(self) -> str:
        if not self.rows:
            return f"no symmetries; gradient noise scale {_short(self.noise_scale)} samples"
        table = [HEADER, *([*_cells(row)] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        lines = [line.rstrip() for line in lines]
        lines += ["", *(f"{row.name}: {row.finding}" for row in self.rows)]
        return "\n".join([*lines, "", f"gradient noise scale: {_short(self.noise_scale)} samples"])

    def _repr_html_(self) -> str:
        """The table in a notebook."""

        def line(cells: Any, tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = [line([*_cells(row), row.finding], "td") for row in self.rows]
        head = line([*HEADER, "finding"], "th")
        note = f"gradient noise scale: {_short(self.noise_scale)} samples"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table><p>{html.escape(note)}</p>"


HEADER = ["symmetry", "group", "‖Q‖", "imbalance", "flow", "rel. flow", "noise", "steps", "factors", "noise scale"]


def _cells(row: Row) -> list[str]:
    least, most = row.factors
    return [
        row.name,
        row.kind,
        _short(row.charge),
        f"{row.imbalance:.2f}",
        _short(row.flow),
        f"{row.relative_flow:.2f}",
        f"{100 * row.noise_share:.0f} %",
        f"{_short(row.fastest_steps)} … {_short(row.slowest_steps)}",
        f"{_short(least)} … {_short(most)}",
        _short(row.noise_scale),
    ]


def _short(number: float) -> str:
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞"
    return f"{number:.2g}"
