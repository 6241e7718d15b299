"""Decompositions: those of JAX in value and derivative, and on a CPU never a batch."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from noise_equilibrium import _linalg

PACKAGE = Path(_linalg.__file__).parent
DECOMPOSITIONS = {
    "eigh": (_linalg.eigh, lambda x: tuple(jnp.linalg.eigh(x))),
    "svd": (_linalg.svd, lambda x: tuple(jnp.linalg.svd(x, full_matrices=False))),
    "inv": (_linalg.inv, jnp.linalg.inv),
}
QUICK = [("eigh", (4, 4)), ("svd", (4, 4)), ("svd", (3, 5)), ("inv", (4, 4))]
TALL = ("svd", (5, 3))
CASES = [*QUICK, TALL]


def example(name, shape, *outer):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*outer, *shape)))
    return x + x.mT if name == "eigh" else x


def assert_same(found, expected, rtol=1e-10):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(other))))


@pytest.mark.parametrize(("name", "shape"), [*QUICK, pytest.param(*TALL, marks=pytest.mark.slow)])
def test_values_and_derivatives_are_those_of_jax(name, shape):
    ours, theirs = DECOMPOSITIONS[name]
    x = example(name, shape)

    def summed(function):
        return lambda x: sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(function(x)))

    assert_same(ours(x), theirs(x))
    assert_same(*(jax.jvp(function, (x,), (jnp.cos(x),))[1] for function in (ours, theirs)))
    assert_same(jax.grad(summed(ours))(x), jax.grad(summed(theirs))(x))
    assert_same(jax.hessian(summed(ours))(x), jax.hessian(summed(theirs))(x), rtol=1e-8)
    assert_same(jax.vmap(jax.grad(summed(ours)))(x[None]), jax.vmap(jax.grad(summed(theirs)))(x[None]))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_stacks_and_batches_are_taken_one_by_one(name, shape):
    ours, theirs = DECOMPOSITIONS[name]
    x = example(name, shape, 2, 3)
    assert_same(ours(x), theirs(x))
    assert_same(jax.vmap(ours)(x), theirs(x))
    assert_same(jax.jit(jax.vmap(jax.vmap(ours)))(x), theirs(x))


def test_a_decomposition_that_has_no_derivative_says_so():
    eye = jnp.eye(3)
    assert not jnp.all(jnp.isfinite(jax.jvp(_linalg.eigh, (eye,), (jnp.ones((3, 3)),))[1][1]))
    assert not jnp.all(jnp.isfinite(jax.jvp(_linalg.svd, (eye,), (jnp.ones((3, 3)),))[1][0]))


def test_cholesky_and_the_inverse_of_its_root():
    x = example("eigh", (4, 4), 2)
    matrix = x @ x.mT
    root, inverse = _linalg.cholesky(matrix)
    assert_same(root @ root.mT, matrix)
    assert_same(inverse @ root, jnp.broadcast_to(jnp.eye(4), (2, 4, 4)))
    assert jnp.all(jnp.isnan(_linalg.cholesky(-matrix)[0]) | (_linalg.cholesky(-matrix)[0] == 0))


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.3, 3.0, 30.0])
def test_the_exponential_is_that_of_scipy(size):
    x = size * np.random.default_rng(0).normal(size=(5, 5))
    x = x + x.T
    expected = scipy.linalg.expm(x)
    found = _linalg.expm(jnp.asarray(x))
    # e^M in n bits has a relative error of about ‖M‖ε.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * max(size, 1) * 10 * np.max(np.abs(expected)))
    both = jnp.stack([jnp.asarray(x), jnp.zeros((5, 5))])
    np.testing.assert_allclose(_linalg.expm(both)[1], np.eye(5))
    direction = np.random.default_rng(1).normal(size=(5, 5))
    derivative = jax.jvp(_linalg.expm, (jnp.asarray(x),), (jnp.asarray(direction),))[1]
    exact = scipy.linalg.expm_frechet(x, direction, compute_expm=False)
    np.testing.assert_allclose(derivative, exact, rtol=0, atol=1e-12 * max(size, 1) * np.max(np.abs(exact)))


def everything(x):
    return _linalg.eigh(x), _linalg.svd(x), _linalg.inv(x), _linalg.cholesky(x), _linalg.expm(x)


def test_a_program_for_a_cpu_holds_no_batch_of_matrices():
    """What deadlocks is a call to LAPACK, here named lapack_*, with more than one matrix."""
    text = jax.jit(jax.vmap(jax.vmap(everything))).lower(jnp.zeros((2, 3, 4, 4))).as_text()
    calls = [line for line in text.splitlines() if "lapack_" in line]
    assert len(calls) >= 5
    shapes = [shape for line in calls for shape in re.findall(r"tensor<([\dx]+)xf64>", line)]
    assert {tuple(shape.split("x")) for shape in shapes} == {("4", "4"), ("4",)}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_devices_get_the_batch(platform):
    batch = jax.ShapeDtypeStruct((3, 4, 4), jnp.float32)
    assert jax.export.export(jax.jit(jax.vmap(everything)), platforms=[platform])(batch).mlir_module()


def test_no_other_module_decomposes_matrices():
    allowed = {"norm"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("jnp.linalg", "jax.scipy.linalg"):
                assert path.name == "_linalg.py" or node.attr in allowed, f"{path}: {ast.unparse(node)}"
