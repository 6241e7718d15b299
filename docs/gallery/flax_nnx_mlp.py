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
# %pip install "noise_equilibrium @ git+<repository>" flax

# %% [markdown]
# # Flax NNX: split, and merge inside of the loss
#
# An NNX module is a graph; `nnx.split` takes its parameters out, `nnx.merge` puts them back.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from flax import nnx

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 3)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x))))


graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
x = jax.random.normal(keys[0], (128, 6))
data = (x, jnp.tanh(x[:, :3]) + 0.3 * jax.random.normal(keys[1], (128, 3)))


def loss(params, sample):
    return jnp.sum((nnx.merge(graph, params, rest)(sample[0]) - sample[1]) ** 2)


problem = ne.Problem(loss, data, weight_decay=1e-3)
symmetries = ne.find_symmetries(problem, params)
print(symmetries.reason())

# %% [markdown]
# The gains and biases of the normalisation go with the next matrix; the layer before it is scale-invariant, but for the ε of
# the normalisation, which is why it may be listed as *broken*, with how much.

# %%
report = ne.diagnose(problem, params, ne.SGD(0.05, 8), symmetries)
report

# %%
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
ne.plots.diagnosis(axes, report)
