"""The figure: entries of the two sides of Eq. (14) against each other, what few samples do, and the digits."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

NAMES = {"tanh": "tanh", "swish": "swish", "leaky_relu": "leaky ReLU", "relu": "ReLU"}


def draw(
    arrays: dict[str, np.ndarray], activations: Sequence[str], table: Mapping[tuple[float, int, float], np.ndarray]
) -> Figure:
    """Entries for each activation; cosines over √N η/S; entries on the digits."""
    with plots.figure(11.5, 6, columns=1) as (drawing, (whole,)):
        grid = whole.subplots(2, 4)
        for axes, name in zip(grid[0], activations, strict=True):
            for kind, series in (("gd", plots.GD), ("sgd", plots.SGD)):
                _entries(axes, _pair(arrays, f"{name}_{kind}"), series)
            _diagonal(axes)
            axes.set(title=NAMES[name], xlabel="entries of $W\\bar\\Sigma_xW^\\top$")
        grid[0, 0].set_ylabel("entries of $U^\\top\\bar\\Sigma_\\epsilon U$")
        grid[0, 0].legend(fontsize=7.5, loc="upper left")
        _draw_table(grid[1, 0], table, arrays["null"])
        _draw_bars(grid[1, 1], table)
        for axes, name in zip(grid[1, 2:], ("leaky_relu", "tanh"), strict=True):
            _draw_digits(axes, _pair(arrays, f"digits_{name}_sgd"))
            axes.set(title=f"digits, {NAMES[name]}, SGD", xlabel="entries of $M_-$", ylabel="entries of $M_+$")
        grid[1, 2].legend(fontsize=7.5, loc="upper left")
    return drawing


def _pair(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    sides = [arrays[f"{name}_{side}"][0].astype(np.float64) for side in ("down", "up")]
    return [side / np.trace(side) for side in sides]


def _entries(axes: Axes, pair: list[np.ndarray], series: plots.Series) -> None:
    upper = np.triu_indices(len(pair[0]))
    plots.elementwise(axes, pair[0][upper], pair[1][upper], series)


def _diagonal(axes: Axes) -> None:
    ends = np.array([*axes.get_xlim(), *axes.get_ylim()])
    limits = np.array([ends.min(), ends.max()])
    plots.theory(axes, limits, limits, "equal")


def _draw_table(axes: Axes, table: Mapping[tuple[float, int, float], np.ndarray], null: np.ndarray) -> None:
    """Cosines over √N η/S of σ_x = 0.3."""
    low, high = np.quantile(null, [0.05, 0.95])
    axes.axhspan(low, high, color="0.85", lw=0, label="random minima")
    rates = sorted({rate for *_, rate in table})
    for rate, color, marker in zip(rates, ("#0072B2", "#56B4E9"), ("o", "s"), strict=True):
        chosen = {samples: values for (spread, samples, of), values in table.items() if spread == 0.3 and of == rate}
        for place, (samples, values) in enumerate(sorted(item for item in chosen.items() if item[0])):
            label = f"SGD, $\\eta = {rate:g}$" if place == 0 else None
            axes.plot(
                np.full(len(values), samples**0.5 * rate), values, marker, color=color, ms=4, alpha=0.7, label=label
            )
    axes.set(xscale="log", xlabel="$\\sqrt{N}\\,\\eta/S$", ylabel="cosine of $A$ and $B$", ylim=(-0.7, 1.05))
    axes.set_xticks([0.3, 0.5, 1.0, 1.5], ["0.3", "0.5", "1", "1.5"])
    axes.minorticks_off()
    axes.set_title("tanh, $\\sigma_x = 0.3$: samples decide")
    axes.legend(fontsize=7.5, loc="lower right")


def _draw_bars(axes: Axes, table: Mapping[tuple[float, int, float], np.ndarray]) -> None:
    """The table of σ_x and N."""
    rate = min(rate for *_, rate in table)
    for place, (spread, color) in enumerate(((0.3, "#0072B2"), (1.0, "#56B4E9"))):
        values = [table[spread, samples, rate] for samples in (1000, 8000, 0)]
        where = np.arange(3) + 0.36 * (place - 0.5)
        error = [of.std(ddof=1) / len(of) ** 0.5 for of in values]
        axes.bar(where, [of.mean() for of in values], 0.34, yerr=error, color=color, label=f"$\\sigma_x = {spread:g}$")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(range(3), ["N = 1000", "8000", "fresh"])
    axes.set(title="tanh: not how small inputs are", ylim=(-0.7, 1.05))
    axes.legend(fontsize=7.5, loc="lower right")


def _draw_digits(axes: Axes, pair: list[np.ndarray]) -> None:
    on = np.eye(len(pair[0]), dtype=bool)
    above = np.triu(~on)
    axes.plot(pair[1][above], pair[0][above], "o", color="#56B4E9", ms=3, label="off the diagonal")
    axes.plot(pair[1][on], pair[0][on], "D", color="#003A5C", ms=4, label="diagonal")
    _diagonal(axes)
