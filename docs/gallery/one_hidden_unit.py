# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["skip-execution"]
# # In a hosted notebook, run this first, with the address of the repository that you read this in:
# %pip install "noise_equilibrium @ git+<repository>"

# %% [markdown]
# # The orbit of one hidden unit
#
# The smallest network with a symmetry: f(x) = u·w·x. Rescaling u by c and w by 1/c changes nothing in the loss, so the
# minima u·w = 2 are one curve. Gradient descent stops where it first meets the curve; the noise of SGD moves on along it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (1000,))
data = (x, 2 * x + jax.random.normal(keys[1], (1000,)))


def loss(params, sample):
    x, y = sample
    return (params["u"] * params["w"] * x - y) ** 2


problem = ne.Problem(loss, data)
symmetry = ne.rescaling(lambda p: p["u"], lambda p: p["w"])
start = {"u": jnp.array(4.0), "w": jnp.array(0.5)}
sgd = ne.SGD(learning_rate=0.01, batch_size=2)

# %% [markdown]
# Where it will end, and how the charge u² − w² goes there, before any step is taken:

# %%
there = ne.find_equilibrium(problem, start, symmetry, sgd)
print({name: float(value) for name, value in there.params.items()}, ne.Status(int(there.status)).name)
flow = ne.orbit_flow(problem, start, symmetry, sgd.noise_scale, jnp.linspace(0, 150, 50))

# %%
observe = {"charge": symmetry.charge, "params": lambda p: p}
runs = jax.vmap(lambda key: ne.simulate(problem, sgd, start, 15_000, key=key, observe=observe, every=100))(
    jax.random.split(keys[2], 16)
)
gd = ne.simulate(problem, ne.GD(0.01), start, 15_000, observe=observe, every=100)

figure, (plane, charge) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
u = jnp.linspace(0.45, 4.5, 200)
plane.plot(u, 2 / u, color="0.8", lw=6, label="minima")
path = runs.observed["params"]
plane.plot(path["u"][0], path["w"][0], lw=1, label="SGD, one run")
plane.plot(gd.params["u"], gd.params["w"], "s", label="gradient descent")
plane.plot(there.params["u"], there.params["w"], "k*", ms=15, label="noise equilibrium")
plane.set(xlabel="u", ylabel="w")
plane.legend()
charge.plot(runs.time[0], runs.observed["charge"].mean(0), label="SGD, mean of 16 runs")
charge.plot(gd.time, gd.observed["charge"], label="gradient descent")
charge.plot(flow.time, flow.charge, "k--", label="predicted")
charge.set(xlabel="time", ylabel="u² − w²")
charge.legend()
