"""The page of the demo: one file, no outside reference, readable on a phone."""

import io
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.demo.study import LATE, RUNS, Found

SGD, GD, THEORY = "#0072B2", "#D55E00", "black"
STYLE = """
:root { color-scheme: light; }
body { font: 1.05rem/1.55 system-ui, sans-serif; color: #1b1b1b; background: white; margin: 0; }
main { max-width: 52rem; margin: 0 auto; padding: 1.5rem; }
h1 { line-height: 1.15; } h2 { margin-top: 2.5rem; }
pre, .wide { overflow-x: auto; }
pre { background: #f4f4f4; padding: 0.8rem; border-radius: 0.4rem; font-size: 0.85rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { text-align: left; padding: 0.3rem 0.6rem; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; }
.wide td:nth-child(11), .wide th:nth-child(11) { display: none; }
.note { color: #555; font-size: 0.9rem; }
"""


def html(found: Found) -> str:
    """The page."""
    measured = next(iter(found.metrics))
    parts = [
        "<h1>Where does the noise of SGD push this network?</h1>",
        f"<p>{escape(found.network)}</p>",
        "<h2>1. Its symmetries, found without being told</h2>",
        "<p>Multiply what goes into a ReLU neuron and divide what comes out of it, and the network computes the same: "
        "the loss cannot tell where on such an <em>orbit</em> the parameters are. "
        "<code>ne.find_symmetries</code> found this by number, and confirmed it on samples it had not used.</p>",
        f"<pre>{escape(found.symmetries)}</pre>",
        "<h2>2. Who is pushed where</h2>",
        "<p>What gradient descent would keep for ever is the <em>charge</em> Q of each neuron: its squared weights in, "
        "less those out. <code>ne.diagnose</code> says, before any training, that the noise of SGD moves it, which way "
        "and how fast.</p>",
        f'<div class="wide">{found.diagnosis._repr_html_()}</div>',
        *(f"<p><strong>In words:</strong> {escape(row.finding)}.</p>" for row in found.diagnosis.rows),
        "<h2>3. The prediction against SGD</h2>",
        "<p>At every moment <code>ne.find_equilibrium</code> tells the one point of the orbit where the noise and the "
        f"decay balance. SGD goes there: the charges of the neurons over the second half of the run correlate "
        f"{measured.measured:.2f} with the predicted ones; those of gradient descent stay elsewhere.</p>",
        _svg(_training, found, "Charges of neurons during training, and measured against predicted charges at the end"),
        '<p class="note">Left: six of the neurons; lines are one run of SGD, dashes the equilibrium of the function '
        "computed at that moment. Right: each point is a neuron, averaged over the second half of the "
        "run; one below the line is still on its way.</p>",
        "<h2>4. Wherever it starts</h2>",
        "<p>Now every neuron of the trained network is rescaled at random: the same function, far from balanced. SGD "
        "brings the charges back along the predicted curve, and gradient descent does so as fast as the decay.</p>",
        _svg(_scrambled, found, "Distance of the charges from equilibrium after the neurons were rescaled"),
        f'<p class="note">The norm of the distance of all charges from their equilibrium; {RUNS} runs of SGD.</p>',
        "<h2>On your own model</h2>",
        "<pre>problem = ne.Problem(loss, data)          # your loss, of one sample\n"
        "print(ne.diagnose(problem, model, ne.SGD(learning_rate, batch_size)))</pre>",
        "<p><code>docs/quick_start.md</code> goes on from here; <code>make docs</code> builds the site, and "
        "<code>make report</code> the paper, statement by statement.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Where does the noise of SGD push this network?</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _svg(draw, found: Found, title: str) -> str:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    draw(figure, found)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _training(figure: Figure, found: Found) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    order = np.argsort(found.predicted[-1])
    for place, neuron in enumerate(order[:: max(1, len(order) // 6)]):
        left.plot(found.time, found.sgd[:, neuron], color=SGD, lw=1, label="SGD" if not place else None)
        left.plot(
            found.time, found.predicted[:, neuron], "--", color=THEORY, lw=1, label="predicted" if not place else None
        )
    left.set(xlabel="time (learning rate × steps)", ylabel="charge Q of a neuron")
    _legend(left)
    goal = found.predicted[LATE:].mean(axis=0)
    right.axline((float(goal.mean()), float(goal.mean())), slope=1, color="0.8", zorder=0)
    right.plot(goal, found.gd[LATE:].mean(axis=0), "s", color=GD, ms=5, label="gradient descent")
    right.plot(goal, found.sgd[LATE:].mean(axis=0), "o", color=SGD, ms=6, label="SGD")
    right.set(xlabel="predicted charge", ylabel="measured charge")
    _legend(right)


def _scrambled(figure: Figure, found: Found) -> None:
    axes = figure.subplots()
    time = found.time[: found.scrambled.shape[1]]
    axes.plot(time, found.scrambled.T, color=SGD, lw=0.7, alpha=0.6, label=["SGD", *[None] * (RUNS - 1)])
    axes.plot(time, found.scrambled_gd, color=GD, lw=1.5, label="gradient descent")
    axes.plot(time, found.scrambled_theory, color=THEORY, ls="--", label="predicted")
    axes.set(xlabel="time (learning rate × steps)", ylabel="distance from equilibrium", yscale="log")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
