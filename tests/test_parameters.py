"""Which leaves are parameters, and their order in a flat vector."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium._parameters import is_parameter


class Pair(NamedTuple):
    second: jax.Array
    first: jax.Array


def test_order_is_that_of_the_tree_and_c_order_inside():
    params = {"b": np.arange(4.0).reshape(2, 2), "a": jnp.array([9.0]), "c": Pair(jnp.array([7.0]), jnp.array(8.0))}
    vector, _ = ne.flatten(params)
    assert vector.tolist() == [9, 0, 1, 2, 3, 7, 8]


def test_unflatten_is_the_inverse():
    params = {"w": jnp.ones((2, 3)), "n": jnp.arange(3), "act": jnp.tanh, "rate": 0.5, "none": None, "name": "net"}
    vector, unflatten = ne.flatten(params)
    again = unflatten(3 * vector)
    np.testing.assert_array_equal(again["w"], 3 * np.ones((2, 3)))
    assert (again["act"], again["rate"], again["none"], again["name"]) == (jnp.tanh, 0.5, None, "net")
    np.testing.assert_array_equal(again["n"], [0, 1, 2])


def test_unflatten_restores_shapes_and_dtypes():
    params = (jnp.ones((1, 2), jnp.float32), jnp.zeros((), jnp.float32))
    vector, unflatten = ne.flatten(params)
    assert vector.dtype == jnp.float32
    assert [(a.shape, a.dtype) for a in unflatten(vector)] == [((1, 2), jnp.float32), ((), jnp.float32)]


def test_modules_are_params():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    vector, unflatten = ne.flatten(model)
    assert vector.shape == (2 * 3 + 3 + 3 * 1 + 1,)
    np.testing.assert_array_equal(unflatten(vector)(jnp.ones(2)), model(jnp.ones(2)))


def test_flatten_works_under_jit_grad_and_vmap():
    def norm(params):
        return jnp.sum(ne.flatten(params)[0] ** 2)

    params = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    assert float(jax.jit(norm)(params)) == 9
    np.testing.assert_array_equal(jax.grad(norm)(params)["a"], [0, 2, 4])
    np.testing.assert_array_equal(jax.vmap(norm)({"a": jnp.eye(3), "b": jnp.zeros((3, 1))}), [1, 1, 1])


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (jnp.ones(2), True),
        (np.ones(2), True),
        (np.float32(1), True),
        (jnp.ones(2, jnp.bfloat16), True),
        (jnp.arange(2), False),
        (np.array([True]), False),
        (jnp.ones(2, complex), False),
        (1.0, False),
        (jnp.tanh, False),
    ],
    ids=["jax", "numpy", "scalar", "bfloat16", "integer", "boolean", "complex", "python-float", "function"],
)
def test_floating_arrays_are_parameters(leaf, expected):
    assert is_parameter(leaf) is bool(expected)


@pytest.mark.parametrize(
    "params", [{}, (1.0, "w"), {"n": jnp.arange(3)}, 2.5, None], ids=["empty", "number", "integer", "bare", "none"]
)
def test_params_without_arrays_are_refused(params):
    with pytest.raises(ValueError, match=r"params has no floating-point array.*jnp\.asarray\(1\.0\) instead of 1\.0"):
        ne.flatten(params)


def test_complex_params_are_refused():
    with pytest.raises(ValueError, match="leaf of dtype complex128; expected real parameters"):
        ne.flatten({"w": jnp.ones(2), "z": jnp.ones(2, complex)})
