"""Long runs: how far steps are counted, what the time is then, constant memory, and a run on disk."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium._dynamics._clock import Clock
from noise_equilibrium.models import two_layer_linear as linear

KEY = jax.random.key(3)
LAST = 2**31 - 1  # the most steps of a run
CHARGE = linear.symmetry.charge
OBSERVE = {"charge": CHARGE, "mean": ne.running(CHARGE, 3), "when": ne.first_time(lambda p: p.up[0, 0] > 0)}


def problem_and_params():
    return problems.linear_problem(2, 3, 2, samples=9, decay=0.05)


def moved_to(run, step):
    return eqx.tree_at(lambda t: t.state.step, run, jnp.asarray(step, jnp.int32))


# --- counting --------------------------------------------------------------------------------------------------------


def test_the_last_steps_that_can_be_counted_have_keys_and_numbers_of_their_own():
    """One step of SGD by hand for each: a schedule that knows its step, and fold_in of that number."""
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.arange(5.0))
    sgd = ne.SGD(lambda step: 1e-10 * step, 1)
    run = moved_to(ne.simulate(problem, sgd, jnp.asarray(0.0), 0, key=KEY), LAST - 3)
    end = ne.resume(problem, sgd, run, 3)
    assert end.step.tolist() == [LAST - 3, LAST - 2, LAST - 1, LAST]
    w = 0.0
    for step in range(LAST - 3, LAST):
        z = jax.random.randint(jax.random.fold_in(KEY, np.uint32(step)), (1,), 0, 5)[0]
        w = w - 1e-10 * step * (w - float(z))
    np.testing.assert_allclose(end.params, w, rtol=1e-12)


def test_a_run_of_more_steps_than_can_be_counted_is_refused():
    problem, params = problem_and_params()
    with pytest.raises(ValueError, match=r"steps is 2147483648; expected at most 2³¹ − 1"):
        ne.simulate(problem, ne.GD(0.1), params, 2**31)
    run = moved_to(ne.simulate(problem, ne.GD(0.1), params, 0), LAST - 3)
    with pytest.raises(ValueError, match=r"steps is 4 after the 2147483644 before; expected at most"):
        ne.resume(problem, ne.GD(0.1), run, 4)


def test_inside_jit_a_count_that_would_overflow_is_a_divergence():
    problem, params = problem_and_params()
    run = ne.simulate(problem, ne.GD(0.1), params, 0)
    end = jax.jit(lambda step: ne.resume(problem, ne.GD(0.1), moved_to(run, step), 4))
    assert int(end(LAST - 4).diverged_at) == -1
    lost = end(LAST - 3)
    assert int(lost.diverged_at) == LAST - 2
    assert bool(jnp.all(jnp.isnan(lost.params.up)))


def test_the_longest_run_takes_the_memory_of_a_short_one():
    problem, params = problem_and_params()

    def temporaries(steps):
        run = jax.jit(lambda p, key: ne.simulate(problem, ne.SGD(0.05, 2), p, steps, key=key, every=steps))
        return run.lower(params, KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(LAST) == temporaries(10)


@pytest.mark.slow
@pytest.mark.float32
def test_the_clock_is_exact_after_a_hundred_million_ticks_in_single_precision():
    steps, rate = 10**8, jnp.asarray(0.01, jnp.float32)
    ticked = jax.jit(lambda clock: jax.lax.fori_loop(0, steps, lambda _, clock: clock.ticked(rate), clock))
    end = ticked(Clock.start(jnp.float32))
    assert float(end.time) == float(np.float32(float(rate) * steps))


# --- on disk ---------------------------------------------------------------------------------------------------------

DYNAMICS = {
    "SGD": ne.SGD(0.05, 2, "epoch"),
    "SDE": ne.SDE(0.05, 2),
    "Adam": ne.Optax(optax.adam(0.01), 2),
    "GD": ne.GD(0.1),
}


@pytest.mark.parametrize("name", ["SGD", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SDE", "Adam", "GD"))])
def test_a_run_from_disk_goes_on_to_the_last_bit(name, tmp_path):
    problem, params = problem_and_params()
    key = KEY if DYNAMICS[name].needs_key else None
    start = ne.simulate(problem, DYNAMICS[name], params, 0, key=key, observe=OBSERVE)
    half = ne.resume(problem, DYNAMICS[name], start, 8, observe=OBSERVE, every=2)
    ne.save_run(tmp_path / "run", half)
    loaded = ne.load_run(tmp_path / "run", start)
    assert jax.tree.structure(loaded) == jax.tree.structure(half)
    one, other = (ne.resume(problem, DYNAMICS[name], each, 8, observe=OBSERVE, every=2) for each in (half, loaded))
    for was, restored in zip(jax.tree.leaves((half, one)), jax.tree.leaves((loaded, other)), strict=True):
        np.testing.assert_array_equal(was, restored)
        assert was.dtype == restored.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_other_dtypes_and_parameters_with_functions_come_back(tmp_path):
    data = jnp.ones((4, 3), jnp.bfloat16)
    params = {"w": jnp.array([0.1, -2.0, 1e-3], jnp.bfloat16), "act": jnp.tanh, "name": "a"}
    problem = ne.Problem(lambda p, z: jnp.sum(p["act"](p["w"] * z)).astype(jnp.float32), data)
    run = ne.simulate(problem, ne.GD(0.1), params, 3, observe={"w": lambda p: p["w"]})
    ne.save_run(tmp_path / "run", run)
    loaded = ne.load_run(tmp_path / "run", ne.simulate(problem, ne.GD(0.1), params, 0, observe={"w": lambda p: p["w"]}))
    assert loaded.params["act"] is jnp.tanh
    assert loaded.observed["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(loaded.params["w"], run.params["w"])
    np.testing.assert_array_equal(loaded.observed["w"], run.observed["w"])


@pytest.mark.slow
def test_many_runs_are_one_file(tmp_path):
    problem, params = problem_and_params()

    def run(steps):
        return jax.vmap(lambda key: ne.simulate(problem, ne.SGD(0.05, 2), params, steps, key=key))

    keys = jax.random.split(KEY, 3)
    ne.save_run(tmp_path / "runs", run(4)(keys))
    loaded = ne.load_run(tmp_path / "runs", run(0)(keys))
    np.testing.assert_array_equal(loaded.params.up, run(4)(keys).params.up)


def test_a_write_that_fails_leaves_the_run_that_was_there(tmp_path, monkeypatch):
    problem, params = problem_and_params()
    start = ne.simulate(problem, ne.GD(0.1), params, 0)
    ne.save_run(tmp_path / "run", start)

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        ne.save_run(tmp_path / "run", ne.resume(problem, ne.GD(0.1), start, 2))
    assert ne.load_run(tmp_path / "run", start).state.step == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_run_of_this_form_is_refused(tmp_path):
    problem, params = problem_and_params()
    start = ne.simulate(problem, ne.SGD(0.1, 2), params, 0, key=KEY, observe={"charge": CHARGE})
    ne.save_run(tmp_path / "run", start)
    likes = {
        r"observed\['charge'\] is there and was not": ne.simulate(problem, ne.SGD(0.1, 2), params, 0, key=KEY),
        r"\.state\.key is there and was not": ne.simulate(problem, ne.GD(0.1), params, 0, observe={"charge": CHARGE}),
        r"\.state\.dynamics is missing": ne.simulate(
            problem, ne.SGD(0.1, 2, "epoch"), params, 0, key=KEY, observe={"charge": CHARGE}
        ),
    }
    for message, like in likes.items():
        with pytest.raises(ValueError, match=message):
            ne.load_run(tmp_path / "run", like)
    with jax.enable_x64(False):
        data, there = jax.tree.map(lambda x: x.astype(jnp.float32), (problem.data, params))
        narrow = ne.simulate(ne.Problem(problem.loss, data), ne.SGD(0.1, 2), there, 0, key=KEY)
        with pytest.raises(ValueError, match=r"\.params\.up is float64 \(2, 3\) and float32"):
            ne.load_run(tmp_path / "run", narrow)
    (tmp_path / "other").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is no run that save_run wrote"):
        ne.load_run(tmp_path / "other", start)
    with pytest.raises(FileNotFoundError):
        ne.load_run(tmp_path / "none", start)
    with pytest.raises(ValueError, match="trajectory is Params; expected what simulate"):
        ne.save_run(tmp_path / "run", params)
    with pytest.raises(ValueError, match="like is Params; expected what simulate"):
        ne.load_run(tmp_path / "run", params)
    with pytest.raises(ValueError, match="the trajectory is traced"):
        jax.jit(lambda run: ne.save_run(tmp_path / "run", run))(start)


PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
import noise_equilibrium as ne
problem = ne.Problem(lambda w, z: jnp.sum((w * z - 1) ** 2), jnp.linspace(0.0, 1.0, 7))
path, sgd = Path(sys.argv[1]), ne.SGD(0.01, 2, "epoch")
run = ne.simulate(problem, sgd, jnp.ones(1000), 0, key=jax.random.key(0))
if path.exists():
    run = ne.load_run(path, run)
while run.state.step < 20_000:
    run = ne.resume(problem, sgd, run, 20, every=20)
    ne.save_run(path, run)
print(run.params.sum().item().hex(), int(run.state.step))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_at_the_same_bits(tmp_path):
    def started(path):
        command = [sys.executable, "-c", PROGRAM, str(path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])

    def finished(path):
        process = started(path)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return said

    moments, path, seen = random.Random(0), tmp_path / "killed", 0
    for _ in range(3):
        process = started(path)
        before = path.stat().st_mtime_ns if path.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # until it writes, and a moment longer
            if path.exists() and path.stat().st_mtime_ns > before:
                time.sleep(moments.uniform(0, 0.1))
                break
            time.sleep(0.001)
        seen += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert seen == 3  # each was killed while it was at work
    assert finished(path) == finished(tmp_path / "whole")


def test_a_damaged_file_is_said_to_be_one(tmp_path):
    problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
    run = ne.simulate(problem, ne.GD(0.5), jnp.zeros(3)[0], 2)
    ne.save_run(tmp_path / "run", run)
    whole = (tmp_path / "run").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "other.npy", np.ones(3))
    for name in ("cut", "other.npy"):
        with pytest.raises(ValueError, match="no run that save_run wrote"):
            ne.load_run(tmp_path / name, run)
