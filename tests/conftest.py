"""Settings shared by all tests: double precision, no implicit dtype promotion, no display, and room for programs.

The environment is set before anything imports JAX.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread per worker: they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import itertools
from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import pytest
from hypothesis import settings

# Compilation makes the first example slow, and the same examples on every run keep the suite reproducible.
settings.register_profile("noise_equilibrium", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("noise_equilibrium")


@pytest.fixture(scope="session", autouse=True)
def strict_double_precision() -> Iterator[None]:
    """Float64 and strict promotion for every test and for fixtures of any scope."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Single precision for the tests that are marked `float32`, double precision for all others."""
    with jax.enable_x64(request.node.get_closest_marker("float32") is None):
        yield


@pytest.fixture(autouse=True)
def traces() -> None:
    """`chex.assert_max_traces` counts from zero in every test: it tells functions apart by their source alone."""
    chex.clear_trace_counter()


# A compiled program holds memory maps, that of an equilibrium some 500, and Linux gives a process 65,530 of them; the
# compiler dies on the next. Listing them takes up to 30 ms, so not every test looks.
MOST_MAPS, LOOK_EVERY = 16_000, 8
tests_so_far = itertools.count(1)


@pytest.fixture(autouse=True)
def room_for_programs() -> Iterator[None]:
    """Forgets compiled programs before they fill the process."""
    yield
    maps = Path("/proc/self/maps")
    if next(tests_so_far) % LOOK_EVERY == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
