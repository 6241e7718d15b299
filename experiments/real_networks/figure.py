"""The figure: the ReLU network with SGD and with momentum, filters, and the decoder."""

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noise_equilibrium import plots

MEASURED, EQUILIBRIA, ADAM = plots.SGD.color, "#E69F00", "#7B3294"
PLAIN, SLOW = ("mean of equilibria", EQUILIBRIA), ("slow mean gradient", "#CC79A7")
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#7B3294", "#8B3A1E")  # of families of symmetries
SHOWN = 4  # charges of the run, from the largest to the smallest


def draw(arrays: dict[str, np.ndarray], layers: dict[str, slice], block: int, decoder_block: int) -> Figure:
    """Above the ReLU network: charges along a run, and in the mean, of SGD and momentum; below filters and decoder."""
    with plots.figure(11.5, 7.4, columns=3) as (drawing, columns):
        (run, filters), (dense, flow), (momentum, shares) = (column.subplots(2, 1) for column in columns)
        _draw_run(run, arrays, layers["first layer"], block)
        _draw_means(dense, arrays, "dense", {"law": ("law at the mean noise", MEASURED), "targets": PLAIN}, layers)
        dense.set_title("ReLU network, SGD: means of the late half")
        _draw_means(momentum, arrays, "momentum", {"law": ("law of θ and m", MEASURED), "law_slow": SLOW}, layers)
        momentum.set_title("the same with momentum 0.9")
        _draw_filters(filters, arrays)
        _draw_decoder(flow, shares, arrays, decoder_block)
    return drawing


def _draw_filters(axes: Axes, arrays: dict[str, np.ndarray]) -> None:
    pairs = (
        ("SGD, law at the mean noise", MEASURED, "o", "filters_mean_law", "filters_mean_charge", 1),
        ("SGD, mean of equilibria, of $\\|W_c\\|^4$", EQUILIBRIA, "s", "filters_mean_root", "filters_mean_charge", 1),
        ("AdamW, rotational equilibrium", ADAM, "D", "adam_norm_predicted", "adam_norm", 2),
    )
    ends = []
    for label, color, marker, predicted, measured, power in pairs:
        x, y = (arrays[name].ravel() ** power for name in (predicted, measured))
        axes.plot(x, y, marker, color=color, ms=3.5, alpha=0.8, label=label)
        ends += [x.min(), x.max()]
    plots.theory(axes, np.array([min(ends), max(ends)]), np.array([min(ends), max(ends)]), "as predicted")
    axes.set(xlabel="predicted $\\|W_c\\|^2$", ylabel="measured $\\|W_c\\|^2$", title="filters behind a normalisation")
    axes.legend(loc="upper left", fontsize=7)


def _draw_decoder(flow: Axes, shares: Axes, arrays: dict[str, np.ndarray], block: int) -> None:
    """The relative flow of every symmetry along training, and how much of its κ is decay, slowest to fastest."""
    names = [short(str(name)) for name in arrays["decoder_names"]]
    families = sorted({name.partition(",")[0] for name in names})
    lost = float(arrays["decoder_omega"]) * arrays["decoder_charge"][0]
    gain = arrays["decoder_gain"][0]
    steps = block * (np.arange(len(gain)) + 0.5)
    for place, name in enumerate(names):
        family, _, layer = name.partition(", layer ")
        own = arrays["decoder_of"] == place
        sizes = [np.linalg.norm(values[:, own], axis=1) for values in (gain - lost, gain, lost)]
        color = COLORS[families.index(family) % len(COLORS)]
        line = "--" if layer not in ("", "0") else "-"
        label = family if line == "-" else None
        flow.plot(steps, sizes[0] / (sizes[1] + sizes[2]), line, color=color, lw=1.2, label=label)
        late = [arrays[f"decoder_{what}"][0, len(gain) // 2 :, place].mean() for what in ("slowest", "fastest")]
        ends = [float(arrays["decoder_omega"]) / rate for rate in late]
        shares.plot(ends, [place, place], "-", color=color, lw=4, solid_capstyle="butt")
    flow.set(xlabel="steps", ylabel="|noise − decay| / (|noise| + |decay|)", ylim=(0, 1.05))
    flow.set_title("decoder: flow of the symmetries found")
    flow.legend(loc="upper right", fontsize=7, ncols=2)
    shares.axvline(0.5, color="0.6", lw=0.8, ls=(0, (3, 2)))
    shares.set(xlim=(0, 1.02), xlabel="decay in κ, fastest to slowest")
    shares.set_yticks(range(len(names)), names, fontsize=7.5)
    shares.set_ylim(len(names) - 0.4, -1.2)
    for x, words, side in ((0.49, "held by noise", "right"), (0.51, "held by decay", "left")):
        shares.text(x, -0.75, words, ha=side, va="center", fontsize=7.5, color="0.4")
    shares.set_title("decoder: noise or decay")


def short(name: str) -> str:
    """The last keys of the parameters of a symmetry, and the layer they are in: `q ↔ k, layer 0`."""
    sides = [re.findall(r"\['(\w+)'\](?!\[)", side) for side in name.partition(":")[0].split("↔")]
    layer = re.search(r"\['layers'\]\[(\d+)\]", name)
    return " ↔ ".join("·".join(side) for side in sides) + (f", layer {layer[1]}" if layer else "")


def _draw_run(axes: Axes, arrays: dict[str, np.ndarray], layer: slice, block: int) -> None:
    """A few charges of the first run at the ends of blocks, the path that the law has, and the equilibria."""
    charge, path, target = (arrays[f"dense_{what}"][0][:, layer] for what in ("end", "path", "one_target"))
    steps = block * np.arange(len(path))
    order = np.argsort(charge[len(charge) // 2 :].mean(axis=0))
    chosen = order[np.linspace(len(order) // 3, len(order) - 1, SHOWN).astype(int)]
    for place, one in enumerate(chosen):
        axes.plot(
            steps[1:],
            target[:, one],
            ".",
            color=EQUILIBRIA,
            ms=2.5,
            label="equilibrium at one point" if place == 0 else None,
        )
        axes.plot(steps[1:], charge[:, one], color=MEASURED, lw=1.3, label="SGD" if place == 0 else None)
        axes.plot(
            steps,
            path[:, one],
            color="black",
            lw=0.9,
            ls=(0, (3, 1.5)),
            label="law, from the start" if place == 0 else None,
        )
    high = max(charge[len(charge) // 4 :, chosen].max(), path[len(path) // 4 :, chosen].max())
    axes.set(xlabel="steps", ylabel="charge of a neuron, $C_j$", ylim=(-0.6 * high, 1.9 * high))
    axes.set_title("four neurons of the first layer")
    axes.legend(loc="upper right", ncols=1, fontsize=7.5)


def _draw_means(
    axes: Axes, arrays: dict[str, np.ndarray], name: str, series: dict[str, tuple[str, str]], layers: dict[str, slice]
) -> None:
    for what, (label, color) in series.items():
        for layer, of in layers.items():
            first = layer == "first layer"
            measured, predicted = (arrays[f"{name}_mean_{one}"][:, of].ravel() for one in ("charge", what))
            look = {"marker": "o" if first else "^", "mfc": color if first else "none", "ms": 3.5, "mew": 0.8}
            axes.plot(predicted, measured, ls="", color=color, label=f"{label}, {layer}", alpha=0.8, **look)
    measured = arrays[f"{name}_mean_charge"]
    ends = np.array([measured.min(), measured.max()])
    plots.theory(axes, ends, ends, "as predicted")
    axes.set(xlabel="predicted mean of $C_j$", ylabel="measured mean of $C_j$")
    axes.set_ylim(top=ends[1] + 0.75 * (ends[1] - ends[0]))  # room for the legend
    axes.legend(loc="upper left", fontsize=7)
