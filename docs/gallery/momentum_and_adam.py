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
# # Momentum and Adam balance too, elsewhere
#
# SGD ends where the noise of both layers is equal. Momentum changes the rate of approach, by an exact law; an optimiser
# with one step size for each tensor, as Adam nearly is, ends where the noise *per entry* is equal. For a linear network
# 12 → 4 with isotropic data the ratio ‖W‖²/‖U‖² is 3 for SGD, and 9 for such an optimiser.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import noise_equilibrium as ne

linear = ne.models.two_layer_linear
keys = jax.random.split(jax.random.key(0), 3)
teacher = ne.data.LinearTeacher(jnp.eye(4, 12), jnp.eye(12), 0.5 * jnp.eye(4))
problem = ne.Problem(linear.loss, teacher.noise_matched())
start = linear.init(keys[1], 12, 6, 4)


def ratio(params):
    return jnp.sum(params.down**2) / jnp.sum(params.up**2)


# %% [markdown]
# Measured with samples from the population, at every step new ones:

# %%
online = ne.Problem(linear.loss, ne.Stream(teacher))
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, dynamics, steps in (
    ("SGD", ne.SGD(0.005, 2), 20_000),
    ("momentum 0.9", ne.Momentum(0.0005, 0.9, 2), 20_000),
    ("Adam", ne.Optax(optax.adam(0.004), 2), 60_000),
):

    def one(key, dynamics=dynamics, steps=steps):
        return ne.simulate(online, dynamics, start, steps, key=key, observe={"ratio": ratio}, every=200)

    runs = jax.vmap(one)(jax.random.split(keys[2], 4))
    axes.plot(jnp.arange(runs.observed["ratio"].shape[1]) * 200, runs.observed["ratio"].mean(0), label=name)
for height in (3, 9):
    axes.axhline(height, color="0.6", ls="--", zorder=0)
axes.set(xlabel="step", ylabel="‖W‖² / ‖U‖²", yscale="log", yticks=[1, 3, 9], yticklabels=["1", "3", "9"])
axes.legend()
