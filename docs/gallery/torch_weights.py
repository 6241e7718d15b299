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
# # Starting from PyTorch weights
#
# A `state_dict` is a dictionary of arrays: names to (out, in) matrices and biases. Export it once, in PyTorch, with
#
# ```text
# numpy.savez("weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
# ```
#
# and write the forward pass in JAX. Here the file is made with the names, shapes and initialisation of
# `torch.nn.Sequential(Linear(8, 16), ReLU(), Linear(16, 16), ReLU(), Linear(16, 1))`, so that this page needs no PyTorch.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import noise_equilibrium as ne

rng = np.random.default_rng(0)
shapes = {
    "0.weight": (16, 8),
    "0.bias": (16,),
    "2.weight": (16, 16),
    "2.bias": (16,),
    "4.weight": (1, 16),
    "4.bias": (1,),
}
fan_in = {"0": 8, "2": 16, "4": 16}
np.savez(
    "weights.npz",
    **{
        name: rng.uniform(-1, 1, shape).astype(np.float32) / fan_in[name[0]] ** 0.5  # the default of torch.nn.Linear
        for name, shape in shapes.items()
    },
)

# %%
with np.load("weights.npz") as file:
    params = {name: jnp.asarray(file[name]) for name in file.files}


def forward(params, x):
    for layer in ("0", "2"):
        x = jax.nn.relu(params[f"{layer}.weight"] @ x + params[f"{layer}.bias"])
    return params["4.weight"] @ x + params["4.bias"]


x = jnp.asarray(rng.normal(size=(256, 8)), jnp.float32)
data = (x, jnp.sin(x[:, :1]) + 0.3 * jnp.asarray(rng.normal(size=(256, 1)), jnp.float32))
# torch's MSELoss is the mean over outputs, here one; its weight_decay λ is 2γ.
problem = ne.Problem(lambda p, z: jnp.mean((forward(p, z[0]) - z[1]) ** 2), data, weight_decay=1e-3 / 2)
symmetries = ne.find_symmetries(problem, params)
print(symmetries)

# %%
sgd = ne.SGD(0.05, 16)
report = ne.diagnose(problem, params, sgd, symmetries)
report

# %%
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
ne.plots.diagnosis(axes, report)

# %% [markdown]
# And back: the balanced weights under the same names, to load with `load_state_dict`.

# %%
there = ne.find_equilibrium(problem, params, symmetries, sgd)
np.savez("balanced.npz", **{name: np.asarray(value) for name, value in there.params.items()})
batched = jax.vmap(forward, (None, 0))
print("largest change of an output:", float(jnp.max(jnp.abs(batched(there.params, x) - batched(params, x)))))
