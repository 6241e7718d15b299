"""Ratios that can be trusted on a noisy machine: compiled beforehand, interleaved, medians."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Timing:
    """One function, compiled for given arguments.

    Attributes:
        compile_seconds: tracing and compilation, once.
        run_seconds: the median of the runs.
        flops: what the compiler counts.
        temporary_bytes: what the compiled program needs besides inputs and outputs.
        result: of the first run.
    """

    compile_seconds: float
    run_seconds: float
    flops: float
    temporary_bytes: int
    result: Any


def measure(functions: dict[str, Callable[..., Any]], arguments: tuple[Any, ...], repeats: int) -> dict[str, Timing]:
    """Time functions of the same arguments in turn, A B C A B C …, so that a slow moment strikes all alike."""
    compiled, compile_seconds, results = {}, {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(*arguments).compile()
        compile_seconds[name] = time.perf_counter() - start
        results[name] = jax.block_until_ready(compiled[name](*arguments))
    runs: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            runs[name].append(time.perf_counter() - start)
    return {
        name: Timing(
            compile_seconds[name],
            statistics.median(runs[name]),
            program.cost_analysis()["flops"],
            program.memory_analysis().temp_size_in_bytes,
            results[name],
        )
        for name, program in compiled.items()
    }
