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
# # Flax linen: attention, and moving to the balance during training
#
# The variables of a linen module are a dictionary: a pytree of arrays, which is all that is needed.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 4)
module = nn.MultiHeadDotProductAttention(num_heads=2, use_bias=False)
x = jax.random.normal(keys[0], (64, 6, 8))
data = (x, jnp.cumsum(x, axis=1) / 6 + 0.2 * jax.random.normal(keys[1], x.shape))
params = module.init(keys[2], x[0])


def loss(params, sample):
    return jnp.mean(jnp.sum((module.apply(params, sample[0]) - sample[1]) ** 2, axis=-1))


problem, sgd = ne.Problem(loss, data), ne.SGD(0.05, 8)
symmetries = ne.find_symmetries(problem, params)
for one in symmetries:
    print(one)

# %% [markdown]
# `rebalance` is a link of an optax chain. It moves the parameters along the orbits every ten steps; the function that the
# network computes does not change, so the loss is that of training without it until the paths of SGD part.


# %%
def train(transformation, steps=200):
    state, theta, losses = transformation.init(params), params, []

    @jax.jit
    def step(theta, state, key):
        rows = jax.random.choice(key, 64, (8,))
        batch = jax.tree.map(lambda part: part[rows], data)
        value, gradient = jax.value_and_grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(theta)
        updates, state = transformation.update(gradient, state, theta, data=data)
        return optax.apply_updates(theta, updates), state, value

    for key in jax.random.split(keys[3], steps):
        theta, state, value = step(theta, state, key)
        losses.append(float(value))
    return theta, losses


plain, plain_losses = train(optax.with_extra_args_support(optax.sgd(0.05)))
moved, moved_losses = train(optax.chain(optax.sgd(0.05), ne.rebalance(loss, list(symmetries), every=10)))
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(plain_losses, label="SGD")
axes.plot(moved_losses, label="SGD, rebalanced every 10 steps")
axes.set(xlabel="step", ylabel="loss of the batch", yscale="log")
axes.legend()
for name, theta in (("SGD", plain), ("rebalanced", moved)):
    moments = ne.noise_moments(problem, theta, symmetries[0])
    gap = jnp.linalg.norm(moments.noise_plus - moments.noise_minus)
    print(name, float(gap / jnp.linalg.norm(moments.noise_plus + moments.noise_minus)))
