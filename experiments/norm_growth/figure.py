"""The figure: norms of the two networks, their growth against the prediction, and where weight decay stops it."""

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots


def draw(arrays: dict[str, np.ndarray], decay: float) -> Figure:
    """A row for each network: all norms under SGD and GD, all neurons, and SGD with weight decay."""
    names = ("Net-A", "Net-B")
    with plots.figure(11, 5.6, columns=3) as (drawing, columns):
        panels = [column.subplots(2, 1, sharex=True) for column in columns]
        for row, name in enumerate(names):
            time = arrays[f"{name}_sgd_time"][0]
            get = {
                what: arrays[f"{name}_{what}"]
                for what in ("sgd_charge", "sgd_up", "sgd_down", "gd_charge", "sgd_neurons", "decay_charge")
            }
            axes = panels[0][row]
            plots.runs(axes, time, get["sgd_charge"], plots.Series("$\\|\\theta\\|^2$, SGD", plots.SGD.color))
            for what, color, line in (("up", "#4B9FD1", (0, (4, 1.5))), ("down", "#003A5C", "-.")):
                label = {"up": "$\\|U\\|^2$, SGD", "down": "$\\|W\\|^2$, SGD"}[what]
                plots.runs(axes, time, get[f"sgd_{what}"], plots.Series(label, color, line))
            gd = plots.Series("$\\|\\theta\\|^2$, GD", plots.GD.color, plots.GD.line)
            plots.runs(axes, time, get["gd_charge"], gd)
            start = get["sgd_charge"].mean(axis=0)[0]
            grown = arrays[f"{name}_growth"].mean(axis=0)
            label = "$\\|\\theta_0\\|^2+\\int 2\\sigma^2\\,\\mathrm{Tr}\\,\\Sigma\\,dt$"
            plots.theory(axes, time, start + grown, label)
            axes.set(ylabel=f"{name}: squared norms", ylim=(0, 1.25 * get["sgd_charge"].max()))

            axes = panels[1][row]
            expected = arrays[f"{name}_neuron_growth"][0]
            neurons = get["sgd_neurons"][0]
            for place, column in enumerate(neurons.T):
                shade = str(0.25 + 0.5 * place / (neurons.shape[1] - 1))
                axes.plot(time, column - column[0], color=shade, lw=1.2, label="SGD" if place == 0 else None)
                label = "$\\int 2\\sigma^2 M_j\\,dt$" if place == 0 else None
                plots.theory(axes, time, expected[:, place], label)
            axes.set(ylabel="growth of each neuron's charge")

            axes = panels[2][row]
            long = arrays[f"{name}_decay_time"][0]
            plots.runs(axes, long, get["decay_charge"], plots.Series(f"SGD, $\\gamma = {decay:g}$", "#56B4E9"))
            rest = np.full(len(long), arrays[f"{name}_rest_sde"].mean())
            plots.theory(axes, long, rest, "$\\sqrt{\\eta K/(4\\gamma S)}$")
            axes.set(ylabel="$\\|\\theta\\|^2$")
        titles = ("norms grow", "so does every neuron", "weight decay stops it")
        for (axes, _), title in zip(panels, titles, strict=True):
            axes.set_title(title)
            axes.legend(loc="best", fontsize=7.5)
        for column in panels:
            column[1].set_xlabel("time $\\eta\\,\\times$ steps")
    return drawing
