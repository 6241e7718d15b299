"""Eight devices, and two processes: data, parameters or both spread over them give the same numbers, and what travels.

In processes of their own, because the number of devices is settled when JAX starts.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NETWORK = """
import os, sys
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[1]} --xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"
import re, warnings
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
warnings.simplefilter("error")
import noise_equilibrium as ne

# No two lengths are alike, nor is any that of the samples of one device, so that a shape says what it is.
SAMPLES, INPUTS, WIDTH, OUTPUTS = 40, 16, 32, 24
rng = np.random.default_rng(0)
PARAMS = {
    "w": rng.normal(size=(WIDTH, INPUTS)) / 4, "b": rng.normal(size=WIDTH) / 9,
    "v": rng.normal(size=(WIDTH, WIDTH)) / 5, "c": rng.normal(size=WIDTH) / 9,
    "u": rng.normal(size=(OUTPUTS, WIDTH)) / 5,
}
DATA = rng.normal(size=(SAMPLES, INPUTS)), rng.normal(size=(SAMPLES, OUTPUTS))


def loss(p, z):
    h = jax.nn.relu(p["w"] @ z[0] + p["b"])
    return jnp.sum((p["u"] @ jax.nn.relu(p["v"] @ h + p["c"]) - z[1]) ** 2)


def leg(name, axis):
    return (lambda p: p[name]), axis


NEURONS = [
    ne.neuron_rescaling([leg("w", 0), leg("b", 0)], leg("v", 1)),
    ne.neuron_rescaling([leg("v", 0), leg("c", 0)], leg("u", 1)),
]
SGD, SDE = ne.SGD(1e-3, 4), ne.SDE(1e-3, 4)
CALLS = {
    "moments": lambda d, p: ne.noise_moments(ne.Problem(loss, d), p, NEURONS),
    "SDE": lambda d, p: ne.simulate(ne.Problem(loss, d), SDE, p, 2, key=jax.random.key(0), every=2).params,
    "joint": lambda d, p: ne.find_equilibrium(ne.Problem(loss, d, 1e-2), p, NEURONS, SGD).params,
}


def check(name, ours, alone):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
        error = np.max(np.abs(np.asarray(one) - np.asarray(other)))
        assert error <= 1e-12 * np.max(np.abs(other)), (name, error)
"""

SPREAD = """
SPLIT = {"w": P("model"), "b": P("model"), "v": P(None, "model")}  # the neurons of the first layer
LAYOUTS = {
    "data": ((8,), ("data",), dict.fromkeys(PARAMS, P())),
    "shards": ((8,), ("data",), dict.fromkeys(PARAMS, P("data"))),  # as FSDP: parameters along the axis of the data
    "tensor": ((2, 4), ("data", "model"), dict.fromkeys(PARAMS, P()) | SPLIT),
}
SHAPES = {value.shape for value in PARAMS.values()}
RESULTS = {(1, WIDTH)}  # what belongs to the neurons of a layer


def moved(program):
    # Everything that devices send to each other as it is, and not as a sum.
    sending = re.compile(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\\(")
    found = [match.group(1) for line in program.as_text().splitlines() if (match := sending.search(line))]
    return {tuple(map(int, shape.split(","))) for result in found for shape in re.findall(r"\\[([\\d,]+)\\]", result)}


call = sys.argv[2]
alone = CALLS[call](DATA, PARAMS)
for kind in (AxisType.Auto, AxisType.Explicit)[: 1 + (call != "joint")]:  # which takes a while to compile
    for layout, (shape, axes, specs) in LAYOUTS.items():
        mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
        params = {name: jax.device_put(value, NamedSharding(mesh, specs[name])) for name, value in PARAMS.items()}
        data = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P("data"))), DATA)
        program = jax.jit(lambda d, p: jax.tree.leaves(CALLS[call](d, p))).lower(data, params).compile()
        check((call, kind, layout), program(data, params), alone)
        text, sent = program.as_text(), moved(program)
        assert "all-reduce" in text, (call, kind, layout)  # sums over samples
        # Nothing with the samples, all of them or those of one device, and so no activation.
        lengths = {length for shape in sent for length in shape}
        assert not {SAMPLES, SAMPLES // 2, SAMPLES // 8} & lengths, (call, kind, layout, sent)
        if call != "joint":  # where parts of what belongs to the neurons change places too
            assert sent <= SHAPES | RESULTS, (call, kind, layout, sent)
        if layout == "data":
            assert not sent, (call, kind, sent)
        if layout == "shards":
            assert sent >= {(WIDTH, INPUTS), (OUTPUTS, WIDTH)}, (call, kind, sent)  # the weights, for the time of a use
        if layout == "tensor" and kind == AxisType.Auto and call != "joint":
            assert not sent, (call, sent)  # each device keeps its neurons
        if layout == "tensor" and call == "joint":
            assert (WIDTH, INPUTS) not in sent and (OUTPUTS, WIDTH) not in sent, sent
"""

PROCESSES = """
jax.config.update("jax_cpu_collectives_implementation", "gloo")
alone = {}
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]), initialization_timeout=60)
assert jax.process_count() == 2 and len(jax.devices()) == 4 and len(jax.local_devices()) == 2
with jax.default_device(jax.local_devices()[0]):
    for name, call in CALLS.items():
        alone[name] = jax.tree.map(np.asarray, call(DATA, PARAMS))
place, half = jax.process_index(), SAMPLES // 2
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    # Each process has its own half of the samples, and no other.
    mine = jax.tree.map(lambda x: x[place * half : (place + 1) * half], DATA)
    data = jax.tree.map(lambda x: jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), x), mine)
    params = jax.tree.map(lambda x: jax.make_array_from_process_local_data(NamedSharding(mesh, P()), x), PARAMS)
    assert not data[0].is_fully_addressable
    for name, call in list(CALLS.items())[: 3 if kind == AxisType.Explicit else 1]:
        check((name, kind), call(data, params), alone[name])
print("the same numbers")
"""


def command(part: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", NETWORK + part, *arguments]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["moments", "SDE", "joint"])
def test_data_and_parameters_spread_over_eight_devices(call):
    done = subprocess.run(command(SPREAD, "8", call), capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_with_half_of_the_data_each_find_the_same():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            command(PROCESSES, "2", address, str(place)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for place in range(2)
    ]
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (out, err) in zip(started, said, strict=True):
        assert process.returncode == 0, err
        assert out.strip().endswith("the same numbers")
