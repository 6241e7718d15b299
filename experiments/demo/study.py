"""A ReLU network on medical data: found symmetries, a diagnosis, SGD against the prediction, and a scrambled start.

The data (442 patients, ten measurements, the progression of diabetes after a year) cannot be fitted by any model to
better than half of their variance, so the gradient noise does not die out at the minimum, and balances in 10⁵ steps.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from sklearn.datasets import load_diabetes
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric

WIDTH, DECAY, RATE, BATCH = 16, 5e-4, 0.005, 1
STEPS, RECORDS, RUNS = 100_000, 200, 8
FASTER = 5  # the rate of gradient descent over that of SGD: as much time in fewer steps, and stable after the rescaling
LATE = RECORDS // 2  # the second half of a run counts as the end: relaxation takes a fifth of it
SPREAD = 0.7  # standard deviation of the logarithms by which neurons are rescaled: twice as large or as small


@dataclass(frozen=True)
class Found:
    """What the page shows.

    Attributes:
        network: the network and the data in words.
        symmetries: as they print.
        diagnosis: before training.
        time: of the records, learning rate × steps.
        sgd: (records, neurons) charges of one run of SGD.
        gd: (records, neurons) those of gradient descent.
        predicted: (records, neurons) charges of the noise equilibrium of the function computed at that moment.
        scrambled: (runs, records) the distance of all charges from their equilibrium, after neurons were rescaled.
        scrambled_gd: (records,) the same under gradient descent.
        scrambled_theory: (records,) the same along the orbit, predicted.
        metrics: predicted and measured.
    """

    network: str
    symmetries: str
    diagnosis: ne.Diagnosis
    time: np.ndarray
    sgd: np.ndarray
    gd: np.ndarray
    predicted: np.ndarray
    scrambled: np.ndarray
    scrambled_gd: np.ndarray
    scrambled_theory: np.ndarray
    metrics: list[Metric]


def loss(model: Any, sample: tuple[Array, Array]) -> Array:
    """The squared error of one patient."""
    return jnp.sum((model(sample[0]) - sample[1]) ** 2)


def study(seed: int) -> Found:
    """All of it, in single precision, as a user would run it."""
    bar = tqdm(total=5, disable=None)
    keys = jax.random.split(jax.random.key(seed), 4)
    patients: Any = load_diabetes()
    columns, target = patients.data, patients.target
    data = tuple(
        jnp.asarray((part - part.mean(axis=0)) / part.std(axis=0), jnp.float32) for part in (columns, target[:, None])
    )
    model = eqx.nn.MLP(columns.shape[1], 1, WIDTH, depth=1, activation=jax.nn.relu, key=keys[0])
    problem, sgd, gd = ne.Problem(loss, data, weight_decay=DECAY), ne.SGD(RATE, BATCH), ne.GD(RATE * FASTER)
    symmetries = ne.find_symmetries(problem, model)
    bar.update()
    diagnosis = ne.diagnose(problem, model, sgd, symmetries)
    bar.update()

    (neurons,) = symmetries
    observe, every = {"charge": neurons.charge, "params": lambda params: params}, STEPS // RECORDS
    trained = ne.simulate(problem, sgd, model, STEPS, key=keys[1], observe=observe, every=every)
    descended = ne.simulate(problem, gd, model, STEPS // FASTER, observe=observe, every=every // FASTER)
    bar.update()

    functions = eqx.filter(model, eqx.is_array, inverse=True)

    def balanced(arrays: Any) -> Array:
        there = ne.find_equilibrium(problem, eqx.combine(arrays, functions), neurons, sgd)
        return neurons.charge(there.params)

    predicted = jax.lax.map(balanced, trained.observed["params"])
    bar.update()

    # The network that SGD found, its neurons rescaled at random: the same function, far from balanced.
    factors = SPREAD * jax.random.normal(keys[2], (WIDTH,))
    scrambled = neurons.act(trained.params, factors)
    resting = neurons.charge(ne.find_equilibrium(problem, scrambled, neurons, sgd).params)

    def distance(params: Any) -> Array:
        return jnp.linalg.norm(neurons.charge(params) - resting)

    again = eqx.filter_vmap(  # the model holds a function, so its runs are batched by Equinox
        lambda key: ne.simulate(problem, sgd, scrambled, STEPS // 2, key=key, observe={"gap": distance}, every=every)
    )(jax.random.split(keys[3], RUNS))
    still = ne.simulate(problem, gd, scrambled, STEPS // 2 // FASTER, observe={"gap": distance}, every=every // FASTER)
    flow = ne.orbit_flow(problem, scrambled, neurons, sgd.noise_scale, again.time[0])
    bar.update()
    bar.close()

    charges, goals = np.asarray(trained.observed["charge"]), np.asarray(predicted)
    late, goal = charges[LATE:].mean(axis=0), goals[LATE:].mean(axis=0)
    return Found(
        f"A ReLU network {columns.shape[1]} – {WIDTH} – 1 (equinox.nn.MLP) on {len(target)} patients: the progression "
        f"of diabetes from ten measurements. SGD with learning rate {RATE}, batches of {BATCH}, weight decay γ = "
        f"{DECAY}, {STEPS:,} steps, single precision, seed {seed}.",
        str(symmetries),
        diagnosis,
        np.asarray(trained.time),
        charges,
        np.asarray(descended.observed["charge"]),
        goals,
        np.asarray(again.observed["gap"]),
        np.asarray(still.observed["gap"]),
        np.linalg.norm(np.asarray(flow.charge) - np.asarray(resting), axis=-1),
        [
            Metric(
                "correlation of SGD's late charges with the predicted", 1.0, float(np.corrcoef(late, goal)[0, 1]), 0.9
            ),
            Metric(
                "… of the charges before training with the predicted, for comparison",
                None,
                float(np.corrcoef(charges[0], goal)[0, 1]),
            ),
            Metric("loss after training", None, float(problem.risk(trained.params))),
        ],
    )
