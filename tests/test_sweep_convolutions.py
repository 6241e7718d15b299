"""Runs with convolutions: all at once or one after the other, whichever is faster, with the same numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr

import noise_equilibrium as ne
from noise_equilibrium._sweep import _engine as engines
from noise_equilibrium._sweep._engine import Batch

KEY = jax.random.key(1)
AXES = {"rate": [0.5, 1.0], "stride": [1, 2]}


def run(key, *, rate, stride):
    image, kernel = jax.random.split(key)
    x, w = jax.random.normal(image, (1, 1, 6, 6)), rate * jax.random.normal(kernel, (2, 1, 3, 3))

    def turn(total, _):
        return total + jnp.sum(jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME") ** 2), None

    return {"x": jax.lax.scan(turn, jnp.zeros(()), length=2)[0]}


def plain(key, *, rate, stride):
    return {"x": rate * stride * jax.random.normal(key, ())}


def sweep(function=run, **options):
    return ne.sweep(function, AXES, **({"seeds": 4, "key": KEY, "unit": 8, "progress": False} | options))


@pytest.fixture
def batches(monkeypatch):
    """For each batch that is compiled whether it takes its runs in turn."""
    compiled = []

    class Watched(Batch):
        def __init__(self, program, kept, size, in_turn=False):
            compiled.append(in_turn)
            super().__init__(program, kept, size, in_turn)

    monkeypatch.setattr(engines, "Batch", Watched)
    return compiled


def clocks(monkeypatch, turn, once=1.0):
    """As if the two ways took these times."""
    seconds = iter([once, turn] * 10)
    monkeypatch.setattr(engines, "_seconds", lambda *_: next(seconds))


@pytest.mark.slow
def test_the_faster_way_is_chosen_once_and_remembered(tmp_path, monkeypatch, batches):
    expected = sweep(executor=ThreadPoolExecutor(1))
    assert batches == [False, False]  # elsewhere nothing is timed
    batches.clear()
    clocks(monkeypatch, turn=0.5)
    data = sweep(store=tmp_path / "store").load()
    assert batches == [False, True] * 2
    np.testing.assert_allclose(data.x, expected.x, rtol=1e-12)
    known = zarr.open_group(tmp_path / "store", mode="r").attrs["in turn"]
    assert known == {json.dumps({"stride": 1}): True, json.dumps({"stride": 2}): True}
    assert "in turn" not in data.attrs
    # What is missing is computed in the same way, without another look at the clock, here and elsewhere.
    monkeypatch.setattr(engines, "_seconds", None)
    for executor in (None, ThreadPoolExecutor(1)):
        batches.clear()
        zarr.open_group(tmp_path / "store", mode="r+", use_consolidated=False)["done"][...] = False
        xarray.testing.assert_identical(sweep(store=tmp_path / "store", executor=executor).load(), data)
        assert batches == [True, True]


@pytest.mark.slow
def test_a_way_that_is_not_clearly_faster_is_not_chosen(monkeypatch, batches):
    clocks(monkeypatch, turn=0.9)
    together = sweep()
    clocks(monkeypatch, turn=0.1)
    xarray.testing.assert_allclose(sweep(), together, rtol=1e-12)


def test_without_convolutions_nothing_is_timed(monkeypatch, batches):
    monkeypatch.setattr(engines, "_seconds", None)
    sweep(plain)
    assert batches == [False, False]


@pytest.mark.slow
def test_the_clock_itself(batches):
    """Without a pretended one: both are compiled and run, and the results are those of either."""
    data = sweep()
    assert batches == [False, True] * 2
    np.testing.assert_allclose(data.x, sweep(executor=ThreadPoolExecutor(1)).x, rtol=1e-12)


@pytest.mark.slow
def test_a_run_that_raises_is_reported_as_ever(batches):
    like = jax.ShapeDtypeStruct((), np.float64)

    def check(rate):
        if rate > 0.7:
            raise RuntimeError("too much")
        return rate

    def raising(key, *, rate, stride):
        rate = jax.pure_callback(check, like, rate, vmap_method="sequential")
        return run(key, rate=rate, stride=stride)

    with pytest.raises(ne.SweepError, match=r"at \{'rate': 1.0, 'stride': 1\}, seed 0") as caught:
        sweep(raising)
    assert caught.value.dataset.done.sel(rate=0.5).all()
    assert not caught.value.dataset.done.sel(rate=1.0).any()
