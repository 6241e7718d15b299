"""Sweeps: what they return, which random numbers a run gets, what is compiled, and how work is cut into units."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

import noise_equilibrium as ne
from noise_equilibrium._random import in_one_pass
from noise_equilibrium._sweep import _sweep as front
from noise_equilibrium._sweep._axes import Axis
from noise_equilibrium._sweep._engine import Engine
from noise_equilibrium._sweep._traced_run import Batch, depends
from noise_equilibrium._sweep._units import Grid, extents_of, runs_in_a_unit
from noise_equilibrium._work import work_of

KEY = jax.random.key(7)
PROBLEM = ne.Problem(lambda w, z: (w - z) ** 2 / 2, np.arange(8.0))
POSITION = {"w": lambda w: w}


def draws(key, **point):
    return {"x": jax.random.bits(key, (3,))}


def trained(key, *, rate, batch=2):
    return ne.simulate(PROBLEM, ne.SGD(rate, batch), jnp.array(0.0), 40, key=key, observe=POSITION, every=10)


def sweep(run, axes, **options):
    return ne.sweep(run, axes, **({"seeds": 3, "key": KEY} | options))


# --- what a sweep returns --------------------------------------------------------------------------------------------


def test_every_run_is_the_call_by_hand_with_the_key_of_the_run():
    data = sweep(trained, {"rate": [0.1, 0.3], "batch": [1, 4]})
    assert dict(data.w.sizes) == {"rate": 2, "batch": 2, "seed": 3, "step": 5}
    for rate in (0.1, 0.3):
        for batch in (1, 4):
            for seed in range(3):
                point = {"rate": rate, "batch": batch}
                by_hand = trained(ne.run_key(KEY, seed, point), **point)
                here = data.sel(seed=seed, **point)
                np.testing.assert_allclose(here.w, by_hand.observed["w"], rtol=1e-13)
                np.testing.assert_allclose(here.time, by_hand.time, rtol=1e-15)
                assert here.diverged_at == -1
    assert not data.diverged.any()
    assert "done" not in data


def test_the_coordinates_of_a_trajectory_are_steps_and_times():
    data = sweep(trained, {"rate": [0.1, 0.3]})
    assert set(data.coords) == {"rate", "seed", "step", "time"}
    assert data.step.values.tolist() == [0, 10, 20, 30, 40]
    assert data.time.dims == ("rate", "step")  # the times depend on the learning rate, and on no seed
    np.testing.assert_allclose(data.time, np.outer([0.1, 0.3], np.arange(0, 50, 10)), rtol=1e-15)
    assert set(data.data_vars) == {"w", "diverged_at", "diverged"}


def test_a_sweep_without_axes_is_a_sweep_over_seeds():
    data = sweep(draws, {}, seeds=[5, 2])
    assert data.x.dims == ("seed", "x_0")
    assert data.seed.values.tolist() == [5, 2]
    np.testing.assert_array_equal(data.x.sel(seed=2), jax.random.bits(ne.run_key(KEY, 2, {}), (3,)))


def test_attributes_say_how_the_numbers_came_about():
    attrs = sweep(draws, {"a": [0.5]}).attrs
    assert attrs["jax"] == jax.__version__
    assert attrs["numpy"] == np.__version__
    assert attrs["noise_equilibrium"] == ne.__version__
    assert attrs["prng"] == "threefry2x32"
    assert attrs["dtype"] == "float64"
    assert attrs["key"] == "0 7"
    assert attrs["device"].endswith("cpu")
    assert json.loads(attrs["configuration"])["axes"] == {"a": {"kind": "float", "values": [0.5]}}


def test_names_of_nested_results_and_of_their_axes():
    def run(key, *, a):
        history = jnp.arange(4.0) * a
        kinds = {"whole": jnp.arange(2), "flag": a > 0, "half": jnp.ones((), jnp.bfloat16), "count": 3}
        labelled = ne.labelled({"p": history, "q": jnp.ones((4, 2))}, "lag", lag=2 * jnp.arange(4), scaled=history)
        return {"kinds": kinds, "history": labelled, "pair": (a, a * 1j)}

    data = sweep(run, {"a": [1.0, 2.0]}, seeds=2)
    assert {name: data[name].dims[2:] for name in data.data_vars} == {
        "kinds.whole": ("kinds.whole_0",),
        "kinds.flag": (),
        "kinds.half": (),
        "kinds.count": (),
        "history.p": ("lag",),
        "history.q": ("lag", "history.q_0"),
        "pair.0": (),
        "pair.1": (),
        "diverged": (),
    }
    assert [data[f"kinds.{name}"].dtype.kind for name in ("whole", "flag", "half", "count")] == ["i", "b", "f", "i"]
    assert data.lag.values.tolist() == [0, 2, 4, 6]
    assert data.scaled.dims == ("a", "lag")
    np.testing.assert_array_equal(data.scaled, np.outer([1.0, 2.0], np.arange(4)))
    np.testing.assert_array_equal(data["pair.1"].sel(a=2.0), [2j, 2j])


def test_two_trajectories_in_one_run_share_their_steps_and_have_their_own_times():
    def run(key, *, rate):
        both = {}
        for name, dynamics in {"sgd": ne.SGD(rate, 2), "gd": ne.GD(2 * rate)}.items():
            both[name] = ne.simulate(PROBLEM, dynamics, jnp.array(0.0), 4, key=key, observe={"w": jnp.sin}, every=2)
        return both

    data = sweep(run, {"rate": [0.1, 0.2]})
    assert data["sgd.w"].dims == data["gd.w"].dims == ("rate", "seed", "step")
    np.testing.assert_allclose(2 * data["sgd.time"], data["gd.time"])
    assert set(data.coords) == {"rate", "seed", "step", "sgd.time", "gd.time"}


def test_a_coordinate_that_depends_on_static_axes_has_them():
    def run(key, *, n, a):
        return {"y": ne.labelled(jnp.ones(3), "i", place=n * jnp.arange(3))}

    data = sweep(run, {"n": [1, 2], "a": [0.1, 0.2]})
    assert data.place.dims == ("n", "i")
    assert data.place.values.tolist() == [[0, 1, 2], [0, 2, 4]]


def test_a_run_computes_in_the_precision_of_its_parameters():
    def run(key, *, a):
        return {"single": a * jnp.ones((), jnp.float32), "double": a * jnp.ones(())}

    data = sweep(run, {"a": np.array([1 / 3], np.float32)})
    assert (data.single.dtype, data.double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(data.double[0], np.full(3, np.float32(1 / 3), np.float64))


def test_runs_that_diverge_are_flagged_and_change_nothing_for_their_neighbours():
    rates = [0.1, 50.0, 0.2]

    def run(key, *, rate):
        return ne.simulate(PROBLEM, ne.SGD(rate, 2), jnp.array(0.0), 600, key=key, observe=POSITION, every=200)

    data = sweep(run, {"rate": rates})
    assert data.diverged.all("seed").values.tolist() == [False, True, False]
    assert not data.diverged.sel(rate=[0.1, 0.2]).any()
    assert (data.diverged_at.sel(rate=50.0) > 0).all()
    assert np.isnan(data.w.sel(rate=50.0)[:, -1]).all()
    tame = sweep(run, {"rate": [0.1, 0.15, 0.2]}).sel(rate=[0.1, 0.2])
    np.testing.assert_array_equal(data.w.sel(rate=[0.1, 0.2]), tame.w)


def test_infinities_are_flagged_too():
    data = sweep(lambda key, *, a: {"y": 1 / a, "n": jnp.arange(2)}, {"a": [0.0, 1.0]})
    assert data.diverged.all("seed").values.tolist() == [True, False]


def test_what_is_summed_up_over_a_run_has_no_rows_and_its_nan_is_no_divergence():
    def run(key, *, rate):
        goals = jnp.array([1.0, 9.0, 9.0, 9.0, 9.0])  # as many as there are records; w never reaches 9
        observe = {"w": lambda w: w, "first": ne.first_time(lambda w: w > goals), "mean": ne.running(lambda w: w)}
        return ne.simulate(PROBLEM, ne.SGD(rate, 2), jnp.array(0.0), 40, key=key, observe=observe, every=10)

    data = sweep(run, {"rate": [0.1]})
    assert data["first.time"].dims == ("rate", "seed", "first.time_0")
    assert np.isnan(data["first.time"]).all(("rate", "seed")).values.tolist() == [False, True, True, True, True]
    assert data["mean.count"].values.tolist() == [[40, 40, 40]]
    assert not data.diverged.any()


# --- kinds of axes, and what is compiled -----------------------------------------------------------------------------


@pytest.fixture
def batches(monkeypatch):
    """Counts the programs that are compiled."""
    made = []
    original = Batch.__init__
    monkeypatch.setattr(Batch, "__init__", lambda self, *args: (made.append(args[-1]), original(self, *args))[1])
    return made


def test_float_axes_are_traced_once_and_compiled_once_however_many_values(batches):
    seen = []

    def run(key, *, a, b):
        seen.append((a, b))
        return {"y": a * b + jax.random.normal(key)}

    data = sweep(run, {"a": np.linspace(0, 1, 37), "b": [1.0, 2.0]}, seeds=5, unit=16)
    assert len(seen) == len(batches) == 1
    assert data.y.sizes["a"] == 37


def test_static_axes_are_compiled_once_for_each_value_and_are_python_values(batches):
    seen = []

    def run(key, *, n, flag, name, a):
        seen.append((n, flag, name))
        assert (type(n), type(flag), type(name)) == (int, bool, str)
        return {"y": jnp.sum(jnp.ones(n)) * a, "kept": flag, "long": len(name)}

    axes = {"n": np.array([2, 5], np.uint8), "a": [0.5, 1, 2], "flag": [True, False], "name": ["x", "long"]}
    data = sweep(run, axes, unit=4)
    assert len(seen) == len(set(seen)) == len(batches) == 8
    assert data.y.dims == ("n", "a", "flag", "name", "seed")
    np.testing.assert_array_equal(data.y.sel(n=5, a=2.0, flag=True, name="x"), 10.0)
    assert data.long.sel(name="long").values.min() == 4
    assert data.kept.any(("n", "a", "name", "seed")).values.tolist() == [True, False]


# --- random numbers --------------------------------------------------------------------------------------------------


def test_random_numbers_depend_on_key_seed_and_values_alone():
    axes = {"a": [0.1, 0.2, 0.3, 0.4], "s": ["u", "v"]}
    whole = sweep(draws, axes, seeds=6)
    changed = {
        "units of one run": sweep(draws, axes, seeds=6, unit=1),
        "units of three": sweep(draws, axes, seeds=6, unit=3),
        "units of twelve": sweep(draws, axes, seeds=6, unit=12),
        "another order of axes": sweep(draws, dict(reversed(axes.items())), seeds=6),
        "another order of values and seeds": sweep(
            draws, {name: values[::-1] for name, values in axes.items()}, seeds=[4, 0, 5]
        ),
        "fewer values and seeds": sweep(draws, {"a": [0.3], "s": ["v", "u"]}, seeds=2),
    }
    for what, data in changed.items():
        one, other = xarray.align(data.x, whole.x, join="inner")
        assert one.size == data.x.size, what
        np.testing.assert_array_equal(one.transpose(*whole.x.dims), other, err_msg=what)


def test_no_two_runs_share_random_numbers_and_the_key_matters():
    axes = {"a": np.linspace(0, 1, 20), "b": np.linspace(0, 1, 20), "n": [0, 1]}
    first = sweep(draws, axes, seeds=4).x.values
    other = sweep(draws, axes, seeds=4, key=jax.random.key(8)).x.values
    assert len(np.unique(first)) == first.size
    assert not np.isin(other, first).any()


def test_the_key_of_a_run_tells_points_apart_by_name_value_and_kind_only():
    def bits(seed=0, key=KEY, **point):
        return tuple(jax.random.key_data(ne.run_key(key, seed, point)).tolist())

    points = [
        {}, {"a": 1}, {"b": 1}, {"a": 2}, {"a": True}, {"a": "1"}, {"a": 1.5}, {"a": -1}, {"a": 1, "b": 1}, {"ab": 11},
        {"a": 0.1}, {"a": float(np.float32(0.1))}, {"a": 2**70},
    ]  # fmt: skip
    assert len({bits(**point) for point in points} | {bits(seed, a=1) for seed in range(50)}) == len(points) + 49
    assert bits(a=1) == bits(a=1.0) == bits(a=np.float32(1)) == bits(a=np.int8(1))
    assert bits(a=0.0) == bits(a=-0.0) == bits(a=0)
    assert bits(a=1, b=2) == bits(b=2, a=1)
    assert bits(a=1) != bits(a=1, key=jax.random.key(8))
    # Written down: the random numbers of a published sweep must stay what they are.
    assert bits(3, rate=0.1, width=8) == (493922349, 442353899)


@pytest.mark.parametrize(
    ("seed", "point", "match"),
    [(-1, {}, "from 0 to 2"), (2**32, {}, "from 0 to 2"), (0.5, {}, "expected an integer"), (0, {"a": None}, "'a'")],
)
def test_run_key_refuses_what_it_cannot_spell(seed, point, match):
    with pytest.raises(ValueError, match=match):
        ne.run_key(KEY, seed, point)


DEVICES = """
import hashlib, sys
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import noise_equilibrium as ne
def run(key, *, a):
    return {"x": jax.random.normal(key, (5,)), "y": a * jax.random.uniform(key)}
with jax.enable_x64(True):
    for unit in (12, 5):
        data = ne.sweep(run, {"a": [0.5, 2.0, 4.0]}, seeds=4, key=jax.random.key(7), unit=unit)
        print(data.attrs["device"][0], data.x.values.tobytes().hex(), data.y.values.tobytes().hex())
"""


def test_random_numbers_do_not_depend_on_the_number_of_devices():
    def run(key, *, a):
        return {"x": jax.random.normal(key, (5,)), "y": a * jax.random.uniform(key)}

    here = sweep(run, {"a": [0.5, 2.0, 4.0]}, seeds=4)
    expected = [here.x.values.tobytes().hex(), here.y.values.tobytes().hex()]
    command = [sys.executable, "-c", DEVICES, "4"]
    environment = os.environ | {"PYTHONPATH": str(Path(ne.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [["4", *expected]] * 2


@pytest.mark.float32
def test_results_agree_across_batch_shapes_on_a_contracting_run():
    linear = ne.models.two_layer_linear
    data = (np.eye(4, dtype=np.float32), np.ones((4, 2), np.float32))
    problem = ne.Problem(linear.loss, data, 0.05)

    def run(key, *, rate):
        start, noise = jax.random.split(key)
        params = linear.init(start, 4, 3, 2)
        return ne.simulate(problem, ne.SGD(rate, 2), params, 300, key=noise, observe={"up": lambda p: p.up}, every=100)

    sweeps = [sweep(run, {"rate": [0.02, 0.05]}, seeds=6, unit=unit) for unit in (1, 3, 12)]
    assert sweeps[0].up.dtype == np.float32
    for other in sweeps[1:]:
        np.testing.assert_allclose(sweeps[0].up, other.up, rtol=0, atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------------


def takes_a(key, *, a):
    return {"y": a * jax.random.normal(key)}


@pytest.mark.parametrize(
    ("axes", "options", "match"),
    [
        ([1.0], {}, "expected a dict"),
        ({"b": [1.0]}, {}, r"does not accept these axes \(b\)"),
        ({}, {}, "missing a required"),
        ({"a": [1.0], "b": [1]}, {}, r"\(a, b\)"),
        ({"a": 1.0}, {}, "expected a sequence"),
        ({"a": "abc"}, {}, "expected a sequence"),
        ({"a": {1.0, 2.0}}, {}, "expected a sequence"),
        ({"a": []}, {}, "at least one value"),
        ({"a": [[1.0]]}, {}, "one dimension"),
        ({"a": [1j]}, {}, "dtype complex"),
        ({"a": [None, 1]}, {}, "dtype object"),
        ({"a": [1.0, 1.0]}, {}, "repeats a value"),
        ({"a": [0.0, -0.0]}, {}, "repeats a value"),
        ({"a": [1.0, np.nan]}, {}, "holds nan"),
        ({"a": [1.0, np.inf]}, {}, "holds inf"),
        ({"seed": [1]}, {}, "cannot have this name"),
        ({"key": [1]}, {}, "cannot have this name"),
        ({"done": [1]}, {}, "cannot have this name"),
        ({"a b": [1]}, {}, "cannot have this name"),
        ({"a": [1.0]}, {"seeds": 0}, "at least 1"),
        ({"a": [1.0]}, {"seeds": []}, "at least 1"),
        ({"a": [1.0]}, {"seeds": [0, 0]}, "different integers"),
        ({"a": [1.0]}, {"seeds": [-1]}, "from 0"),
        ({"a": [1.0]}, {"seeds": [0.5]}, "sequence of integers"),
        ({"a": [1.0]}, {"key": None}, "no key"),
        ({"a": [1.0]}, {"key": jax.random.key(0, impl="rbg")}, "rbg"),
        ({"a": [1.0]}, {"unit": 0}, "at least 1"),
        ({"a": [1.0]}, {"unit": 0.5}, "unit is 0.5"),
        ({"a": [1.0]}, {"executor": 4}, "expected an object with submit"),
        ({"a": [1.0]}, {"store": 4}, "expected the path"),
    ],
)
def test_arguments_that_make_no_sweep_are_refused(axes, options, match):
    with pytest.raises(ValueError, match=match):
        sweep(takes_a, axes, **options)


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="expected a function run"):
        sweep(3, {})


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (lambda a: a, "expected a dict"),
        (lambda a: None, "returned NoneType"),
        (lambda a: {}, "no arrays"),
        (lambda a: {"y": "text"}, "returned str as 'y'"),
        (lambda a: {"y": jax.random.key(0)}, "dtype key"),
        (lambda a: {"a": a}, "'a' cannot be a name"),
        (lambda a: {"diverged": a}, "'diverged' cannot be a name"),
        (lambda a: {"y/z": a}, "'y/z' cannot be a name"),
        (lambda a: {"y": {"z": a}, "y.z": a}, "two results named 'y.z'"),
        (lambda a: {"y": ne.labelled(jnp.ones(2), "seed")}, "'seed' cannot be a name"),
        (lambda a: {"y": ne.labelled(jnp.ones(2), "y")}, "names two things"),
        (lambda a: {"y": jnp.ones(2), "y_0": a}, "names two things"),
        (lambda a: {"y": ne.labelled(jnp.ones(2), "t"), "z": ne.labelled(jnp.ones(3), "t")}, "2 entries in one result"),
        (lambda a: {"y": ne.labelled(jnp.ones(2), "t", t=a * jnp.ones(2))}, "its dimension and depends on a"),
        (
            lambda a: {n: ne.labelled(jnp.ones(2), "t", time=jnp.ones(2)) for n in "yz"},
            "two coordinates named 'time'",
        ),
    ],
)
def test_results_that_a_data_set_cannot_hold_are_refused(result, match):
    with pytest.raises(ValueError, match=match):
        sweep(lambda key, *, a: result(a), {"a": [1.0]})


@pytest.mark.parametrize(
    ("arguments", "coords", "match"),
    [
        ((jnp.ones(2), ()), {}, "expected different names"),
        ((jnp.ones((2, 2)), ("t", "t")), {}, "expected different names"),
        ((jnp.ones(2), ("t", "u")), {}, "expected the leading axes"),
        (({"p": jnp.ones(2), "q": jnp.ones(3)}, "t"), {}, "3 entries along 't'; expected 2"),
        ((jnp.ones(2), "t"), {"t": jnp.ones(3)}, "3 entries along 't'; expected 2"),
        ((jnp.ones(2), "t"), {"x": jnp.ones((2, 2))}, "expected the axes"),
        ((jnp.ones(2), "t"), {"x": 1.0}, "expected the axes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(arguments, coords, match):
    with pytest.raises(ValueError, match=match):
        ne.labelled(*arguments, **coords)


@pytest.mark.parametrize(
    "run",
    [
        lambda key, *, a: {"y": 1.0 if a > 0 else 2.0},
        lambda key, *, a: {"y": jnp.ones(int(a))},
        lambda key, *, a: {"y": np.sin(a)},
        lambda key, *, a: {"y": float(a)},
        lambda key, *, a: {"y": jnp.arange(3)[jnp.arange(3.0) > a]},
    ],
    ids=["if", "int", "numpy", "float", "mask"],
)
def test_a_run_that_needs_the_value_of_a_traced_number_is_refused_with_a_remedy(run):
    with pytest.raises(ValueError, match=r"needs the value of a traced number.*\(a\) are traced.*jnp.where"):
        sweep(run, {"a": [1.0, 2.0]})


def test_results_whose_shapes_change_between_cells_are_refused():
    with pytest.raises(ValueError, match=r"result 'y' is float64 \{'y_0': 2\} at \{'n': 2\} and float64 \{'y_0': 3\}"):
        sweep(lambda key, *, n: {"y": jnp.ones(n)}, {"n": [2, 3]})
    with pytest.raises(ValueError, match=r"result 'z' is missing at \{'f': False\}"):
        sweep(lambda key, *, f: {"y": 1.0, **({"z": 1.0} if f else {})}, {"f": [False, True]})
    with pytest.raises(ValueError, match=r"index of dimension 't' at \{'n': 2\} differs"):
        sweep(lambda key, *, n: {"y": ne.labelled(jnp.ones(2), "t", t=n * jnp.arange(2))}, {"n": [1, 2]})


# --- runs that raise -------------------------------------------------------------------------------------------------


def raises_above(limit):
    like = jax.ShapeDtypeStruct((), np.float64)

    def check(a):
        if a > limit:
            raise RuntimeError(f"{a} is too much")
        return a

    def run(key, *, a):
        checked = jax.pure_callback(check, like, a, vmap_method="sequential")
        return {"y": checked + jax.random.normal(key), "n": jnp.arange(2)}

    return run


def test_a_run_that_raises_is_reported_with_its_coordinates_and_the_others_are_kept_to_the_last_bit():
    axes = {"a": [0.1, 0.2, 0.9, 0.3]}
    good = sweep(raises_above(2.0), axes, unit=12)
    with pytest.raises(ne.SweepError, match=r"3 of 12 runs(.|\n)*at \{'a': 0.9\}, seed 1: .*0.9 is too much") as caught:
        sweep(raises_above(0.5), axes, unit=12)
    data = caught.value.dataset
    np.testing.assert_array_equal(data.done, np.array([True, True, False, True])[:, None].repeat(3, 1))
    np.testing.assert_array_equal(data.y.where(data.done, 0), good.y.where(data.done, 0))
    assert np.isnan(data.y.sel(a=0.9)).all()
    assert (data.n.dtype, data.n.sel(a=0.9).values.max()) == (good.n.dtype, 0)
    assert data.n.sel(a=0.3).values.max() == 1
    assert not data.diverged.any()


def test_a_static_cell_that_raises_is_reported_and_the_others_are_kept():
    def run(key, *, n, a):
        if n == 2:
            raise RuntimeError("no twos")
        return {"y": a * n}

    with pytest.raises(ne.SweepError, match=r"at \{'n': 2\}: RuntimeError: no twos") as caught:
        sweep(run, {"n": [1, 2, 3], "a": [0.5, 1.0]})
    data = caught.value.dataset
    assert data.done.all(("a", "seed")).values.tolist() == [True, False, True]
    np.testing.assert_array_equal(data.y.sel(n=3, a=0.5), 1.5)
    with pytest.raises(ne.SweepError, match="raised in every cell, first RuntimeError: no twos"):
        sweep(run, {"n": [2], "a": [0.5]})


def test_coordinates_of_missing_cells_are_those_of_the_cells_that_are_there():
    def run(key, *, n, rate):
        if n == 1:
            raise RuntimeError("no")
        return trained(key, rate=rate, batch=n)

    with pytest.raises(ne.SweepError) as caught:
        sweep(run, {"n": [1, 2], "rate": [0.1, 0.2]})
    time = caught.value.dataset.time
    assert time.dims == ("n", "rate", "step")
    np.testing.assert_allclose(time.sel(n=2, rate=0.2), 0.2 * np.arange(0, 50, 10))


def test_a_unit_that_does_not_fit_into_memory_says_what_to_do(monkeypatch):
    def exhausted(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")

    monkeypatch.setattr(Batch, "__call__", exhausted)
    with pytest.raises(ne.SweepError, match=r"12 runs does not fit.*unit= a smaller number"):
        sweep(takes_a, {"a": [1.0, 2.0, 3.0, 4.0]}, unit=12)


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    axes = {"a": [0.0, 1.0]}

    def run(key, *, a):
        return {"y": 1 / a}

    sweep(run, axes, unit=3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sweep(run, axes, unit=3, progress=False)
    assert capsys.readouterr().err == ""
    sweep(run, axes, unit=3)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "diverged=3" in shown
    assert "run/s" in shown


def test_an_interrupt_says_that_nothing_is_kept_without_a_store(monkeypatch):
    compute = Engine.compute
    calls = []

    def interrupted(self, unit):
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(self, unit)

    monkeypatch.setattr(Engine, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        sweep(takes_a, {"a": [1.0, 2.0, 3.0, 4.0]}, unit=3)
    assert "6 of 12 runs were done and are lost; give store=" in caught.value.__notes__[0]


def test_nothing_is_listed_endlessly():
    report = front._report([f"failure {i}" for i in range(100)], np.zeros((10, 10), bool), None)
    assert len(report.splitlines()) == front.LISTED + 3
    assert "and 95 more" in report


# --- units of work ---------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.tuples(st.integers(1, 7), st.booleans()), max_size=3),
    seeds=st.integers(1, 20),
    runs=st.integers(1, 200),
)
def test_units_cover_every_run_once_and_are_no_larger_than_asked(lengths, seeds, runs):
    axes = tuple(
        Axis(f"a{i}", tuple(range(length)), "float" if traced else "int") for i, (length, traced) in enumerate(lengths)
    )
    grid = Grid(axes, tuple(range(seeds)), extents_of(axes, tuple(range(seeds)), runs))
    assert grid.batch_size <= runs
    covered = np.zeros(grid.shape, int)
    for unit in grid.units():
        covered[unit.region] += 1
        assert math.prod(unit.shape) == len(grid.runs(unit)) <= grid.batch_size
    assert (covered == 1).all()
    groups = [unit.group for unit in grid.units()]
    assert groups == sorted(groups)  # so that every program is compiled once


def test_units_are_filled_along_the_seeds_first_and_evenly():
    axes = (Axis("n", (1, 2), "int"), Axis("a", tuple(map(float, range(10))), "float"))
    assert extents_of(axes, tuple(range(65)), 64) == (1, 1, 33)
    assert extents_of(axes, tuple(range(4)), 13) == (1, 3, 4)
    assert extents_of(axes, tuple(range(4)), 10**9) == (1, 10, 4)


def work(function, *shapes, runs=1):
    """The work of a batch of runs, each with its own inputs."""
    batch = jax.vmap(function, axis_size=runs)
    forms = (jax.ShapeDtypeStruct((runs, *shape), np.float64) for shape in shapes)
    return work_of(jax.make_jaxpr(batch)(*forms).jaxpr)


def unit_of(*functions):
    """How many runs of these make a unit; each is a function of one array, given with its shape."""
    return runs_in_a_unit([lambda runs, f=f, shape=shape: work(f, shape, runs=runs) for f, shape in functions])


def test_work_counts_the_turns_of_loops():
    data = np.ones((1000, 30))

    def steps(count):
        return lambda w: jax.lax.fori_loop(0, count, lambda _, w: w - 0.1 * data.T @ jnp.tanh(data @ w), w)

    one, many = work(steps(1), (30,)), work(steps(100), (30,))
    assert many.operations == pytest.approx(100 * one.operations, rel=0.05)
    assert many.launches == pytest.approx(100 * one.launches, rel=0.2)
    assert one.operations >= 2 * 30_000 / 5  # two products of 30 000 multiplications and additions


def test_arrays_that_runs_share_take_their_memory_once_for_a_unit():
    data = np.ones((100_000, 30))  # 24 MB, and the activations of a run 0.8 MB
    shared = unit_of((lambda w: data.T @ jnp.tanh(data @ w), (30,)))
    assert 100 <= shared <= 340  # 256 MiB are 335 times the activations, and 11 times the data
    assert unit_of((lambda data: data.T @ jnp.tanh(data @ jnp.ones(30)), (100_000, 30))) <= 11


def test_work_inside_of_branches_and_of_loops_of_unknown_length():
    def waiting(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 5, lambda x: x @ x, x)

    def branching(x):
        return jax.lax.cond(jnp.all(data > 0), lambda x: x @ x, lambda x: x, x)

    data = np.ones(2)
    product = work(lambda x: x @ x, (50, 50)).operations
    assert work(branching, (50, 50)).operations == pytest.approx(product, rel=0.1)
    assert work(waiting, (50, 50)).operations >= 10 * product


def test_the_memory_of_a_run_is_what_is_alive_at_once():
    chain = lambda x: jnp.cos(jnp.sin(jnp.cos(jnp.sin(x))))  # noqa: E731  # each needs the one before alone
    kept = lambda x: jnp.sin(x) + jnp.cos(x) + jnp.tan(x) + jnp.exp(x)  # noqa: E731  # x to the last
    assert work(chain, (1000,)).live_bytes == 2 * 8000
    assert 3 * 8000 <= work(kept, (1000,)).live_bytes <= 4 * 8000
    assert work(jax.grad(lambda x: chain(x).sum()), (1000,)).live_bytes >= 5 * 8000  # all but one until the way back


def test_a_unit_takes_about_a_second_of_memory_and_time():
    waves = lambda x: jax.lax.fori_loop(0, 1000, lambda _, x: jnp.sin(x), x)  # noqa: E731
    assert 100 <= unit_of((waves, (100,))) <= 10_000
    assert unit_of((waves, (10**7,))) == 1
    assert unit_of((waves, (100,)), (waves, (10**7,))) == 1
    assert 8 <= unit_of((lambda x: x + 1, (2**20,))) <= 16  # 8 MiB in, 8 MiB out


def test_work_of_random_numbers_is_about_the_same_however_they_are_made():
    def draw(w):
        return jax.random.normal(jax.random.fold_in(KEY, w.astype(int)), (10_000,))

    plain, fast = (work(function, ()).operations for function in (draw, in_one_pass(draw)))
    assert 1 / 3 <= fast / plain <= 3
    assert plain >= 10_000 * 12  # a word costs about that


# --- dependencies ----------------------------------------------------------------------------------------------------


def dependencies(function, count):
    """For each result the inputs, by position, on which it may depend."""
    form = jax.ShapeDtypeStruct((), jnp.result_type(float))
    found = [depends(function, [form] * count, place) for place in range(count)]
    return [{place for place, needs in enumerate(found) if needs[i]} for i in range(len(found[0]))]


def test_dependencies_are_followed_through_calls_loops_and_branches():
    def function(a, b, c):
        def body(carry, x):
            u, v, w = carry
            return (u + a, v + w, w + b), x * c

        (u, v, w), xs = jax.lax.scan(body, (0.0, 0.0, 0.0), jnp.arange(3.0))
        inner = jax.jit(lambda p, q: (p, q, jnp.zeros(())))(a, c)
        branch = jax.lax.cond(a > 0, lambda: 1.0, lambda: b)
        return [u, v, w, xs, *inner, jax.lax.while_loop(lambda x: x < 3, lambda x: x + b, a), branch]

    a, b, c = ({place} for place in range(3))
    assert dependencies(function, 3) == [a, b, b, c, a, c, set(), a | b, a | b]
    assert dependencies(lambda a: [jnp.ones(())], 1) == [set()]


def test_what_a_run_prints_makes_no_coordinate_depend_on_it():
    def talking(w):
        jax.debug.print("{}", w)
        return w

    def run(key, *, rate):
        start = jax.random.normal(key)
        return ne.simulate(PROBLEM, ne.SGD(rate, 2), start, 4, key=key, observe={"w": talking}, every=2)

    assert sweep(run, {"rate": [0.1, 0.2]}).time.dims == ("rate", "step")
