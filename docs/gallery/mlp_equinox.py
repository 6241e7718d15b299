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
# # Diagnose an Equinox network
#
# A ReLU network on handwritten digits, as you would build it. Nothing is declared: the symmetries are found.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 2)
images, labels = (jnp.asarray(part, jnp.float32) for part in ne.data.digits())
model = eqx.nn.MLP(images.shape[1], 10, 16, depth=2, activation=jax.nn.relu, key=keys[0])


def loss(model, sample):
    image, label = sample
    return jnp.sum((model(image) - label) ** 2)


problem = ne.Problem(loss, (images, labels), weight_decay=1e-4)
sgd = ne.SGD(learning_rate=0.02, batch_size=4)
symmetries = ne.find_symmetries(problem, model)
print(symmetries.reason())

# %% [markdown]
# One row for each symmetry: the charge, how fast noise and decay move it, and how far it is from balance.

# %%
report = ne.diagnose(problem, model, sgd, symmetries)
report

# %%
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
ne.plots.diagnosis(axes, report)

# %% [markdown]
# Moving there does not change what the network computes:

# %%
there = ne.find_equilibrium(problem, model, symmetries, sgd)
change = jnp.max(jnp.abs(jax.vmap(there.params)(images) - jax.vmap(model)(images)))
print(f"residual {float(there.residual):.1e}, largest change of an output {float(change):.1e}")
