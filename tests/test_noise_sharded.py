"""Data spread over four devices: the same moments, and no device ever gathers the samples of the others.

In a process of its own, because the number of devices is settled when JAX starts.
"""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
import re
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import noise_equilibrium as ne
from noise_equilibrium._noise import _chunks, bound_moments

assert len(jax.devices()) == 4
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples"))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
rng = np.random.default_rng(0)
params = {"u": rng.normal(size=(3, 5)), "w": rng.normal(size=(5, 7))}
data = (rng.normal(size=(64, 7)), rng.normal(size=(64, 3)))


def plain(p, z):
    return jnp.sum((p["u"] @ jnp.tanh(p["w"] @ z[0]) - z[1]) ** 2)


def tapped(p, z):
    return jnp.sum((p["u"] @ jnp.tanh(jnp.sin(p["w"]) @ z[0]) - z[1]) ** 2)


symmetries = [ne.double_rotation(lambda p: p["u"], lambda p: p["w"]), ne.scaling()]
bound = tuple(s.bind(params) for s in symmetries)
for loss, chunk_bytes in ((plain, 2**26), (tapped, 2**26), (tapped, 2**13)):
    _chunks.CHUNK_BYTES = chunk_bytes
    fresh = lambda p, z, loss=loss: loss(p, z)
    alone = ne.noise_moments(ne.Problem(fresh, data), params, symmetries)
    sharded = jax.tree.map(lambda x: jax.device_put(x, spread), data)
    there = jax.tree.map(lambda x: jax.device_put(x, everywhere), params)
    problem = ne.Problem(fresh, sharded)
    together = ne.noise_moments(problem, there, symmetries)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11 * np.max(np.abs(theirs)))
    chunk = ne.explain(problem, there, symmetries).chunk
    program = jax.jit(lambda d, p: bound_moments(ne.Problem(fresh, d), p, bound)).lower(sharded, there).compile()
    text = program.as_text()
    moved = re.findall(r"(all-gather|all-to-all|collective-permute)[^=]*\\(", text)
    assert not moved, moved
    assert "all-reduce" in text
    print("ok", chunk)
"""


def test_sharded_data_give_the_same_moments_without_being_gathered():
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root, timeout=300)
    assert result.returncode == 0, result.stderr
    chunks = [int(line.split()[1]) for line in result.stdout.splitlines()]
    assert chunks[:2] == [64, 64]
    assert chunks[2] < 64  # the last one goes through the loop over chunks
