"""Draws docs/front.png, the picture of the front page: where SGD, GD and the prediction end on an orbit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import noise_equilibrium as ne

TARGET = Path(__file__).parents[1] / "docs" / "front.png"
STARTS = ({"u": 4.0, "w": 0.5}, {"u": 0.45, "w": 4.4}, {"u": 2.6, "w": 0.4})
STEPS, RATE, BATCH, RUNS = 50_000, 0.004, 1, 32
SGD_COLOUR, GD_COLOUR, THEORY = "#0072B2", "#D55E00", "black"


def loss(params, sample):
    """A network with one hidden unit."""
    x, y = sample
    return (params["u"] * params["w"] * x - y) ** 2


def main() -> None:
    """Simulates and draws."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (1000,))
    problem = ne.Problem(loss, (x, 2 * x + jax.random.normal(keys[1], (1000,))))
    symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
    sgd, observe = ne.SGD(RATE, BATCH), {"params": lambda p: p, "charge": symmetry.charge}
    figure, (plane, charge) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")

    bottom = None
    u = np.linspace(0.35, 4.8, 300)
    plane.plot(u, 2 / u, color="0.75", lw=6, solid_capstyle="round", label="minima u·w = 2: one orbit", zorder=0)
    for number, start in enumerate(STARTS):
        params = jax.tree_util.tree_map(jnp.asarray, start)
        gd = ne.simulate(problem, ne.GD(RATE), params, STEPS, observe=observe, every=100)
        runs = jax.vmap(
            lambda key, params=params: ne.simulate(problem, sgd, params, STEPS, key=key, observe=observe, every=100)
        )(jax.random.split(jax.random.fold_in(keys[2], number), RUNS))
        label = dict(zip(("sgd", "gd"), ("SGD, same starts", "gradient descent"), strict=True)) if not number else {}
        place = runs.observed["params"]
        plane.plot(place["u"][0], place["w"][0], color=SGD_COLOUR, lw=1, alpha=0.7, label=label.get("sgd"))
        place = gd.observed["params"]
        plane.plot(place["u"], place["w"], color=GD_COLOUR, lw=1.5)
        plane.plot(place["u"][-1], place["w"][-1], "s", color=GD_COLOUR, ms=8, label=label.get("gd"))
        plane.plot(start["u"], start["w"], "o", color="white", mec="black", ms=6, label="start" if not number else None)
        bottom = gd.params  # the prediction is of the motion along the orbit that GD reaches
        theory = ne.orbit_flow(problem, bottom, symmetry, sgd.noise_scale, runs.time[0])
        charge.plot(
            runs.time[0],
            runs.observed["charge"].mean(axis=0),
            color=SGD_COLOUR,
            label="SGD, mean of 32 runs" if not number else None,
        )
        charge.plot(gd.time, gd.observed["charge"], color=GD_COLOUR, label="gradient descent" if not number else None)
        charge.plot(
            theory.time, theory.charge, "--", color=THEORY, label="predicted, without training" if not number else None
        )
    there = ne.find_equilibrium(problem, bottom, symmetry, sgd).params
    plane.plot(
        there["u"], there["w"], "*", color=THEORY, ms=18, mec="white", label="noise equilibrium, predicted", zorder=5
    )
    plane.set(xlabel="u", ylabel="w", xlim=(0, 4.8), ylim=(0, 4.8), title="f(x) = u·w·x: where training ends")
    plane.legend(frameon=False, loc="upper right")
    charge.axhline(0, color="0.75", lw=6, zorder=0)
    charge.set(
        xlabel="time (learning rate × steps)",
        ylabel="charge  u² − w²",
        ylim=(-21, 31),
        title="how fast the noise moves it",
    )
    charge.legend(frameon=False, loc="upper right")
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
