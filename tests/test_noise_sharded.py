"""Data spread over four devices: the same numbers, and no device ever gathers the samples of the others.

In a process of its own, because the number of devices is settled when JAX starts.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
import contextlib, re, sys, warnings
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
warnings.simplefilter("error")
import noise_equilibrium as ne
from noise_equilibrium._noise import measured_moments
from noise_equilibrium._per_sample import _chunks

assert len(jax.devices()) == 4
AUTOMATIC = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
EXPLICIT = jax.make_mesh((4,), ("data",))
assert EXPLICIT.axis_types == (AxisType.Explicit,)
rng = np.random.default_rng(0)
PARAMS = {"u": rng.normal(size=(4, 8)), "w": rng.normal(size=(8, 6))}
DATA = (rng.normal(size=(64, 6)), rng.normal(size=(64, 4)))
KEY = jax.random.key(1)


def put(tree, mesh, *spec):
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P(*spec))), tree)


def linear(p, z):
    return jnp.sum((p["u"] @ (p["w"] @ z[0]) - z[1]) ** 2)


def plain(p, z):
    return jnp.sum((p["u"] @ jnp.tanh(p["w"] @ z[0]) - z[1]) ** 2)


def tapped(p, z):
    return jnp.sum((p["u"] @ jnp.tanh(jnp.sin(p["w"]) @ z[0]) - z[1]) ** 2)


def looked_up(p, z):  # a look-up by a number of the sample, which is refused along an explicit axis
    return -jax.nn.log_softmax(p["u"] @ jnp.tanh(p["w"] @ z[0]))[jnp.argmax(z[1])]


up, down = (lambda p: p["u"]), (lambda p: p["w"])
rotation, scaling = ne.double_rotation(up, down), ne.scaling()
neurons = ne.neuron_rescaling((down, 0), (up, 1))
symmetric = rng.normal(size=(80, 80))
matrix = ne.exponential_symmetry(symmetric + symmetric.T)
matrix_free = ne.exponential_symmetry(lambda v: 2 * v)


def redrawn(data):
    return ne.Redrawn(data, lambda key, z: (z[0], z[1] + 0.1 * jax.random.normal(key, z[1].shape)))


def run(dynamics, data, p):
    finished = ne.simulate(ne.Problem(linear, data), dynamics, p, 3, key=KEY, observe={"Q": rotation.charge})
    return finished.params, finished.observed


def partial(data, p):
    parts = [ne.partial_moments(ne.Problem(plain, data), p, [rotation, matrix]) for _ in range(2)]
    return sum(parts).moments(unbiased=True)


def estimated(data, p):
    found = ne.estimate_moments(ne.Problem(plain, data), p, rotation, batches=7)
    return found.value, found.standard_error


# Every consumer of the data, as a function of data and parameters.
CONSUMERS = {
    "moments": lambda d, p: ne.noise_moments(ne.Problem(plain, d), p, [rotation, scaling, neurons, matrix]),
    "moments, looked up": lambda d, p: ne.noise_moments(ne.Problem(looked_up, d), p, rotation),
    "trace": lambda d, p: [ne.noise_trace(ne.Problem(tapped, d), p, s) for s in (None, rotation, matrix_free)],
    "rates": lambda d, p: [ne.charge_rates(ne.Problem(plain, d), p, s) for s in (rotation, matrix_free)],
    "covariance": lambda d, p: ne.gradient_covariance(ne.Problem(plain, d), p),
    "sample": lambda d, p: ne.sample_noise(ne.Problem(plain, d), p, KEY),
    "partial": partial,
    "estimated": estimated,
    "redrawn": lambda d, p: ne.redrawn_moments(ne.Problem(plain, redrawn(d)), p, rotation, key=KEY, redraws=3),
    "sampled": lambda d, p: ne.Problem(plain, redrawn(d)).sampled(KEY, 70).risk(p),
    "risk": lambda d, p: ne.Problem(looked_up, d, 0.1).risk(p),
    "flow": lambda d, p: ne.noether_flow(ne.Problem(linear, d, 0.1), p, rotation, ne.SGD(0.1, 4)),
    "relaxation": lambda d, p: ne.relaxation_rates(ne.Problem(linear, d, 0.1), p, rotation, 0.1),
    "violation": lambda d, p: ne.symmetry_violation(ne.Problem(tapped, d), p, rotation),
    "equilibrium": lambda d, p: ne.find_equilibrium(ne.Problem(linear, d), p, rotation, 0.1).params,
    "GD": lambda d, p: run(ne.GD(1e-3), d, p),
    "SGD": lambda d, p: run(ne.SGD(1e-3, 4), d, p),
    "epochs": lambda d, p: run(ne.SGD(1e-3, 4, replacement="epoch"), d, p),
    "SGD, redrawn": lambda d, p: run(ne.SGD(1e-3, 4), redrawn(d), p),
    "SDE": lambda d, p: run(ne.SDE(1e-3, 4), d, p),
}


def check(name, ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        error = np.max(np.abs(np.asarray(one) - np.asarray(other)), initial=0)
        assert error <= 1e-11 * np.max(np.abs(other), initial=0), (name, error)


def movements(program):
    return re.findall(r"(all-gather|all-to-all|collective-permute)[^=]*\\(", program.as_text())
"""

# The same with automatic axes, as ever, and with explicit ones.
MOMENTS = """
symmetries = [rotation, scaling, neurons]
bound = tuple(s.bind(PARAMS) for s in symmetries)
for mesh in (AUTOMATIC, EXPLICIT):
    for loss, chunk_bytes in ((plain, 2**26), (tapped, 2**26), (tapped, 2**13)):
        _chunks.CHUNK_BYTES = chunk_bytes
        fresh = lambda p, z, loss=loss: loss(p, z)
        alone = ne.noise_moments(ne.Problem(fresh, DATA), PARAMS, symmetries)
        there, sharded = put(PARAMS, mesh), put(DATA, mesh, "data")
        problem = ne.Problem(fresh, sharded)
        check("moments", ne.noise_moments(problem, there, symmetries), alone)
        chunk = ne.explain(problem, there, symmetries).chunk
        program = jax.jit(lambda d, p: measured_moments(ne.Problem(fresh, d), p, bound)).lower(sharded, there).compile()
        assert not movements(program), (mesh, chunk, movements(program))
        assert "all-reduce" in program.as_text()
        print("ok", chunk)
"""

# What else must not gather the samples, in chunks where there are chunks.
NO_GATHER = """
kept = ["moments", "moments, looked up", "trace", "rates", "covariance", "sample", "risk", "flow", "GD", "SGD", "SDE"]
sharded, there = put(DATA, EXPLICIT, "data"), put(PARAMS, EXPLICIT)
for chunk_bytes in (2**26, 2**15):
    _chunks.CHUNK_BYTES = chunk_bytes
    jax.clear_caches()
    for name in kept if chunk_bytes == 2**26 else ["moments", "trace", "rates"]:
        consumer = jax.jit(lambda d, p, name=name: jax.tree.leaves(CONSUMERS[name](d, p)))
        program = consumer.lower(sharded, there).compile()
        assert not movements(program), (name, movements(program))
        check(name, program(sharded, there), CONSUMERS[name](DATA, PARAMS))
rates = ne.charge_rates(ne.Problem(plain, sharded), there, rotation)
assert jax.typeof(rates).sharding.spec == P("data", None, None), jax.typeof(rates)  # where the samples are
moments = ne.noise_moments(ne.Problem(plain, sharded), there, rotation)
assert jax.typeof(moments.noise_plus).sharding.spec == P(None, None)
"""

# Every consumer, in a context or none, inside of a `jit` or not.
EVERYWHERE = """
for name, consumer in CONSUMERS.items():
    alone = consumer(DATA, PARAMS)
    compiled = jax.jit(lambda d, p, consumer=consumer: jax.tree.leaves(consumer(d, p)))
    for how in sys.argv[1:]:
        with jax.set_mesh(EXPLICIT) if "set_mesh" in how else contextlib.nullcontext():
            function = compiled if "jit" in how else consumer
            check((name, how), function(put(DATA, EXPLICIT, "data"), put(PARAMS, EXPLICIT)), alone)
"""

# Derivatives; outside of a `jit` and a context JAX itself refuses them along explicit axes.
DERIVATIVES = """
def total(loss, d, p):
    return jnp.sum(ne.noise_moments(ne.Problem(loss, d), p, rotation).noise_plus ** 2)


with jax.set_mesh(EXPLICIT):
    for loss in (plain, tapped):
        gradient = jax.grad(lambda d, p, loss=loss: total(loss, d, p), argnums=(0, 1))
        ours = gradient(put(DATA, EXPLICIT, "data"), put(PARAMS, EXPLICIT))
        check("gradient", ours, gradient(DATA, PARAMS))
        assert jax.typeof(ours[0][0]).sharding.spec == P("data", None)
"""

# Parameters that are sharded too, along an axis of their own or along that of the data.
PARAMETERS = """
both = jax.make_mesh((2, 2), ("data", "model"))
names = ["moments", "moments, looked up", "rates", "covariance", "sample", "risk", "equilibrium", "GD", "SGD", "SDE"]
consumers = {name: CONSUMERS[name] for name in names} | {
    "charge": lambda d, p: [one.charge(p) for one in (rotation, scaling, matrix, matrix_free)],
    "action": lambda d, p: [rotation.act(p, 0.1 * jnp.eye(8)), matrix.act(p, 0.01), rotation.generator(p, jnp.eye(8))],
    "flat": lambda d, p: ne.flatten(p)[0],
}
some = ["moments", "covariance", "SGD", "charge", "flat"]
for name, consumer in consumers.items():
    alone = consumer(DATA, PARAMS)
    for mesh, spec in ((both, (None, "model")), (EXPLICIT, ("data",)))[: 1 + (name in some)]:
        check((name, spec), consumer(put(DATA, mesh, "data"), put(PARAMS, mesh, *spec)), alone)
placed = ne.Problem(tapped, put(DATA, both, "data")), put(PARAMS, both, None, "model")
assert ne.explain(*placed, rotation).legs == ne.explain(ne.Problem(tapped, DATA), PARAMS, rotation).legs
moved = ne.simulate(ne.Problem(linear, put(DATA, both, "data")), ne.GD(1e-3), put(PARAMS, both, "model"), 2).params
assert jax.typeof(moved["u"]).sharding.spec == P(None, None)  # results are replicated
"""

CLOSED_OVER = """
problem = lambda loss: ne.Problem(loss, put(DATA, EXPLICIT, "data"))
there, constant = put(PARAMS, EXPLICIT), put(rng.normal(size=(6, 6)), EXPLICIT)
scaled = lambda c, p, z: plain(p, (c @ z[0], z[1]))
alone = ne.Problem(lambda p, z: scaled(np.asarray(constant), p, z), DATA).risk(PARAMS)
check("leaf", problem(jax.tree_util.Partial(scaled, constant)).risk(there), alone)
check("no mesh", problem(lambda p, z: scaled(np.asarray(constant), p, z)).risk(there), alone)
try:
    problem(lambda p, z: scaled(constant, p, z)).risk(there)
except ValueError as error:
    (note,) = [note for note in error.__notes__ if note.startswith("Data or parameters are sharded along 'data'")]
    assert "as a leaf of a callable module" in note
else:
    raise AssertionError("an array on the mesh was closed over")
"""


def run(part: str, *arguments: str) -> str:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", PROGRAM + part, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_sharded_data_give_the_same_moments_without_being_gathered():
    chunks = [int(line.split()[1]) for line in run(MOMENTS).splitlines()]
    assert len(chunks) == 6
    for first, second, third in (chunks[:3], chunks[3:]):
        assert first == second == 64
        assert third < 64  # the last one goes through the loop over chunks


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [("outside", "jit in set_mesh"), ("set_mesh", "jit")],
    ids=" and ".join,
)
def test_every_consumer_takes_data_sharded_along_an_explicit_axis(how):
    run(EVERYWHERE, *how)


@pytest.mark.parametrize(
    "part",
    [
        NO_GATHER,
        pytest.param(DERIVATIVES, marks=pytest.mark.slow),
        pytest.param(PARAMETERS, marks=pytest.mark.slow),
        CLOSED_OVER,
    ],
    ids=["no-gather", "derivatives", "parameters", "closure"],
)
def test_along_explicit_axes(part):
    run(part)
