"""How the program of a loss is read and run: once, by numbers; and what the pass gives besides moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne
from noise_equilibrium._noise._moments import measured_moments, moments_and_mean
from noise_equilibrium._parameters import split
from noise_equilibrium._per_sample import LegGram, _gram_plan, _reading
from noise_equilibrium._per_sample._outer_products import GradientForm, gram
from noise_equilibrium._per_sample._tapped_loss import tap

N, TOKENS = 7, 3
PARAMS = {
    "a": normal(1, 4, 5),
    "b": normal(2, 4),
    "c": normal(3, 2, 4),
    "other": normal(4, 5, 5),
    "words": normal(5, 3, 5),
    "steps": np.arange(2),
}
DATA = (normal(6, N, TOKENS, 5), normal(7, N, TOKENS, 2), np.arange(N) % 3)


def loss(p, z):
    x, y, word = z
    hidden = jnp.tanh((x @ p["other"] + p["words"][word]) @ p["a"].T + p["b"])
    return squared(hidden @ p["c"].T, y)


NEURONS = ne.neuron_rescaling([(leaf("a"), 0), (leaf("b"), 0)], (leaf("c"), 1))
ROTATION = ne.double_rotation((leaf("c"), 1), (leaf("a"), 0))
EVERYTHING = ne.exponential_symmetry(np.eye(ne.flatten(PARAMS)[0].size))


# --- reading ---------------------------------------------------------------------------------------------------------


def nested(depth):
    """W x behind so many calls, rematerialised calls and loops, one inside the other."""

    def function(w, x):
        return w @ x

    for level in range(depth):
        if level % 3 == 2:
            inner = function
            function = lambda w, x, inner=inner: jax.lax.scan(lambda c, _: (c + inner(w, x), None), 0 * x, length=2)[0]  # noqa: E731
        else:
            function = (jax.jit, jax.checkpoint)[level % 3](function)
    return lambda p, z: squared(function(p["w"], z), z)


@pytest.mark.parametrize("depth", [1, 3, 7])
def test_every_equation_is_read_once_at_any_depth(monkeypatch, depth):
    asked = []
    action_of = _reading.action_of
    monkeypatch.setattr(_reading, "action_of", lambda eqn, seen: asked.append(eqn) or action_of(eqn, seen))
    params, data = {"w": normal(1, 4, 4)}, normal(2, N, 4)
    tapped = tap(ne.Problem(nested(depth), data), params, [0])
    assert len(tapped.uses) == 1
    assert len(asked) == depth + 1  # a program at each level, and the product
    tapped.derivatives([jnp.asarray(params["w"])], jnp.asarray(data))
    assert len(asked) == depth + 1  # a run reads nothing


def test_a_program_that_is_called_twice_has_two_uses():
    """JAX keeps one program for both calls: what a use has to find again is told by its number, not by its program."""
    twice = jax.jit(lambda w, s, x: (s * w) @ x)
    problem = ne.Problem(
        lambda p, z: squared(twice(p["w"], 2.0, z[0]) + twice(p["w"], 3.0, z[1]), z[0]),
        (normal(2, N, 4), normal(3, N, 4)),
    )
    symmetry = ne.Symmetry([ne.Leg(leaf("w"), 0)], "symmetric")
    params = {"w": normal(1, 4, 4)}
    gradients = jax.vmap(jax.grad(problem.loss), in_axes=(None, 0))(params, problem.data)["w"]
    centred = gradients - jnp.mean(gradients, axis=0)
    moments = ne.noise_moments(problem, params, symmetry)
    np.testing.assert_allclose(moments.noise_plus, jnp.einsum("nij,nkj->ik", centred, centred) / N, rtol=1e-11)


# --- Grams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "blocks"), [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_grams_that_are_no_matrices_need_no_product_in_which_all_axes_are_shared(rank, blocks):
    """As a matrix product, both operands would be copied to have the shared axes in front."""
    (leg,) = ne.Symmetry([ne.Leg(leaf("a"), 0, blocks=blocks)], "scalar").bind(PARAMS).legs
    form = GradientForm((4, 5), ((0,), (1,)), TOKENS, (0,))
    factors = [normal(1, N, TOKENS, 4), normal(2, N, TOKENS, 5)]
    program = jax.make_jaxpr(gram(form, LegGram(leg, rank), N))(factors)
    products = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert products
    for eqn in products:
        (summed, batch) = eqn.params["dimension_numbers"]
        free = [var.aval.ndim - len(s) - len(b) for var, s, b in zip(eqn.invars, summed, batch, strict=True)]
        assert max(free) > 0, eqn


# --- the mean gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["neurons", "rotation", "both", "matrix"])
@pytest.mark.parametrize("most", [N, 3], ids=["at-once", "in-chunks"])
def test_the_mean_gradient_of_all_parameters_comes_with_the_moments(monkeypatch, name, most):
    monkeypatch.setattr(_gram_plan, "samples_in", lambda *bytes_and_count: most)
    symmetries = {"neurons": [NEURONS], "rotation": [ROTATION], "both": [NEURONS, ROTATION]}
    bound = tuple(s.bind(PARAMS) for s in symmetries.get(name, [ROTATION, EVERYTHING]))
    fresh = lambda p, z: loss(p, z)  # noqa: E731 (what is compiled with another chunk must not be found again)
    problem = ne.Problem(fresh, DATA, weight_decay=0.3)  # decay is no part of the mean gradient of the loss
    moments, mean, _ = moments_and_mean(problem, PARAMS, bound, gradient=True)
    gradient = split(PARAMS)[1](mean)
    floats = {name: value for name, value in PARAMS.items() if name != "steps"}
    expected = jax.grad(lambda p: jnp.mean(jax.vmap(loss, in_axes=(None, 0))(p, DATA)))(floats)
    assert gradient.keys() == PARAMS.keys()
    np.testing.assert_array_equal(gradient["steps"], PARAMS["steps"])
    for key, value in expected.items():
        np.testing.assert_allclose(gradient[key], value, rtol=0, atol=1e-13 * np.max(np.abs(value)), err_msg=key)
    alone, _ = measured_moments(problem, PARAMS, bound)
    for ours, theirs in zip(jax.tree.leaves(moments), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.float32
def test_the_mean_gradient_has_the_precision_of_the_moments():
    params = {name: jnp.asarray(value, jnp.bfloat16) for name, value in PARAMS.items() if name != "steps"}
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16) if x.ndim > 1 else jnp.asarray(x), DATA)
    problem = ne.Problem(loss, data)
    _, mean, _ = moments_and_mean(problem, params, (NEURONS.bind(params),), gradient=True)
    assert {leaf.dtype for leaf in mean} == {jnp.dtype(jnp.float32)}
