"""Numbers that set shapes, lengths and counts are integers and known, wherever they are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium._validate import integer
from noise_equilibrium.models import attention, deep_linear, deep_relu

PROBLEM = ne.Problem(lambda w, z: jnp.sum((w - z) ** 2), np.ones((3, 1)))
STREAM = ne.Problem(lambda w, z: (w - z) ** 2, ne.Stream(jax.random.normal))
EYE = np.eye(2)


def errors(**arguments):
    given = {"seeds": 2, "key": jax.random.key(0)} | arguments
    observe = {"w": lambda w: w}
    ne.weak_error(PROBLEM, ne.GD, ne.GD, jnp.zeros(1), observe, [0.5], 1.0, **given)


# name of the argument, least value, a call
ASKED = {
    "simulate-steps": ("steps", 0, lambda n: ne.simulate(PROBLEM, ne.GD(0.1), jnp.zeros(1), n)),
    "simulate-every": ("every", 1, lambda n: ne.simulate(PROBLEM, ne.GD(0.1), jnp.zeros(1), 0, every=n)),
    "running-every": ("every", 1, lambda n: ne.running(jnp.sum, every=n)),
    "weak_error-seeds": ("seeds", 2, lambda n: errors(seeds=n)),
    "weak_error-batch": ("batch", 1, lambda n: errors(batch=n)),
    "sampled-n": ("n", 1, lambda n: STREAM.sampled(jax.random.key(0), n)),
    "attention-heads": ("heads", 1, attention.Network),
    "deep_relu-depth": ("depth", 2, deep_relu.symmetries),
    "deep_linear-depth": ("depth", 2, deep_linear.symmetries),
    "initial_hessian_trace-d_out": ("d_out", 1, lambda n: ne.exact.initial_hessian_trace(EYE, 2, n, 1.0, 1.0)),
    "two_layer_equilibrium-width": ("a hidden width", 1, lambda n: ne.exact.two_layer_equilibrium(EYE, EYE, EYE, n)),
}
asked = pytest.mark.parametrize(("name", "least", "ask"), ASKED.values(), ids=ASKED)


@asked
@pytest.mark.parametrize("value", [True, np.True_, 2.0, "4", None, np.array([2]), np.float64(2)], ids=repr)
def test_what_is_no_integer_is_refused(name, least, ask, value):
    with pytest.raises(ValueError, match=rf"{name} is .*; expected an integer of at least {least}"):
        ask(value)


@asked
def test_the_least_is_the_least(name, least, ask):
    ask(np.int32(least))
    with pytest.raises(ValueError, match=rf"{name} is {least - 1}; expected an integer of at least {least}"):
        ask(least - 1)


@asked
def test_a_traced_one_is_refused(name, least, ask):
    with pytest.raises(ValueError, match=rf"{name} is traced .*; expected a known integer.* one call for each value"):
        jax.vmap(lambda n: (ask(n), n)[1])(jnp.array([2, 3]))


def test_an_integer_is_one_of_python():
    for value in (3, np.int64(3), np.array(3), jnp.array(3)):
        assert type(integer(value, "n", 0)) is int
    with pytest.raises(ValueError, match="expected an integer of at least 2: one is no average"):
        integer(1, "n", 2, "one is no average")
