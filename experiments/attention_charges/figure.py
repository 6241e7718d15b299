"""The figure: measured against predicted changes of the charges, and the imbalance of the noise along the runs."""

import numpy as np
from matplotlib.figure import Figure

from experiments.attention_charges.imbalance import imbalance
from noise_equilibrium import plots


def draw(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> Figure:
    """All entries of all charges, and for each network the imbalance under SGD and GD."""
    with plots.figure(11.5, 3.6, columns=1 + len(names)) as (drawing, (left, *others)):
        axes = left.subplots()
        for name, series in zip(names, (plots.SGD, plots.Series("", "#56B4E9", marker="s")), strict=True):
            predicted, moved = arrays[f"{name}_flow_sde"], arrays[f"{name}_flow_moved"]
            plots.elementwise(axes, predicted, moved, plots.Series(name, series.color, marker=series.marker))
        limits = np.array(axes.get_xlim())
        plots.theory(axes, limits, limits, "as predicted")
        axes.set(xlabel="predicted $\\int 2\\sigma^2(M_+-M_-)\\,dt$", ylabel="change of $QQ^\\top-KK^\\top$")
        axes.set_title("entries of the query–key charges")
        axes.legend(loc="upper left", fontsize=7.5)
        for column, name in zip(others, names, strict=True):
            axes = column.subplots()
            for case, series in (("sgd", plots.SGD), ("gd", plots.GD)):
                plus, minus, time = (
                    arrays[f"{name}_{case}_{what}"] for what in ("query_key_plus", "query_key_minus", "time")
                )
                values = imbalance(plus, minus, lead=2)
                plots.runs(axes, time[0], values, series)
            axes.axhline(0, color="black", lw=0.9, ls=":", label="equilibrium")
            axes.set(
                xlabel="time $\\eta\\,\\times$ steps",
                ylim=(-0.03, 1.05),
                title=f"{name}: the noise balances",
            )
            axes.set_ylabel("$\\|M_+-M_-\\|/(\\|M_+\\|+\\|M_-\\|)$")
            axes.legend(loc="center left", fontsize=7.5)
    return drawing
