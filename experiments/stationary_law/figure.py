"""The figure: histograms against densities, and the rate whose zero is the transition."""

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots

PANELS = {"gamma": ("Gamma, $\\sigma^2s^2=1/8$", 3.0), "quadratic": ("inputs that vary", 2.5)}
GREY = "0.6"


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Three laws above; below the way to balance, and the transition."""
    with plots.figure(11, 5.8, columns=3) as (drawing, columns):
        panels = [column.subplots(2, 1) for column in columns]
        for (name, (title, end)), column in zip(PANELS.items(), panels[:2], strict=True):
            axes, bins = column[0], np.linspace(0, end, 61)
            label, color = ("SDE", plots.SDE.color) if name == "quadratic" else ("SGD", plots.SGD.color)
            values = arrays[f"{name}_v"]
            # Weights, not `density`: what lies beyond the last bin counts.
            weights = np.full(len(values), 1 / (len(values) * (bins[1] - bins[0])))
            axes.hist(values, bins, weights=weights, color=color, alpha=0.45, label=f"{label}, after balance")
            v, density = arrays[f"{name}_law"]
            shown = (v > bins[1] / 20) & (v < end)
            axes.plot(v[shown], density[shown], color="black", lw=1.1, label="density in closed form")
            top = 1.35 * np.histogram(values, bins, weights=weights)[0].max()
            axes.set(xlabel="$v$", ylabel="density", title=title, xlim=(0, end), ylim=(0, top))
            if name == "gamma":
                early = arrays["gamma_early"]
                axes.hist(early, bins, weights=weights, histtype="step", color=GREY, label="SGD, before balance")
            axes.legend(loc="upper right")

        axes, time, charge = panels[0][1], arrays["gamma_time"], arrays["gamma_charge"]
        axes.plot(time, charge - charge[0], color=plots.SGD.color, label="SGD, mean")
        plots.theory(axes, time, -time, "$-8\\sigma^2s^2t$")
        axes.set(
            xlabel="time $\\eta\\,\\times$ steps", ylabel="log of the charge over its start", title="way to balance"
        )
        axes.legend(loc="upper right")

        axes = panels[1][1]
        noise, rate, error, _ = arrays["growth"].T
        axes.errorbar(
            noise, rate, 2 * error, fmt=plots.SGD.marker, color=plots.SGD.color, ms=5, label="SGD, $\\eta\\to 0$"
        )
        plots.theory(axes, noise, 4 - 8 * noise, "$4-8\\sigma^2s^2$")
        axes.axhline(0, color="0.75", lw=0.8, zorder=0)
        axes.text(0.1, -2.6, "below 0: collapse to $u=w=0$", fontsize=8, va="top")
        axes.set(xlabel="$\\sigma^2s^2$", ylabel="growth of $\\log v$ near 0", title="transition, two factors")
        axes.legend(loc="upper right")

        axes, bins = panels[2][0], np.linspace(-5, 1, 61)
        values, (v, density) = arrays["deep_v"], arrays["deep_law"]
        weights = np.full(len(values), 1 / (len(values) * (bins[1] - bins[0])))
        logs = np.log10(np.where(values > 0, values, 1e-9))
        axes.hist(logs, bins, weights=weights, color=plots.SGD.color, alpha=0.45, label="SGD")
        shown = (v > 1e-5) & (v < 10)
        axes.plot(np.log10(v[shown]), (density * v * np.log(10))[shown], color="black", lw=1.1, label="closed form")
        axes.set(xlabel="$\\log_{10}v$", ylabel="density", title="three factors, $\\sigma^2s^2=0.6$")
        axes.set_ylim(0, 1.35 * np.histogram(logs, bins, weights=weights)[0].max())
        axes.legend(loc="upper right")

        axes = panels[2][1]
        for name, color, label in (("gamma", plots.SGD.color, "SGD"), ("quadratic", plots.SDE.color, "SDE")):
            v, density = arrays[f"{name}_law"]
            below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(v))])
            values = np.sort(arrays[f"{name}_v"])
            shares = (np.arange(len(values)) + 0.5) / len(values)
            axes.plot(np.interp(values, v, below), shares, color=color, label=f"{label}, {PANELS[name][0]}")
        axes.plot([0, 1], [0, 1], color="black", lw=0.9, ls=(0, (1, 1)))
        axes.set(xlabel="share below $v$, closed form", ylabel="share of the runs", title="distributions")
        axes.legend(loc="upper left", fontsize=7.5)
    return drawing
