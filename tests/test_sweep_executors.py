"""Units computed by other processes: pools, dask and submitit, some of whose workers die or lack what they need."""

import multiprocessing
import os
import pickle
import signal
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import submitit
import xarray
from distributed import Client, LocalCluster

import noise_equilibrium as ne
from noise_equilibrium._sweep import _workers as workers

# Third parties warn of what is theirs: threads and sockets that end with the processes they belong to.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Port .* is already in use:UserWarning"),
]

KEY = jax.random.key(7)
AXES = {"a": [0.5, 1.0, 2.0]}
SPAWN = multiprocessing.get_context("spawn")


def make_run(die: Path | None = None):
    """A run defined inside a function, as in a notebook; the process that first computes it may kill itself once."""

    def perish(a):
        if die is not None:
            try:
                die.rmdir()  # exists once, and only one process can remove it
                os.kill(os.getpid(), signal.SIGKILL)
            except FileNotFoundError:
                pass
        return a

    like = jax.ShapeDtypeStruct((), np.float64)

    def run(key, *, a):
        if die is not None:
            a = jax.pure_callback(perish, like, a, vmap_method="sequential")
        return {"x": a * jax.random.uniform(key, (5,)), "a_squared": a**2}

    return run


def sweep(run, executor=None, **options):
    return ne.sweep(run, AXES, **({"seeds": 4, "key": KEY, "unit": 4, "executor": executor} | options))


@pytest.fixture(scope="module")
def expected():
    return sweep(make_run())


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        yield pool


# --- pools -----------------------------------------------------------------------------------------------------------


def test_a_spawned_pool_computes_the_same_with_and_without_a_store(pool, expected, tmp_path):
    xarray.testing.assert_identical(sweep(make_run(), pool), expected)
    xarray.testing.assert_identical(sweep(make_run(), pool, store=tmp_path / "store").load(), expected)
    xarray.testing.assert_identical(sweep(make_run(), store=tmp_path / "store").load(), expected)


def test_threads_and_single_precision(expected):
    with ThreadPoolExecutor(2) as threads:
        xarray.testing.assert_identical(sweep(make_run(), threads), expected)
        with jax.enable_x64(False):
            assert sweep(make_run(), threads).x.dtype == np.float32


@pytest.mark.slow
def test_a_pool_that_loses_a_process_leaves_holes_that_the_next_call_fills(expected, tmp_path):
    (tmp_path / "die").mkdir()
    run = make_run(tmp_path / "die")
    with (
        ProcessPoolExecutor(1, mp_context=SPAWN) as pool,
        pytest.raises(ne.SweepError, match=r"the unit from \{'a': .*BrokenProcessPool(.|\n)*tries the others again"),
    ):
        sweep(run, pool, store=tmp_path / "store")
    assert not (tmp_path / "die").exists()
    np.testing.assert_array_equal(sweep(run, store=tmp_path / "store").x, expected.x)


def test_runs_that_raise_in_a_worker_are_reported_with_their_coordinates(expected):
    like = jax.ShapeDtypeStruct((), np.float64)

    def check(a):
        if a > 1:
            raise RuntimeError("too much")
        return a

    def run(key, *, a):
        return {"x": jax.pure_callback(check, like, a, vmap_method="sequential") * jax.random.uniform(key, (5,))}

    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(ne.SweepError, match=r"at \{'a': 2.0\}, seed 0") as caught,
    ):
        sweep(run, threads)
    data = caught.value.dataset
    np.testing.assert_array_equal(data.x.sel(a=[0.5, 1.0]), expected.x.sel(a=[0.5, 1.0]))
    assert data.done.all("seed").values.tolist() == [True, True, False]


def test_forked_pools_are_refused():
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pool, pytest.raises(ValueError, match=r"forks its processes.*get_context\(\"spawn\"\)"):
        sweep(make_run(), pool)


# --- dask ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def test_a_dask_cluster_computes_again_what_a_killed_worker_had(cluster, expected, tmp_path):
    (tmp_path / "die").mkdir()
    with Client(cluster) as client:
        before = set(client.run(os.getpid).values())
        data = sweep(make_run(tmp_path / "die"), client, store=tmp_path / "store")
        client.wait_for_workers(2)
        after = set(client.run(os.getpid).values())
    assert not (tmp_path / "die").exists()
    assert len(before - after) == 1  # one process was killed, and another took its place
    np.testing.assert_array_equal(data.x, expected.x)
    assert not data.diverged.any()


def test_workers_that_lack_the_package_are_told_apart_from_runs_that_raise(cluster):
    def forget():
        import sys

        sys.modules["noise_equilibrium"] = None  # as if it were not installed

    def remember():
        import sys

        del sys.modules["noise_equilibrium"]

    with Client(cluster) as client:
        client.run(forget)
        try:
            with pytest.raises(
                ValueError, match=r"a worker lacks a module.*noise_equilibrium.*Install noise_equilibrium"
            ):
                sweep(make_run(), client)
        finally:
            client.run(remember)


# --- submitit --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_submitit_computes_the_same(expected, tmp_path):
    executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    data = ne.sweep(make_run(), AXES, seeds=4, key=KEY, unit=12, executor=executor, store=tmp_path / "store")
    np.testing.assert_allclose(data.x, expected.x, rtol=1e-15)
    np.testing.assert_array_equal(data.a_squared, expected.a_squared)


# --- what a worker may lack ------------------------------------------------------------------------------------------


class Inline:
    """An executor that changes what it is given, and computes at once."""

    def __init__(self, change):
        self._change = change

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(self._change(function, *arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_another_version_in_a_worker_is_refused(monkeypatch):
    here = workers.versions()

    def elsewhere(function, content):
        with monkeypatch.context() as patch:
            patch.setattr(workers, "versions", lambda: here | {"jax": "0.1"})
            return function(content)

    with pytest.raises(ValueError, match=f"a worker has jax 0.1 instead of {jax.__version__}"):
        sweep(make_run(), Inline(elsewhere))


def test_another_program_in_a_worker_is_refused():
    def elsewhere(function, content):
        with jax.default_matmul_precision("highest"):
            return function(content)

    def run(key, *, a):
        return {"x": a * jax.random.uniform(key, (3, 3)) @ jnp.ones((3, 3))}

    with pytest.raises(ValueError, match="a worker traces another program"):
        sweep(run, Inline(elsewhere))


def test_a_store_that_workers_do_not_see_is_refused(tmp_path):
    def elsewhere(function, content):
        (tmp_path / "store").rename(tmp_path / "hidden")
        try:
            return function(content)
        finally:
            (tmp_path / "hidden").rename(tmp_path / "store")

    with pytest.raises(ValueError, match="a worker does not see the store"):
        sweep(make_run(), Inline(elsewhere), store=tmp_path / "store")


def test_a_worker_whose_disk_is_full_stops_the_sweep(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("noise_equilibrium._sweep._store.Store.write", full)
    with pytest.raises(ne.SweepError, match=r"could not keep its unit: .*No space left"):
        sweep(make_run(), Inline(lambda function, content: function(content)), store=tmp_path / "store")


def test_an_executor_never_has_more_tasks_than_are_looked_at(expected, monkeypatch):
    """Each look is at all of them, and each task carries the job."""
    monkeypatch.setattr(workers, "WAITING", 2)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.0)
    waiting, most = [], []

    class Slow(Future):
        """Does its task when it is asked for the second time."""

        def __init__(self, task):
            super().__init__()
            self.task, self.asked = task, 0

        def done(self):
            self.asked += 1
            if self.asked == 2:
                waiting.remove(self)
                self.set_result(self.task())
            return super().done()

    class Executor:
        def submit(self, function, *arguments):
            waiting.append(Slow(lambda: function(*arguments)))
            most.append(len(waiting))
            return waiting[-1]

    xarray.testing.assert_identical(sweep(make_run(), Executor()), expected)
    assert (len(most), max(most)) == (3, 2)


def test_an_interrupt_cancels_what_waits(tmp_path):
    class Waiting(Future):
        def done(self):
            raise KeyboardInterrupt

    futures = []

    class Executor:
        def submit(self, function, *arguments):
            futures.append(Waiting())
            return futures[-1]

    with pytest.raises(KeyboardInterrupt) as caught:
        sweep(make_run(), Executor(), store=tmp_path / "store")
    assert len(futures) == 3
    assert all(future.cancelled() for future in futures)
    assert "0 of 12 runs are done and kept" in caught.value.__notes__[0]


def test_cloudpickle_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cloudpickle", None)
    with pytest.raises(ValueError, match=r"needs the package cloudpickle.*noise_equilibrium\[cluster\]"):
        sweep(make_run(), Inline(pickle.loads))
