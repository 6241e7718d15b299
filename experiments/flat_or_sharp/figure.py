"""The figure: ‖U‖²/‖W‖² and the sharpness against the anisotropy of the inputs."""

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots

TRACES = (0.84, 1.2)  # the range of the lower panels
KINDS = {
    "sgd": plots.Series("SGD, $\\eta \\to 0$", plots.SGD.color),
    "decay": plots.Series("SGD + decay", "#56B4E9", "--", "s"),
    "gd_sgd": plots.GD,
    "gd_decay": plots.Series("GD + decay", "0.35", ":", "^"),
}


def draw(arrays: dict[str, np.ndarray], noises: tuple[float, ...]) -> Figure:
    """For each label noise the ratio of the norms and Tr ∇²L over that of the balanced minimum; lines are theory."""
    spreads = arrays["spreads"]
    with plots.figure(4.2 * len(noises), 5.6, columns=len(noises)) as (drawing, columns):
        for column, noise in zip(columns, noises, strict=True):
            above, below = column.subplots(2, 1, sharex=True)
            balanced = arrays[f"theory_balanced_{noise:g}"]
            for axes, value, base in ((above, _ratio, np.ones(len(spreads))), (below, _trace, _trace(balanced))):
                for place, (name, series) in enumerate(KINDS.items()):
                    runs = value(arrays[f"run_{name}_{noise:g}"]) / base[:, None]
                    if name == "sgd":  # extrapolated from η and 1.5 η to 0; with decay each η has its own balance
                        runs = 3 * runs - 2 * value(arrays[f"run_{name}_fast_{noise:g}"]) / base[:, None]
                    axes.errorbar(
                        spreads * 1.04 ** (place - 1.5),  # side by side
                        runs.mean(axis=1),
                        3 * runs.std(axis=1, ddof=1) / runs.shape[1] ** 0.5,
                        fmt=series.marker,
                        color=series.color,
                        ms=5,
                        lw=1,
                        label=series.label,
                    )
                for name, line in (("sgd", (0, (1, 1))), ("decay", (0, (5, 2)))):
                    label = {"sgd": "Theorem 5.2", "decay": "Eq. (13) with decay"}[name]
                    expected = value(arrays[f"theory_{name}_{noise:g}"]) / base
                    axes.plot(spreads, expected, color="black", lw=0.9, ls=line, label=label, zorder=5)
                axes.axhline(1, color="0.6", lw=0.8, zorder=0, label="balanced minimum (baseline)")
                axes.set_xscale("log")
            above.set(ylabel="$\\|U\\|^2/\\|W\\|^2$", title=f"label noise $\\phi_\\epsilon = {noise:g}$")
            below.set(xlabel="$\\phi_x$", ylabel="$\\mathrm{Tr}\\,\\nabla^2L$ / balanced minimum", ylim=TRACES)
            gd = _trace(arrays[f"run_gd_sgd_{noise:g}"]) / _trace(balanced)[:, None]
            off = f"GD: {gd.min():.2f} to {gd.max():.2f}, beyond this scale"
            below.text(0.98, 0.02, off, transform=below.transAxes, ha="right", va="bottom", fontsize=7.5)
        columns[0].axes[1].legend(loc="upper center", fontsize=7.5, ncols=2)
    return drawing


def _ratio(seen: np.ndarray) -> np.ndarray:
    return seen[..., 0] / seen[..., 1]


def _trace(seen: np.ndarray) -> np.ndarray:
    return seen[..., 2]
