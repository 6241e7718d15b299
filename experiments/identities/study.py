"""Runs the checks of `orbits` and `networks` on random instances, and keeps the worst of each.

An identity that is exact in real arithmetic has an error of rounding here, so marks of 1e-9 and less can be met by
nothing else. What differs from the printed paper is checked as well: where it holds, and that it fails elsewhere.
"""

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments._metrics import Metric
from experiments.identities import networks, orbits
from experiments.identities.figure import draw

INSTANCES = {"quick": 1, "full": 8}


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    instances = INSTANCES["quick" if quick else "full"]
    with jax.enable_x64(True):
        found = [
            [*orbits.metrics(instance), *networks.metrics(instance)]
            for instance in tqdm(range(seed * instances, (seed + 1) * instances), disable=None)
        ]
    values = np.array([[metric.measured for metric in metrics] for metrics in found])
    metrics = [_worst(list(of)) for of in zip(*found, strict=True)]
    return metrics, {"measured": values}, draw(metrics, values)


def _worst(metrics: list[Metric]) -> Metric:
    """The one of the instances that is nearest to failing."""
    first = metrics[0]
    if first.high != np.inf and first.low == -np.inf:
        return max(metrics, key=lambda metric: _rank(metric.measured))
    if first.high == np.inf:
        return min(metrics, key=lambda metric: -_rank(-metric.measured))
    middle = (first.low + first.high) / 2
    return max(metrics, key=lambda metric: _rank(abs(metric.measured - middle)))


def _rank(value: float) -> float:
    return np.inf if np.isnan(value) else value
