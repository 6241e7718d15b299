"""The figure: errors of the Grams, singular values in the middle, neighbouring layers as heatmaps, and dead modes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from experiments._extrapolate import limit
from noise_equilibrium import plots


def draw(arrays: dict[str, np.ndarray], names: Sequence[str], dead: tuple[str, str], ratios: Sequence[float]) -> Figure:
    """All networks; E hhᵀ beside E δδᵀ at the hidden layers of one of them, at the end of SGD and of GD; dead modes.

    Args:
        arrays: of the study.
        names: of the networks.
        dead: the networks whose dead modes and whose ends from standard starts are drawn.
        ratios: B/B* of the dead modes.
    """
    with plots.figure(16, 4.8, columns=3) as (drawing, (left, middle, right)):
        above, below = left.subplots(2, 1, sharex=True)
        _draw_errors(above, arrays, names)
        _draw_values(below, arrays, names)
        shown = names[1]
        _draw_heatmaps(middle, arrays, shown)
        middle.suptitle(f"{shown}, aligned start: what reaches a layer (trace 1)", fontsize=9.5)
        above, below = right.subplots(2, 1)
        _draw_exponents(above, arrays, dead[0], ratios)
        _draw_ends(below, arrays, dead[1])
    return drawing


def _draw_errors(axes: Axes, arrays: dict[str, np.ndarray], names: Sequence[str]) -> None:
    norm = np.linalg.norm
    for place, name in enumerate(names):
        expected = arrays[f"{name}_grams"]
        for series, dynamics, shift in ((plots.SGD, "sgd", -0.12), (plots.GD, "gd", 0.12)):
            gaps = norm(arrays[f"{name}_{dynamics}_grams"] - expected, axis=(-2, -1)) / norm(expected, axis=(-2, -1))
            error, half = gaps.max(axis=1), len(gaps) // 2
            for start, part, face in (("aligned", slice(half), series.color), ("standard", slice(half, None), "none")):
                label = f"{series.label}, {start} start" if place == 0 else None
                where = np.full(half, place + shift + (0.06 if start == "standard" else -0.06))
                if series.marker == "x":  # has no face
                    marker = "+" if face == "none" else "x"
                    axes.scatter(where, error[part], s=24, marker=marker, color=series.color, label=label)
                else:
                    axes.scatter(where, error[part], s=24, edgecolors=series.color, facecolors=face, label=label)
    axes.axhline(0.12, color="black", lw=0.8, ls=(0, (5, 2)))
    axes.text(len(names) - 0.55, 0.125, "mark", fontsize=7, va="bottom", ha="right")
    axes.set(yscale="log", ylabel="largest error of a Gram", title="against Theorem 5.4", ylim=(0.02, 25))
    axes.legend(fontsize=7, ncols=2, loc="upper center", columnspacing=1)


def _draw_values(axes: Axes, arrays: dict[str, np.ndarray], names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        for series, dynamics, shift in ((plots.SGD, "sgd", -0.12), (plots.GD, "gd", 0.12)):
            values = arrays[f"{name}_{dynamics}_values"]
            values = values[: len(values) // 2].ravel() / arrays[f"{name}_scale"]
            label = series.label if place == 0 else None
            where = np.full(len(values), place + shift)
            axes.scatter(where, values, s=10, marker=series.marker, color=series.color, alpha=0.5, lw=0.7, label=label)
    plots.theory(axes, np.array([-0.4, len(names) - 0.6]), np.ones(2), "$s$ of Theorem 5.4")
    axes.set_xticks(range(len(names)), list(names), fontsize=7.5)
    axes.set(ylabel="singular values / $s$", ylim=(0.2, 2), title="layers in the middle, aligned start")
    axes.legend(fontsize=7, ncols=3, loc="upper right")


def _draw_heatmaps(right: SubFigure, arrays: dict[str, np.ndarray], name: str) -> None:
    pairs = sorted(key for key in arrays if key.startswith(f"{name}_sgd_pair_"))
    grid = right.subplots(2, 2 * len(pairs), squeeze=False)
    for row, dynamics in zip(grid, ("sgd", "gd"), strict=True):
        matrices = np.concatenate([arrays[key.replace("_sgd_", f"_{dynamics}_")][0] for key in pairs])
        top = np.abs(matrices).max()
        for place, (axes, matrix) in enumerate(zip(row, matrices, strict=True)):
            axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
            layer = place // 2 + 1
            label = (
                f"$E\\,h_{layer}h_{layer}^\\top$" if place % 2 == 0 else f"$E\\,\\delta_{layer}\\delta_{layer}^\\top$"
            )
            axes.set_title(label, fontsize=8)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(dynamics.upper(), fontsize=9)
        right.colorbar(row[0].images[0], ax=list(row), shrink=0.7, pad=0.01)


def _draw_exponents(axes: Axes, arrays: dict[str, np.ndarray], name: str, ratios: Sequence[float]) -> None:
    # Together the ends grow or die at one rate; without links each dies at its own, the first layer last.
    coarse, fine = (
        np.where(np.asarray(ratios)[:, None] > 0, seen.mean(axis=-1), seen[..., 1])
        for seen in arrays[f"dead_{name}_measured"]
    )
    found = limit(coarse.T, fine.T)
    where, curve = arrays[f"dead_{name}_curve"]
    plots.theory(axes, where, curve, "$\\Lambda$, predicted")
    axes.axhline(0, color="black", lw=0.6)
    series, label = plots.SGD, "SGD, $\\eta\\to 0$"
    axes.errorbar(ratios, found.value, 3 * found.error, fmt=series.marker, color=series.color, ms=5, label=label)
    axes.set(xlabel="inner links $B/B^*$", ylabel="exponent / $\\eta$", title=f"{name}: a mode that has died")
    axes.legend(fontsize=7, loc="upper left")


def _draw_ends(axes: Axes, arrays: dict[str, np.ndarray], name: str) -> None:
    for series, dynamics in ((plots.SGD, "sgd"), (plots.GD, "gd")):
        links, kept = arrays[f"counted_{name}_{dynamics}_links"], arrays[f"counted_{name}_{dynamics}"]
        axes.scatter(links, kept, s=18, marker=series.marker, color=series.color, alpha=0.7, label=series.label)
    axes.axvline(1, color="black", lw=0.8, ls=(0, (5, 2)))
    axes.set(xscale="log", xlabel="inner links $B/B^*$", ylabel="last singular value / that of V", ylim=(-0.1, 1.3))
    axes.set_title(f"{name}: ends of runs, standard start")
    axes.legend(fontsize=7, loc="center left")
