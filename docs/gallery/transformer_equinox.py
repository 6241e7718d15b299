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
# # A transformer block: heads that noise balances
#
# Queries and keys of a head may be multiplied by any matrix and its inverse, values and outputs too. So each head has d²
# charges, and the noise of SGD drives all of them to a balance of Grams.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 6)


class Block(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.RMSNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        x = x + self.attention(x, x, x)
        return x + jax.vmap(lambda t: self.down(jax.nn.relu(self.up(self.norm(t)))))(x)


model = Block(
    eqx.nn.MultiheadAttention(2, 12, key=keys[0]),
    eqx.nn.RMSNorm(12),
    eqx.nn.Linear(12, 24, key=keys[1]),
    eqx.nn.Linear(24, 12, key=keys[2]),
)
x = jax.random.normal(keys[3], (64, 8, 12))
data = (x, jnp.roll(x, 1, axis=1) + 0.5 * jax.random.normal(keys[4], x.shape))


def loss(model, sample):
    return jnp.mean(jnp.sum((model(sample[0]) - sample[1]) ** 2, axis=-1))


problem, sgd = ne.Problem(loss, data), ne.SGD(0.02, 4)
symmetries = ne.find_symmetries(problem, model)
for one in symmetries:
    print(one)

# %% [markdown]
# The equilibrium of the noise, of all of them at once. For the heads it is M₊ = M₋: queries and keys get the same Gram of
# gradient noise. (With `sgd` in the place of its noise scale the mean gradient would count too, as it does in finite steps.)

# %%
there = ne.find_equilibrium(problem, model, symmetries, sgd.noise_scale)
heads = next(one for one in symmetries if "query" in str(one) and one.algebra == "symmetric")
print(ne.Status(int(there.status)).name, f"residual {float(there.residual):.1e}")

figure, rows = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
for row, params, when in zip(rows, (model, there.params), ("before", "balanced"), strict=True):
    moments = ne.noise_moments(problem, params, heads)
    for axes, gram, side in zip(row, (moments.noise_plus[0], moments.noise_minus[0]), ("queries", "keys"), strict=True):
        size = jnp.abs(gram).max()
        axes.imshow(gram, cmap="RdBu_r", vmin=-size, vmax=size)
        axes.set(title=f"noise of {side}, {when}", xticks=[], yticks=[])
