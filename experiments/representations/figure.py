"""The figure: the two sides of Eq. (14) as heatmaps, under SGD and GD, beside the matrix of linear theory."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from noise_equilibrium import plots

NAMES = {"tanh": "tanh", "swish": "swish", "leaky_relu": "leaky ReLU", "relu": "ReLU"}


def draw(arrays: dict[str, np.ndarray], activations: Sequence[str], eigenvalues: np.ndarray) -> Figure:
    """A row for each activation and for the digits; the colours of a row have one scale.

    Args:
        arrays: of the study; the first run is drawn.
        activations: their names.
        eigenvalues: of theory; it leaves the axes open, which are taken from the measured matrices.
    """
    rows = [*activations, "digits"]
    titles = [
        "SGD: $W\\bar\\Sigma_xW^\\top$",
        "SGD: $U^\\top\\bar\\Sigma_\\epsilon U$",
        "theory (linear)",
        "GD: $W\\bar\\Sigma_xW^\\top$",
        "GD: $U^\\top\\bar\\Sigma_\\epsilon U$",
    ]
    with plots.figure(9.5, 9.2, columns=1) as (drawing, (whole,)):
        grid = whole.subplots(len(rows), len(titles))
        for place, (row, name) in enumerate(zip(grid, rows, strict=True)):
            sgd, gd = (_pair(arrays, f"{name}_{kind}") for kind in ("sgd", "gd"))
            expected = None if name == "digits" else _in_axes_of(sgd[0] + sgd[1], eigenvalues)
            matrices = [*sgd, expected, *gd]
            top = max(np.abs(_without_mean(matrix)).max() for matrix in matrices if matrix is not None)
            for axes, matrix, title in zip(row, matrices, titles, strict=True):
                axes.set(xticks=[], yticks=[])
                if place == 0:
                    axes.set_title(title, fontsize=9)
                if matrix is None:
                    axes.set_axis_off()
                else:
                    axes.imshow(_without_mean(matrix), cmap="RdBu_r", vmin=-top, vmax=top)
            row[0].set_ylabel(NAMES.get(name, "digits: $M_+$, $M_-$"), fontsize=9)
            whole.colorbar(row[0].images[0], ax=list(row), shrink=0.85, pad=0.01)
        whole.suptitle("traceless parts of the matrices, of trace 1", fontsize=9.5)
    return drawing


def _pair(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    sides = [arrays[f"{name}_{side}"][0].astype(np.float64) for side in ("down", "up")]
    return [side / np.trace(side) for side in sides]


def _without_mean(matrix: np.ndarray) -> np.ndarray:
    return matrix - np.eye(len(matrix)) * np.trace(matrix) / len(matrix)


def _in_axes_of(matrix: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    """The matrix with these eigenvalues, descending and padded with zeros, on the eigenvectors of another."""
    _, vectors = np.linalg.eigh(matrix)
    values = np.zeros(len(matrix))
    values[: len(eigenvalues)] = eigenvalues
    return (vectors[:, ::-1] * values) @ vectors[:, ::-1].T
