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
# # Haiku's way: a dictionary of dictionaries, and a norm that grows for ever
#
# Parameters as Haiku keeps them: `{"layer": {"w": …, "b": …}}`, and a pure function that applies them. With Haiku itself,
# `params = transformed.init(key, x)` and `transformed.apply(params, None, x)` take the place of the two functions here.
# The hidden layer is normalised, so the loss does not know the scale of the weights before it: noise makes their norm grow
# as time^¼, unless weight decay holds it (Appendix A.1).

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 5)


def init(key):
    one, two = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(one, (5, 12)) / 5**0.5},
        "out": {"w": jax.random.normal(two, (12, 2)) / 12**0.5, "b": jnp.zeros(2)},
    }


def apply(params, x):
    h = x @ params["hidden"]["w"]
    h = h / jnp.linalg.norm(h)
    return jax.nn.relu(h) @ params["out"]["w"] + params["out"]["b"]


x = jax.random.normal(keys[0], (256, 5))
data = (x, jnp.sin(x[:, :2]) + 0.5 * jax.random.normal(keys[1], (256, 2)))


def loss(params, sample):
    return jnp.sum((apply(params, sample[0]) - sample[1]) ** 2)


params = init(keys[2])
free, held = ne.Problem(loss, data), ne.Problem(loss, data, weight_decay=2e-3)
print(ne.find_symmetries(free, params))
norm = ne.Symmetry([ne.Leg(lambda p: p["hidden"]["w"], None, 1)], "scalar")
ne.check_symmetry(free, params, norm)

# %%
sgd = ne.SGD(0.1, 4)
size = {"norm": lambda p: jnp.linalg.norm(p["hidden"]["w"])}
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
for problem, label in ((free, "no decay"), (held, "weight decay")):
    run = ne.simulate(problem, sgd, params, 40_000, key=keys[3], observe=size, every=200)
    axes.plot(run.time, run.observed["norm"], label=label)
    there = ne.find_equilibrium(problem, run.params, norm, sgd)
    print(label, ne.Status(int(there.status)).name, float(jnp.linalg.norm(there.params["hidden"]["w"])))
axes.axhline(jnp.linalg.norm(there.params["hidden"]["w"]), ls="--", color="black", label="predicted at rest")
axes.set(xlabel="time", ylabel="norm of the hidden weights")
axes.legend()
