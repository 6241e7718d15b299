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
# %pip install "noise_equilibrium @ git+<repository>" dask distributed cloudpickle

# %% [markdown]
# # A sweep on a cluster
#
# The same call runs on one core, on all, or on the workers of a dask cluster; results and random numbers are the same, and a
# store on disk is resumed where it stopped. Here the cluster is two processes of this machine.

# %%
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from dask.distributed import Client, LocalCluster

import noise_equilibrium as ne

linear = ne.models.two_layer_linear
keys = jax.random.split(jax.random.key(0), 3)
teacher = ne.data.LinearTeacher(jnp.eye(3), jnp.eye(3), 0.5 * jnp.eye(3))
problem = ne.Problem(linear.loss, ne.Stream(teacher))
start = linear.Params(1.6 * jnp.eye(3), jnp.eye(3) / 1.6)


def study(key, *, rate, batch):
    sgd = ne.SGD(rate, batch)
    charge = {"charge": lambda p: jnp.trace(linear.symmetry.charge(p))}
    return ne.simulate(problem, sgd, start, 2000, key=key, observe=charge, every=100)


axes_of_the_sweep = {"rate": [0.005, 0.01, 0.02], "batch": [1, 4]}
with (
    tempfile.TemporaryDirectory() as folder,
    LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
    Client(cluster) as client,
):
    results = ne.sweep(
        study,
        axes_of_the_sweep,
        seeds=16,
        key=keys[2],
        store=f"{folder}/store",
        executor=client.get_executor(),
        progress=False,
    ).load()
print(results)

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for axes, batch in zip(panels, (1, 4), strict=True):
    for rate in results.rate.values:
        here = results.sel(rate=rate, batch=batch)
        axes.plot(here.step, here.charge.mean("seed"), label=f"η = {rate:g}")
    axes.set(title=f"batches of {batch}", xlabel="step", ylabel="Tr Q, mean of 16 seeds", yscale="log")
    axes.legend()
