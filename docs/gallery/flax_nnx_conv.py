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
# %pip install "noise_equilibrium @ git+<repository>" flax scikit-learn

# %% [markdown]
# # Flax NNX: a convolutional network, its channels and its dense layer
#
# A channel of a ReLU convolution can be scaled up and, after flattening, the rows of the dense layer that read it scaled down:
# a leg that is a part of an axis.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from flax import nnx
from sklearn.datasets import load_digits

import noise_equilibrium as ne


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(4 * 4 * 6, 10, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.conv(image.reshape(8, 8, 1)))
        x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return self.dense(x.reshape(-1))


digits = load_digits()
images = jnp.asarray(digits.images[:256] / 16, jnp.float32)
labels = jax.nn.one_hot(digits.target[:256], 10)
graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)


def loss(params, sample):
    image, label = sample
    return -jnp.sum(label * jax.nn.log_softmax(nnx.merge(graph, params, rest)(image)))


problem, sgd = ne.Problem(loss, (images, labels)), ne.SGD(0.1, 8)
symmetries = ne.find_symmetries(problem, params)
print(symmetries.reason())

# %%
there = ne.find_equilibrium(problem, params, symmetries, sgd)
before, after = (symmetries[0].charge(p) for p in (params, there.params))
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(jnp.arange(6) - 0.2, before, 0.4, label="at initialisation")
axes.bar(jnp.arange(6) + 0.2, after, 0.4, label="at the noise equilibrium")
axes.set(xlabel="channel", ylabel="charge")
axes.legend()
