"""The figure: which share of the runs trains at which rate, and in how many steps."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.rebalancing.cases import Case
from experiments.rebalancing.training import Arm, all_arms
from noise_equilibrium import plots

COLORS = {"": "black", "warmup": "#E69F00", "norm": "#009E73", "noise": "#0072B2", "again": "#CC79A7"}
SIZES = {"": 4, "warmup": 6.5, "norm": 5.5, "noise": 4, "again": 2.5}  # curves that coincide show all their markers
MARKERS = {"": "o", "warmup": "s", "norm": "^", "noise": "D", "again": "v"}


def draw(cases: list[Case], arrays: dict[str, np.ndarray]) -> Figure:
    """A column for each network."""
    with plots.figure(3.5 * len(cases), 5.6, columns=len(cases)) as (drawing, columns):
        for column, case in zip(columns, cases, strict=True):
            above, below = column.subplots(2, 1, sharex=True, height_ratios=(3, 4))
            _draw_shares(above, case, arrays)
            _draw_steps(below, case, arrays)
            above.set_title(f"{case.title}, {'1/fan-in' if not case.skewed else 'two starts'}")
        above, below = columns[0].axes
        above.set_ylabel("share of runs that train")
        below.set_ylabel("steps to the loss")
        arms = list(dict.fromkeys(arm for case in cases for arm in all_arms(case)))
        handles = [
            Line2D([], [], **_look(arm), label=f"{arm.label}, skewed start" if arm.skewed else arm.label)
            for arm in arms
        ]
        handles.append(
            Line2D([], [], marker="|", color="0.4", ls="", ms=10, label="$2/\\lambda_\\max$ where it begins")
        )
        drawing.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return drawing


def _kind(arm: Arm) -> str:
    return "again" if arm.again else "warmup" if arm.warm else arm.to


def _look(arm: Arm) -> dict:
    kind, hollow = _kind(arm), {"markerfacecolor": "white"} if arm.skewed else {}
    line = (0, (4, 1.5)) if arm.skewed else "-"
    return {"color": COLORS[kind], "ls": line, "marker": MARKERS[kind], "ms": SIZES[kind], "lw": 1.2, **hollow}


def _draw_shares(axes: Axes, case: Case, arrays: dict[str, np.ndarray]) -> None:
    rates = arrays[f"{case.name}_rates"]
    for arm in all_arms(case):
        axes.plot(rates, arrays[f"{case.name}_{arm.name}_trains"].mean(axis=0), **_look(arm))
        if not (arm.warm or arm.again):
            sharp = arrays[f"{case.name}_sharpness_{arm.to or ('skewed' if arm.skewed else '')}"]
            edge, line = 2 / np.exp(np.log(sharp).mean()), _look(arm)["ls"]
            axes.plot([edge, edge], [1.1, 1.25], color=COLORS[arm.to], lw=2, ls="-" if line == "-" else (0, (1, 0.7)))
    axes.set(ylim=(-0.06, 1.3), yticks=[0, 0.5, 1], xscale="log")


def _draw_steps(axes: Axes, case: Case, arrays: dict[str, np.ndarray]) -> None:
    """The geometric mean over the seeds, where all reach the loss, with its standard error."""
    rates = arrays[f"{case.name}_rates"]
    for arm in all_arms(case):
        below = arrays[f"{case.name}_{arm.name}_loss"] < case.target
        steps = np.where(below.any(axis=2), below.argmax(axis=2) * case.every, np.nan)
        all_reach = np.isfinite(steps).all(axis=0)
        logs = np.log(steps[:, all_reach])
        mean, error = logs.mean(axis=0), logs.std(axis=0, ddof=1) / len(logs) ** 0.5
        axes.plot(rates[all_reach], np.exp(mean), **_look(arm))
        low, high = np.exp(mean - error), np.exp(mean + error)
        axes.fill_between(rates[all_reach], low, high, color=COLORS[_kind(arm)], alpha=0.12, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="learning rate $\\eta$")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.text(0.02, 0.02, f"loss: {case.target:g} of that at the start", transform=axes.transAxes, fontsize=7.5)
