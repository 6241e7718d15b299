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
# # Low-rank adapters: balanced, or not
#
# An adapter W₀ + B·A has the symmetry B → B P, A → P⁻¹ A. The usual start is B = 0 and random A: as unbalanced as can be.
# Where does the noise of fine-tuning take it, and what does moving it there change?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import noise_equilibrium as ne

keys = jax.random.split(jax.random.key(0), 6)
d, rank = 12, 3
frozen = jax.random.normal(keys[0], (d, d)) / d**0.5
change = jax.random.normal(keys[1], (d, 2)) @ jax.random.normal(keys[2], (2, d)) / d
x = jax.random.normal(keys[3], (256, d))
data = (x, x @ (frozen + change).T + 0.5 * jax.random.normal(keys[4], (256, d)))
adapter = {"A": jax.random.normal(keys[5], (rank, d)) / d**0.5, "B": jnp.zeros((d, rank))}


def loss(adapter, sample):
    x, y = sample
    return jnp.sum((frozen @ x + adapter["B"] @ (adapter["A"] @ x) - y) ** 2)


problem, sgd = ne.Problem(loss, data), ne.SGD(0.005, 4)
symmetries = ne.find_symmetries(problem, adapter)
print(symmetries)

# %%
(rotation,) = symmetries
observe = {
    "imbalance": lambda p: jnp.linalg.norm(rotation.charge(p)),
    "conditioning": lambda p: jnp.linalg.cond(p["A"] @ p["A"].T),
}
run = ne.simulate(problem, sgd, adapter, 50_000, key=keys[0], observe=observe, every=200)
there = ne.find_equilibrium(problem, run.params, rotation, sgd)
norm = ne.move_along(problem, run.params, rotation, "norm")
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.plot(run.time, run.observed["imbalance"], label="SGD from B = 0")
axes.axhline(observe["imbalance"](there.params), ls="--", color="black", label="noise equilibrium of where it ended")
axes.axhline(observe["imbalance"](norm.params), ls=":", color="gray", label="least norm")
axes.set(xlabel="time", ylabel="‖BᵀB − AAᵀ‖")
axes.legend()
conditioning = run.observed["conditioning"]
print(f"condition number of AAᵀ: {float(conditioning[0]):.1f} → {float(conditioning[-1]):.1f}")
