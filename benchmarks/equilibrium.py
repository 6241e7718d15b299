"""What an equilibrium costs beside its moments, and a prediction beside the run of SGD that confirms it."""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import noise_equilibrium as ne
from benchmarks._timing import measure
from noise_equilibrium._parameters import split
from noise_equilibrium.models import two_layer_linear as linear

NOISE_SCALE = 0.01
UP, DOWN = linear.symmetry.legs[0].where, linear.symmetry.legs[1].where
SYMMETRIES = {
    "scalar": ne.rescaling(UP, DOWN),
    "diagonal": ne.neuron_rescaling((UP, 1), (DOWN, 0)),
    "symmetric": linear.symmetry,
}


def network(d: int, samples: int, width: int) -> tuple[ne.Problem, linear.Params]:
    """A two-layer linear network with a hidden axis of length d."""
    keys = jax.random.split(jax.random.key(0), 3)
    data = tuple(jax.random.normal(key, (samples, width)) for key in keys[:2])
    return ne.Problem(linear.loss, data, 1e-3), linear.init(keys[2], width, d, width)


def costs(repeats: int) -> None:
    """The table of costs, as ratios to the moments."""
    print(f"{'d':>4}{'N':>7}{'width':>7}  {'symmetry':12}{'moments':>10}{'closed form':>13}{'whole call':>12}")
    for d, samples, width in ((16, 1024, 256), (64, 1024, 256), (64, 4096, 256)):
        problem, params = network(d, samples, width)
        for name, symmetry in SYMMETRIES.items():
            bound = symmetry.bind(params)
            moments = ne.noise_moments(problem, params, symmetry)

            def closed(problem: Any, params: Any, moments: Any, bound: Any = bound) -> Any:
                arrays, _ = split(params)
                law = ne.SDE(2 * NOISE_SCALE, 1).charge_law(problem)
                return bound.multiply(arrays, bound.balance(arrays, moments, law, problem.num_samples).motion)

            functions = {
                "moments": lambda problem, p, m, symmetry=symmetry: ne.noise_moments(problem, p, symmetry),
                "closed": closed,
                "whole": lambda problem, p, m, s=symmetry: ne.find_equilibrium(problem, p, s, NOISE_SCALE),
            }
            timing = measure(functions, (problem, params, moments), repeats)
            base = timing["moments"].run_seconds
            ratios = [timing[key].run_seconds / base for key in ("closed", "whole")]
            print(f"{d:4}{samples:7}{width:7}  {name:12}{base * 1e3:7.2f} ms{ratios[0]:13.2f}{ratios[1]:12.2f}")


def prediction() -> None:
    """A prediction, compiled, against 16 seeds of SGD for 8 relaxation times, compiled too."""
    teacher = ne.data.LinearTeacher(np.eye(4), np.eye(4), 0.02 * np.eye(4))
    data = teacher.moment_matched(jax.random.key(0), 200)
    problem, start, sgd = ne.Problem(linear.loss, data), linear.init(jax.random.key(1), 4, 4, 4), ne.SGD(1e-3, 8)
    predict = jax.jit(lambda p: ne.predict(problem, p, SYMMETRIES["diagonal"], sgd))
    found = jax.block_until_ready(predict(start))
    before = time.perf_counter()
    for _ in range(20):
        jax.block_until_ready(predict(start))
    seconds = (time.perf_counter() - before) / 20
    rate = float(jnp.min(ne.relaxation_rates(problem, found.params, SYMMETRIES["diagonal"], sgd)))
    steps = round(8 / rate / sgd.learning_rate)
    trial = 20_000

    def run(key: Any) -> Any:
        return ne.simulate(problem, sgd, found.minimum, trial, key=key).params

    runs = jax.jit(jax.vmap(run))
    keys = jax.random.split(jax.random.key(2), 16)
    jax.block_until_ready(runs(keys))
    before = time.perf_counter()
    jax.block_until_ready(runs(keys))
    whole = (time.perf_counter() - before) * steps / trial
    settings = f"8/κ at η = {sgd.learning_rate:g}, S = 8, extrapolated from {trial} steps"
    print(f"\nprediction {seconds * 1e3:.1f} ms; SGD, 16 seeds × {steps:.3g} steps ({settings}): {whole:.3g} s")
    print(f"{whole / seconds:.3g} times as much")


def main(repeats: int = 25) -> None:
    """Print the tables."""
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32")
    costs(repeats)
    prediction()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
