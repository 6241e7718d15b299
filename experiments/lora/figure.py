"""The figure: charges on their way, conditioning of the adapters, and losses against the usual start."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

COLORS = {"usual": "0.35", "random": "#E69F00", "balanced": "#009E73", "noise": "#0072B2"}
LINES = {None: "-", "norm": (0, (5, 1.5)), "noise": (0, (1, 1))}
MARKERS = {None: "o", "norm": "s", "noise": "^"}


def draw(arrays: dict[str, np.ndarray], arms: dict[str, tuple[str, str | None]], rate: int) -> Figure:
    """Tr Q of the first layer; conditioning; losses of all kinds of runs over those of the usual start."""
    with plots.figure(13, 4.0, columns=3) as (drawing, (left, middle, right)):
        _draw_charges(left.subplots(), arrays)
        axes = middle.subplots()
        for arm, (name, to) in arms.items():
            logs = np.log10(arrays[f"{arm}_conditioning"][rate]).mean(axis=(0, 2))
            logs[~np.isfinite(logs)] = np.nan  # B = 0 has no conditioning
            axes.plot(arrays["step"], 10**logs, color=COLORS[name], ls=LINES[to], label=arm)
        axes.set(yscale="log", xlabel="steps", ylabel="conditioning of the adapter, mean of the layers")
        axes.set_title("with and without motions every k steps")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.55)
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which("{x:g}")
        axes.legend(ncols=2, loc="upper right", fontsize=7)
        _draw_losses(right.subplots(), arrays, arms, rate)
    return drawing


def _draw_charges(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    """Means over runs; dotted, the start and the sum of the expected steps."""
    step = arrays["law_step"]
    for name, color in COLORS.items():
        axes.plot(step, arrays[f"{name}_trace"][..., 0].mean(axis=0), color=color, lw=2, label=name)
    for name in COLORS:
        predicted = arrays[f"{name}_trace"][:, :1, 0] + arrays[f"{name}_predicted"][..., 0]
        plots.theory(axes, step, predicted.mean(axis=0), "law of the charge" if name == "noise" else None)
    axes.set(xscale="symlog", xlim=(0, step[-1]), xlabel="steps", ylabel="Tr $Q$ = $\\|B\\|^2-\\|A\\|^2$, first layer")
    axes.set_title("what SGD does to the charge by itself")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))
    axes.legend(loc="upper left", ncols=2)


def _draw_losses(axes: Axes, arrays: dict[str, np.ndarray], arms: dict[str, tuple[str, str | None]], rate: int) -> None:
    """Geometric means over pairs of runs with two standard errors, at one rate and at each one's best."""
    others = [arm for arm in arms if arm != "usual"]
    for place, arm in enumerate(others):
        name, to = arms[arm]
        for fill, what, shift in ((COLORS[name], "one", 0.15), ("none", "best", -0.15)):
            logs = arrays[f"{arm}_ratio_{what}"]
            logs = logs[np.isfinite(logs)]
            if len(logs) < 2:
                continue
            middle, error = logs.mean(), logs.std(ddof=1) / len(logs) ** 0.5
            height = len(others) - place + shift
            axes.plot(np.exp(middle + 2 * error * np.array([-1, 1])), [height] * 2, color=COLORS[name], lw=1.2)
            axes.plot(np.exp(middle), height, MARKERS[to], color=COLORS[name], mfc=fill, ms=6)
    axes.axvline(1, color="0.6", lw=0.8)
    axes.set_yticks(range(len(others), 0, -1), others)
    for marker, fill, label in (("o", "0.5", "one rate"), ("o", "none", "each at its best")):
        axes.plot([], [], marker, color="0.5", mfc=fill, label=label)
    axes.set(xscale="log", xlabel="loss / that of the usual start", ylim=(0.4, len(others) + 1.3))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.legend(loc="upper center", ncols=2)
    axes.set_title("training loss of paired runs")
