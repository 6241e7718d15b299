"""A diagnosis as a picture: who is pushed where, and by what."""

import math
from typing import Any

from matplotlib.axes import Axes

from ._style import GD, SGD


def diagnosis(axes: Axes, report: Any) -> None:
    """A bar for each symmetry: to the right where its + legs grow, to the left where its − legs do.

    Blue is what noise pushes, brown what weight decay does, and the mark their sum, (T − R)/(T + R). The number beside
    it is the time constant of the slowest direction, in steps.

    Args:
        axes: the panel.
        report: what `diagnose` returned.
    """
    if not report.rows:
        return
    for place, row in enumerate(report.rows):
        noise = row.push - row.decay_push
        first = place == 0
        axes.barh(place - 0.15, noise, color=SGD.color, height=0.3, label="noise" if first else None)
        axes.barh(place + 0.15, row.decay_push, color=GD.color, height=0.3, label="weight decay" if first else None)
        axes.plot(row.push, place, "|", color="black", markersize=16, label="both" if first else None)
        steps = "∞" if math.isinf(row.slowest_steps) else f"{row.slowest_steps:.1g}"
        axes.text(1.04, place, steps, va="center", fontsize=8)
    axes.set_yticks(range(len(report.rows)), [row.name for row in report.rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-1, 1)
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set_xlabel("← second side grows      push      first side grows →")
    axes.set_title("steps", loc="right", fontsize=8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
