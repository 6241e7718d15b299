"""The figure: how a hidden axis and heads turn, where SGD settles, and paths along valleys without a symmetry."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

VIEWS = {"bent valley": "first parameter", "sparse": "$\\|u\\|^2+\\|v\\|^2$", "tanh": "$\\|\\theta\\|^2$"}
TITLES = {
    "bent valley": "valley of three parameters",
    "sparse": "diagonal linear network",
    "tanh": "tanh network",
}


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """Orbits above, other valleys below, heads on the right."""
    with plots.figure(14, 6.2, columns=4) as (drawing, columns):
        panels = [column.subplots(2, 1) for column in columns]
        axes, time = panels[0][0], arrays["angle_time"]
        for name, series in (("anisotropic", plots.SGD), ("isotropic", plots.SDE)):
            angle = arrays[f"angle_{name}"]
            mean, error = angle.mean(axis=0), angle.std(axis=0, ddof=1) / len(angle) ** 0.5
            axes.plot(time, mean, color=series.color, ls=series.line, label=f"SGD, {name} label noise")
            axes.fill_between(time, mean - 2 * error, mean + 2 * error, color=series.color, alpha=0.2, lw=0)
            plots.theory(axes, time, arrays[f"omega_{name}"] * time, "$\\Omega t$, predicted")
        _legend_once(axes, "lower left")
        axes.set(xlabel="$2\\sigma^2 t$", ylabel="angle of the hidden axis", title="the axis turns for ever")

        axes = panels[1][0]
        spread, shift = arrays["predicted_shift"].T
        axes.loglog(spread, shift, "_", color="0.6", ms=11, label="predicted, six tasks")
        at, predicted, way, left, left_error, _, share, error = arrays["ends"].T
        sgd = {"color": plots.SGD.color, "fmt": plots.SGD.marker, "ms": 5}
        axes.loglog(at * 1.18, predicted, "x", color="black", ms=8, label="predicted, another task")
        axes.errorbar(at * 1.18, predicted * share, 2 * predicted * error, **sgd, label="SGD in that task")
        axes.set(xlabel="largest over least eigenvalue of $\\Sigma_x$, $\\Sigma_\\epsilon$", ylabel="relative shift")
        axes.set(xticks=[4, 16, 64, 256], xticklabels=["4", "16", "64", "256"], ylim=(shift.min() / 2, 4))
        axes.minorticks_off()
        axes.set_title("Grams where SGD settles\nagainst the noise equilibrium")
        axes.legend(loc="upper left", fontsize=7.5)

        axes = panels[2][0]
        place = np.arange(len(at))
        axes.errorbar(place + 0.1, share, 2 * error, **sgd, label="SGD from settle")
        axes.errorbar(place - 0.1, left, 2 * left_error, **sgd, mfc="white", label="SGD from the noise equilibrium")
        axes.plot(place - 0.1, way, "x", color="black", ms=8, label="the same by valley_drift")
        axes.axhline(1, color="black", lw=0.9, ls=(0, (1, 1)))
        axes.axhline(0, color="black", lw=0.9, ls=(0, (5, 2)))
        axes.text(len(at) - 0.55, 1.06, "settle", ha="right", fontsize=8)
        axes.text(len(at) - 0.55, 0.05, "noise equilibrium", ha="right", fontsize=8)
        axes.set(xticks=place, xticklabels=[f"{value:g}" for value in at], xlim=(-0.5, len(at) - 0.5), ylim=(-0.2, 2.2))
        axes.set(
            xlabel="spread of the spectra", ylabel="place between the two", title="where SGD is at $2\\sigma^2t=8$"
        )
        axes.legend(loc="upper left", fontsize=7.5)

        for (name, label), column in zip(VIEWS.items(), panels[:3], strict=True):
            axes, (time, path, coarse, fine) = column[1], arrays[f"path_{name}"]
            axes.plot(time, coarse, color=plots.SGD.color, ls=(0, (1.5, 1.5)), label="SGD, mean, $\\eta$")
            axes.plot(time, fine, color=plots.SGD.color, label="SGD, mean, $\\eta/2$")
            plots.theory(axes, time, path, "valley_drift")
            axes.set(xlabel="$2\\sigma^2 t$", ylabel=label, title=TITLES[name])
            axes.legend(loc="best")
        _heads(panels[3][0], panels[3][1], arrays)
    return drawing


def _heads(above: Axes, below: Axes, arrays: dict[str, np.ndarray]) -> None:
    """Ω of every block of a decoder, and the angle of the fastest; in the quick preset the predictions alone."""
    predicted = arrays["heads_predicted"]
    place = np.arange(len(predicted))
    above.axhline(0, color="0.7", lw=0.8)
    above.plot(place, predicted, "x", color="black", ms=8, label="predicted")
    names = [str(name).replace(", ", "\n").replace("–", "–\n") for name in arrays["heads_names"]]
    above.set(
        xticks=place, xticklabels=names, xlim=(-0.5, len(place) - 0.5), ylabel="$\\Omega$ per unit of $2\\sigma^2t$"
    )
    above.set_title("heads of a decoder turn")
    if "heads_measured" in arrays:
        value, error = arrays["heads_measured"]
        style = {"color": plots.SGD.color, "fmt": plots.SGD.marker, "ms": 5}
        above.errorbar(place + 0.12, value, 2 * error, **style, label="SGD, $\\eta\\to0$")
        fastest, time = int(np.argmax(np.abs(predicted))), arrays["heads_time"]
        angle = arrays["heads_angles"][:, :, fastest]
        mean, error = angle.mean(axis=0), angle.std(axis=0, ddof=1) / len(angle) ** 0.5
        below.errorbar(time, mean, 2 * error, **style, label="SGD, mean, $\\eta/2$")
        plots.theory(below, time, predicted[fastest] * time, "$\\Omega t$, predicted")
        below.set(xlabel="$2\\sigma^2 t$", ylabel="angle", title=str(arrays["heads_names"][fastest]))
        below.legend(loc="best")
    else:
        below.axis("off")
        below.text(0.5, 0.5, "SGD of the decoder:\nin the full preset", ha="center", va="center")
    above.legend(loc="best", fontsize=7.5)


def _legend_once(axes: object, place: str) -> None:
    """A legend with every label once."""
    handles, labels = axes.get_legend_handles_labels()  # pyright: ignore[reportAttributeAccessIssue]
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), loc=place)  # pyright: ignore[reportAttributeAccessIssue]
