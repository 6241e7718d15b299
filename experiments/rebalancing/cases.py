"""What is trained: the linear autoencoder of Figure 4, two networks for digits and a decoder, from two starts.

A skewed start is the usual one after a random motion along the symmetries: the same function, other factors. Its orbit
is that of the usual start, and so are the points to which it is moved.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import noise_equilibrium as ne
from experiments._networks import (
    FILTERS,
    WIDTHS,
    decoder_loss,
    decoder_start,
    dense_loss,
    dense_start,
    digits,
    normalised_loss,
    normalised_start,
    source_windows,
)
from experiments.rebalancing.joint import equilibrium, families
from experiments.warmup.tasks import TASKS
from noise_equilibrium.models import deep_relu, two_layer_linear

BATCH = 8
DECAY = 5e-4  # γ of the networks for digits; filters have no noise equilibrium without it
SKEW = 4.0  # the largest factor of a skewed start, either way
DEPTH = 1  # layers of the decoder
WINDOWS, SEARCHED = 2048, 16  # samples of its text, and those that find its symmetries
(AUTOENCODER,) = (task for task in TASKS if task.name == "autoencoder")


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its starts, and how it is trained.

    Attributes:
        name: in the arrays.
        title: in the figure and in the metrics.
        training: the problem that SGD sees.
        probe: samples on which the noise is measured.
        symmetries: along which it is moved.
        start: of a key.
        excess: the loss of params above the least possible one.
        rates: the learning rates of the grid, in equal ratios.
        common: the one of them at which steps are compared.
        target: the loss that is to be reached, over that at the start.
        steps: of a run.
        warmup: the steps in which a warmup reaches the rate.
        period: k, the steps between motions.
        every: steps between records.
        trains: a run trains if its loss over the last quarter is less than this, over that at the start.
        skewed: whether it is started from a skewed start too.
        has_norm: whether the weight norm has a least point on the orbit.
        decays: whether there is weight decay.
        in_turn: whether runs are made in turn: side by side, every one has its own filters, which is slow.
        groups: families of symmetries that take turns, see `joint`; None where `find_equilibrium` moves along all.
    """

    name: str
    title: str
    training: ne.Problem
    probe: ne.Problem
    symmetries: Sequence[ne.Symmetry]
    start: Callable[[Array], PyTree]
    excess: Callable[[PyTree], Array]
    rates: tuple[float, ...]
    common: float
    target: float
    steps: int
    warmup: int
    period: int
    every: int
    trains: float = 0.5
    skewed: bool = True
    has_norm: bool = True
    decays: bool = True
    in_turn: bool = False
    groups: list[list[int]] | None = None

    @property
    def ends(self) -> tuple[str, ...]:
        """The points of the orbit to which it is moved."""
        return ("norm", "noise") if self.has_norm else ("noise",)

    def at_rest(self, problem: ne.Problem, params: PyTree, law: ne.SGD) -> PyTree:
        """The noise equilibrium of a law, on the orbit of params."""
        if self.groups is not None:
            return equilibrium(problem, params, self.symmetries, self.groups, law)
        given = self.symmetries[0] if len(self.symmetries) == 1 else self.symmetries
        return ne.find_equilibrium(problem, params, given, law).params


def all_cases(*, text: int | None = None) -> list[Case]:
    """The linear autoencoder, the ReLU network, the convolutional one, and the decoder if text of a seed is given."""
    return [linear(), dense(), convolutional(), *([] if text is None else [decoder(text)])]


def rates_from(low: float, count: int, per_octave: float) -> tuple[float, ...]:
    """`count` rates from `low`, a factor 2^(1/per_octave) apart."""
    return tuple(float(low * 2 ** (place / per_octave)) for place in range(count))


def linear(probes: int = 1024) -> Case:
    """The autoencoder of Figure 4 from variances 1/fan-in, on fresh samples."""
    task = AUTOENCODER
    teacher = jnp.asarray(task.teacher)
    samples = task.problem.data.draw_set(jax.random.key(0), probes)
    return Case(
        name="linear",
        title="linear autoencoder",
        training=task.problem,
        probe=ne.Problem(two_layer_linear.loss, samples),
        symmetries=[two_layer_linear.symmetry],
        start=lambda key: task.start(key, task.spreads()["1/fan-in"]),
        excess=lambda params: jnp.sum((params.up @ params.down - teacher) ** 2),
        rates=rates_from(task.high / 4, 10, 3),
        common=task.high / 4,
        target=0.1,
        steps=3000,
        warmup=task.warmup,
        period=1000,
        every=10,
        decays=False,
        skewed=False,  # 1/fan-in is far from the equilibrium as it is
    )


def dense(probes: int = 256) -> Case:
    """The ReLU network for digits."""
    return _of_digits(
        "dense",
        "ReLU network",
        dense_loss,
        dense_start,
        deep_relu.symmetries(len(WIDTHS) + 1),
        probes,
        rates=rates_from(0.05, 14, 3),
        common=0.1,
        target=0.25,
        steps=450,
        warmup=150,
        period=90,
        every=10,
    )


def convolutional(probes: int = 128) -> Case:
    """The convolutional network: every filter has a scale that the normalisation behind it does not see."""
    rates = rates_from(0.5, 5, 1.5)
    return _of_digits(
        "convolutional",
        "convolutional network",
        normalised_loss,
        normalised_start,
        FILTERS,
        probes,
        rates=rates,
        common=rates[0],
        target=0.4,
        steps=360,
        warmup=120,
        period=90,
        every=10,
        has_norm=False,
        in_turn=True,
    )


def decoder(seed: int, probes: int = 32) -> Case:
    """The decoder on source files of Python's standard library, with one layer, and the symmetries found in it."""
    data = source_windows(WINDOWS, seed)
    params = decoder_start(jax.random.key(seed), DEPTH)
    symmetries = list(ne.find_symmetries(ne.Problem(decoder_loss, data[:SEARCHED]), params))
    few = data[:64]
    rates = rates_from(0.3, 8, 2)
    return Case(
        name="decoder",
        title="decoder",
        training=ne.Problem(decoder_loss, data),
        probe=ne.Problem(decoder_loss, data[:probes]),
        symmetries=symmetries,
        start=lambda key: decoder_start(key, DEPTH),
        excess=lambda params: jnp.mean(jax.vmap(decoder_loss, (None, 0))(params, few)),
        rates=rates,
        common=rates[1],
        target=0.5,
        steps=240,
        warmup=80,
        period=80,
        every=10,
        trains=0.6,  # of 5.4: the entropy of single bytes is 3.05, and steps are noisy
        decays=False,
        groups=families(symmetries, params),
    )


def _of_digits(
    name: str,
    title: str,
    loss: Any,
    start: Callable[[Array], PyTree],
    symmetries: Sequence[ne.Symmetry],
    probes: int,
    **options: Any,
) -> Case:
    data = digits()
    probe = ne.Problem(loss, jax.tree_util.tree_map(lambda leaf: leaf[:probes], data), DECAY)

    few = jax.tree_util.tree_map(lambda leaf: leaf[:64], data)  # recorded often

    def excess(params: PyTree) -> Array:
        return jnp.mean(jax.vmap(loss, (None, 0))(params, few))

    training = ne.Problem(loss, data, DECAY)
    return Case(name, title, training, probe, symmetries, start, excess, **options)


def skew(params: PyTree, symmetries: Sequence[ne.Symmetry], key: Array) -> PyTree:
    """Params after a random motion, every factor between 1/SKEW and SKEW, uniform in its logarithm.

    Matrices are diagonal: axes are drawn alike in all directions, so that no rotation is left out.
    """
    log = np.log(SKEW)
    shapes = [jax.eval_shape(symmetry.charge, params).shape for symmetry in symmetries]
    sizes = [shape[:-1] if len(shape) == 3 else shape for shape in shapes]
    ends = np.cumsum([math.prod(size) for size in sizes])
    # All at once: every draw is compiled on its own.
    drawn = jnp.split(jax.random.uniform(key, (ends[-1],), minval=-log, maxval=log), ends[:-1])
    for symmetry, shape, size, part in zip(symmetries, shapes, sizes, drawn, strict=True):
        factors = part.reshape(size)
        params = symmetry.act(params, factors[..., None] * jnp.eye(shape[-1]) if len(shape) == 3 else factors)
    return params
