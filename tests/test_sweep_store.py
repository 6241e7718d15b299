"""Stores: what a kill, a full disk or another sweep does to them, which is nothing."""

import hashlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr
import zarr.storage._local as zarr_files

import noise_equilibrium as ne
from noise_equilibrium._sweep import _plan as plans
from noise_equilibrium._sweep._engine import Engine
from noise_equilibrium._sweep._store import Store

KEY = jax.random.key(7)
AXES = {"a": [0.5, 1.0, 2.0], "n": [1, 2]}


def run(key, *, a, n):
    x = jax.random.uniform(key, (5,))
    return {"x": a * x, "path": ne.labelled(n * jnp.cumsum(x), "t", t=jnp.arange(5), time=a * jnp.arange(5.0))}


def sweep(store, function=run, axes=AXES, **options):
    return ne.sweep(function, axes, **({"seeds": 5, "key": KEY, "store": store, "unit": 4} | options))


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A store that nothing happened to."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    sweep(path)
    return path


@pytest.fixture
def units(monkeypatch):
    """The units that are computed."""
    computed = []
    compute = Engine.compute
    monkeypatch.setattr(Engine, "compute", lambda self, unit: (computed.append(unit), compute(self, unit))[1])
    return computed


# --- the ordinary life of a store ------------------------------------------------------------------------------------


def test_a_store_holds_what_a_sweep_without_one_returns(undisturbed):
    kept, free = sweep(undisturbed), sweep(None)
    xarray.testing.assert_identical(kept.load(), free)
    assert kept.time.dims == ("a", "n", "t")


def test_every_chunk_is_a_unit(undisturbed):
    data = xarray.open_zarr(undisturbed, chunks=None)  # as anyone opens it, without a warning
    assert set(data.data_vars) == {"x", "path", "diverged", "done"}
    assert all(variable.encoding["chunks"][:3] == (1, 1, 3) for variable in data.data_vars.values())
    assert data.time.encoding["chunks"] == (1, 1, 3, 5)
    assert bool(data.done.all())
    assert data.n.values.tolist() == [1, 2]
    assert data.attrs["jax"] == jax.__version__


def test_a_store_is_read_by_zarr_and_xarray_alone(undisturbed):
    """With metadata gathered in one file and without, in a process that lacks this package."""
    code = """
import sys, numpy, xarray, zarr
sys.modules["noise_equilibrium"] = None
path = sys.argv[1]
group = zarr.open_group(path, mode="r")
assert group.metadata.consolidated_metadata is not None
opened = [xarray.open_zarr(path, chunks=None, consolidated=how) for how in (True, False)]
assert opened[0].identical(opened[1]) and bool(opened[0].done.all())
assert numpy.array_equal(group["x"][...], opened[0].x.values)
print(float(opened[0].x.sum()).hex())
"""
    command = [sys.executable, "-c", code, str(undisturbed)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == float(sweep(undisturbed).x.sum()).hex()


def test_flags_are_those_that_zarr_reads(tmp_path, units, monkeypatch):
    """Of a store that is half done and whose chunks are filled up, beside a file that was being written."""
    monkeypatch.setattr(Engine, "compute", stopping(units, 5))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "store")
    (tmp_path / "store" / "done" / "c" / "0" / "0" / "1.partial").write_bytes(b"?")
    store = Store(tmp_path / "store")
    for flags, name in ((store.done(), "done"), (store.diverged(), "diverged")):
        np.testing.assert_array_equal(flags, zarr.open_group(tmp_path / "store", mode="r")[name][...])
    assert 0 < store.done().sum() < store.done().size


def test_flags_that_are_compressed_as_they_were_before_are_read(tmp_path, units, undisturbed):
    path = shutil.copytree(undisturbed, tmp_path / "store")
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name in ("done", "diverged"):
        old = group[name]
        chunks, dims, flags = old.chunks, old.metadata.dimension_names, old[...]
        del group[name]
        array = group.create_array(
            name, shape=flags.shape, chunks=chunks, dtype="bool", dimension_names=dims, fill_value=0
        )
        assert array.compressors
        array[...] = flags
    xarray.testing.assert_identical(sweep(path).load(), sweep(undisturbed).load())
    assert units == []


def test_metadata_grow_with_the_runs_and_no_faster(tmp_path):
    """Those of 400 more seeds take no more than those of 400 before; and appending changes none of them."""

    def metadata(seeds):
        path = tmp_path / f"{seeds}"
        sweep(path, seeds=range(1000, 1000 + seeds), axes={"a": [1.0], "n": [1]}, unit=400)
        return sum(file.stat().st_size for file in path.rglob("zarr.json"))

    small, middle, large = (metadata(seeds) for seeds in (400, 800, 1200))
    assert large - middle < 1.1 * (middle - small)
    assert middle - small < 400 * 50  # bytes a run


def test_a_finished_sweep_returns_at_once_and_touches_nothing(undisturbed, units):
    before = contents(undisturbed)
    sweep(undisturbed)
    assert units == []
    assert contents(undisturbed) == before


def stopping(units, after):
    """`Engine.compute`, interrupted once that many units are computed."""
    compute = Engine.compute

    def interrupted(self, unit):
        if len(units) == after:
            raise KeyboardInterrupt
        return compute(self, unit)

    return interrupted


def test_only_what_is_not_done_is_computed(tmp_path, units, undisturbed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "compute", stopping(units, 5))
        with pytest.raises(KeyboardInterrupt) as caught:
            sweep(tmp_path / "store")
    assert "13 of 30 runs are done and kept in" in caught.value.__notes__[0]
    assert "the same call goes on from there" in caught.value.__notes__[0]
    sweep(tmp_path / "store")
    assert len(units) == len(set(map(str, units))) == 12
    assert contents(tmp_path / "store") == contents(undisturbed)


def test_strings_and_bools_come_back_as_they_were(tmp_path):
    def named(key, *, name, flag):
        z = jax.lax.complex(jax.random.uniform(key), 1.0)
        return {"length": len(name), "flagged": flag, "small": jnp.ones((), jnp.float16), "z": z}

    axes = {"name": ["sgd", "größer"], "flag": [True, False]}
    data = sweep(tmp_path / "store", named, axes)
    assert data.length.sel(name="größer", flag=True).values.tolist() == [6] * 5
    assert [data[name].dtype.kind for name in ("name", "flag", "flagged", "small", "z")] == ["U", "b", "b", "f", "c"]
    xarray.testing.assert_identical(sweep(tmp_path / "store", named, axes).load(), sweep(None, named, axes))


def test_a_folder_that_is_empty_or_not_there_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    sweep(tmp_path / "empty")
    sweep(str(tmp_path / "deep" / "er"))
    assert contents(tmp_path / "empty") == contents(tmp_path / "deep" / "er")
    assert sorted(os.listdir(tmp_path)) == ["deep", "empty"]  # nothing is left of the building


def test_a_store_is_resumed_in_the_units_that_it_was_made_with(tmp_path, units, monkeypatch, undisturbed):
    """Whatever the estimate of the work, of another version or for another machine, has to say now."""
    store = tmp_path / "store"
    monkeypatch.setattr(plans, "runs_in_a_unit", lambda works: 4)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "compute", stopping(units, 2))
        with pytest.raises(KeyboardInterrupt):
            sweep(store, unit=None)
    monkeypatch.setattr(plans, "runs_in_a_unit", lambda works: 1)
    sweep(store, unit=None)
    assert len(units) == len(set(map(str, units))) == 12
    assert contents(store) == contents(undisturbed)
    sweep(store, unit=4)  # as before, in words
    refuses(store, r"a unit of work was \(1, 1, 3\) runs along the axes and is \(1, 1, 1\)", unit=1)


def test_a_store_that_lists_its_units_among_what_must_agree_is_resumed(tmp_path, undisturbed):
    """As stores did that were made before the shape of their chunks said it."""
    store = tmp_path / "store"
    shutil.copytree(undisturbed, store)
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.attrs["sweep"] = {**group.attrs["sweep"], "unit": [1, 1, 3]}
    before = contents(store)
    xarray.testing.assert_identical(sweep(store, unit=None).load(), sweep(None))
    assert contents(store) == before


# --- kills -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stands for a kill inside of this process."""


def test_a_kill_inside_of_any_write_changes_nothing_in_the_end(tmp_path, monkeypatch):
    put, path, axes = zarr_files._put, tmp_path / "store", {"a": AXES["a"], "n": [1]}
    sweep(tmp_path / "whole", axes=axes)
    expected, writes = contents(tmp_path / "whole"), itertools.count()

    def torn(file, value, exclusive=False):
        if not file.is_relative_to(path):  # the store is still being built elsewhere
            return put(file, value, exclusive)
        if next(writes) % 5 == 4:  # dies halfway through every fifth file; a unit has four
            data = bytes(value.as_buffer_like())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_name(file.name + ".dead.partial").write_bytes(data[: len(data) // 2])
            raise Killed
        return put(file, value, exclusive)

    kills = 0
    monkeypatch.setattr(zarr_files, "_put", torn)
    while True:
        try:
            sweep(path, axes=axes)
            break
        except Killed:
            kills += 1
    assert kills >= 5  # in turn inside of each of the files of a unit
    assert {name: found for name, found in contents(path).items() if "partial" not in name} == expected


def test_a_kill_while_the_store_is_built_leaves_no_store(tmp_path, monkeypatch, undisturbed):
    put = zarr_files._put
    for allowed in range(0, 12, 3):
        writes = itertools.count()

        def torn(file, value, exclusive=False, writes=writes, allowed=allowed):
            if next(writes) == allowed:
                raise Killed
            return put(file, value, exclusive)

        with monkeypatch.context() as patch:
            patch.setattr(zarr_files, "_put", torn)
            with pytest.raises(Killed):
                sweep(tmp_path / "store")
        assert not (tmp_path / "store").exists()
    sweep(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(undisturbed)


RUN = """
def run(key, *, a, n):
    def step(w, i):
        return w - 0.1 * a * w + jax.random.normal(jax.random.fold_in(key, i), (40,)) / n, w[0]
    w, path = jax.lax.scan(step, jnp.ones(40), jnp.arange(400))
    return {"w": w, "path": path}
def long_sweep(store, values):
    axes = {"a": [0.1 * i for i in range(1, 1 + values)], "n": [1, 2]}
    return ne.sweep(run, axes, seeds=40, key=jax.random.key(3), store=store, unit=8)
"""
SCRIPT = f"""
import os, random, signal, sys
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import noise_equilibrium as ne
import zarr.storage._local as files
put, dice = files._put, random.Random(int(sys.argv[2]))
def torn(file, value, exclusive=False):  # some processes kill themselves inside of a write
    if "building" not in str(file) and dice.random() < float(sys.argv[3]):
        data = bytes(value.as_buffer_like())
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_name(file.name + ".dead.partial"), "wb") as half:
            half.write(data[: len(data) // 2])
            half.flush()
            print("inside a write", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return put(file, value, exclusive)
files._put = torn
{RUN}
print("begun", flush=True)
long_sweep(sys.argv[1], int(sys.argv[4]))
print("finished", flush=True)
"""


def process(store: Path, seed: int, tear: float, values: int = 16) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(store), str(seed), str(tear), str(values)]
    environment = os.environ | {"PYTHONPATH": str(Path(ne.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def killed_at_random(store: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill a sweep that often, then let it finish; how many kills there were, and how many of them inside a write."""
    rng = np.random.default_rng(seed)
    done = inside = 0
    while done < kills:
        child = process(store, int(rng.integers(2**30)), 0.02 if done % 2 else 0.0)
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        try:
            child.wait(timeout=float(rng.uniform(0.2, 6.0)))
        except subprocess.TimeoutExpired:
            child.kill()
        with child.stdout as output:
            rest = output.read()
        if child.wait() == -signal.SIGKILL:
            done += 1
            inside += "inside a write" in rest
        else:
            assert rest.endswith("finished\n")
            break
    last = process(store, 0, 0.0)
    assert last.communicate()[0].endswith("finished\n")
    return done, inside


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing_in_the_end(tmp_path):
    assert process(tmp_path / "undisturbed", 0, 0.0).communicate()[0].endswith("finished\n")
    expected, kills, inside, attempt = contents(tmp_path / "undisturbed"), 0, 0, 0
    while kills < 20 or inside < 3:
        store = tmp_path / f"killed-{attempt}"
        done, torn = killed_at_random(store, 20, attempt)
        kills, inside, attempt = kills + done, inside + torn, attempt + 1
        assert {name: found for name, found in contents(store).items() if "partial" not in name} == expected
        assert attempt < 10, f"{kills} kills, {inside} of them inside a write"
    print(f"{kills} kills, {inside} of them inside a write, {attempt} stores")


def test_a_real_kill_changes_nothing_in_the_end(tmp_path):
    child = process(tmp_path / "store", 1, 0.1, values=2)  # kills itself inside of a write
    assert "inside a write" in child.communicate()[0]
    assert child.returncode == -signal.SIGKILL
    assert any("dead.partial" in name for name in contents(tmp_path))
    names: dict[str, Any] = {"jax": jax, "jnp": jnp, "ne": ne}
    exec(RUN, names)
    with jax.numpy_dtype_promotion("standard"):
        assert 0 < xarray.open_zarr(tmp_path / "store", chunks=None).done.values.sum() < 160
        resumed, undisturbed = (names["long_sweep"](path, 2) for path in (tmp_path / "store", None))
        xarray.testing.assert_identical(resumed.load(), undisturbed)


# --- stores of other sweeps ------------------------------------------------------------------------------------------


def refuses(store, match, function=run, **options):
    before = contents(store)
    with pytest.raises(ValueError, match=match) as caught:
        sweep(store, function, **options)
    assert "is left as it is" in str(caught.value)
    assert contents(store) == before


def test_another_configuration_is_refused_and_told_apart(undisturbed):
    shorter = AXES | {"a": [0.5, 1.0]}
    refuses(undisturbed, r"axis 'a' was \[0.5, 1.0, 2.0\] \(float\) and is \[0.5, 1.0\]", axes=shorter)
    refuses(undisturbed, r"axis 'n' was \[1, 2\] \(int\) and is \[1.0, 2.0\]", axes=AXES | {"n": [1.0, 2.0]})
    refuses(undisturbed, "the axes were in the order", axes=dict(reversed(AXES.items())))
    refuses(undisturbed, r"the seeds were \[0, 1, 2, 3, 4\] and are \[0, 1\]", seeds=2)
    refuses(undisturbed, "the key is another one", key=jax.random.key(8))
    refuses(undisturbed, r"a unit of work was \(1, 1, 3\) runs along the axes and is \(1, 1, 5\)", unit=5)
    with jax.enable_x64(False):
        refuses(undisturbed, "precision was float64 and is float32")


def test_another_computation_is_refused_and_told_apart(undisturbed):
    def changed(key, *, a, n):
        out = run(key, a=a, n=n)
        return out | {"x": out["x"] + 0.125} if n == 2 else out

    refuses(undisturbed, r"the computation at \{\"n\": 2\} is another one", changed)
    refuses(undisturbed, "the results were", lambda key, *, a, n: {"x": run(key, a=a, n=n)["x"]})


def test_another_version_is_refused(undisturbed, monkeypatch):
    current = plans.versions()
    monkeypatch.setattr(plans, "versions", lambda: current | {"jax": "99.0"})
    refuses(undisturbed, f"jax was {jax.__version__} and is 99.0")


@pytest.mark.parametrize("nested", [False, True], ids=["array", "array-in-jit"])
def test_other_numbers_in_an_array_that_the_run_closes_over_are_refused(tmp_path, nested):
    def closing_over(array):
        inner = jax.jit(lambda a: a * array) if nested else lambda a: a * array
        return lambda key, *, a: {"y": jnp.sum(inner(a))}

    numbers = np.linspace(0, 1, 1000)
    sweep(tmp_path / "store", closing_over(numbers), {"a": [0.5]})
    sweep(tmp_path / "store", closing_over(numbers.copy()), {"a": [0.5]})
    numbers[777] += 1e-12
    refuses(tmp_path / "store", "an array that it closes over, has changed", closing_over(numbers), axes={"a": [0.5]})


def test_cells_that_raised_are_computed_once_they_do_not(tmp_path, units):
    broken = True

    def mended(key, *, a, n):
        if n == 2 and broken:
            raise RuntimeError("not yet")
        return run(key, a=a, n=n)

    said = r"15 of 30 runs(.|\n)*at \{'n': 2\}: RuntimeError: not yet(.|\n)*in the store"
    with pytest.raises(ne.SweepError, match=said):
        sweep(tmp_path / "store", mended)
    with pytest.raises(ne.SweepError, match="not yet"):
        sweep(tmp_path / "store", mended)
    assert len(units) == 6
    broken = False
    whole = sweep(tmp_path / "store", mended)
    assert len(units) == 12
    xarray.testing.assert_identical(whole.load(), sweep(None))
    # From now on that computation counts too.
    refuses(tmp_path / "store", "the computation at", lambda key, *, a, n: run(key, a=a + n // 2, n=n))


# --- places that cannot be a store -----------------------------------------------------------------------------------


def test_a_file_is_refused(tmp_path, units):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file; expected the path of a folder"):
        sweep(tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot be made: .*Expected a folder that can be written"):
        sweep(tmp_path / "file" / "store")
    assert (tmp_path / "file").read_text() == "mine"
    assert units == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a sweep"):
        sweep(tmp_path)
    zarr_group = tmp_path / "group"
    zarr.create_group(zarr_group, attributes={"mine": 1})
    with pytest.raises(ValueError, match="holds something else than a sweep"):
        sweep(zarr_group)


def test_a_disk_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch, units):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zarr_files, "_put", refuse)
    with pytest.raises(ValueError, match=r"cannot be made: .*Permission denied"):
        sweep(tmp_path / "store")
    assert units == []
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_keeps_what_is_finished(tmp_path, undisturbed):
    def large(key, *, a, n):
        return {"x": a * n * jax.random.uniform(key, (2000,))}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sweep(tmp_path / "whole", large)
    try:
        # No file may grow beyond 16 kB, and the chunks of x, 48 kB that hardly can be compressed, do not fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
        with pytest.raises(ne.SweepError, match=r"could not be written: .*File too large.*disk full") as caught:
            sweep(tmp_path / "store", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "0 of 30 runs are done and kept" in caught.value.__notes__[0]
    sweep(tmp_path / "store", large)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_two_processes_that_make_one_store_agree_on_the_first(tmp_path, monkeypatch, undisturbed):
    rename = os.rename

    def late(source, target):
        if "building" in str(source) and not Path(target).exists():
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", rename)
                sweep(target)  # another process is faster
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    sweep(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(undisturbed)
    assert os.listdir(tmp_path) == ["store"]
