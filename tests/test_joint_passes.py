"""Joint equilibria from one pass over the data: what is measured, how often, and that it is what turns would find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium._equilibrium import _find, _joint
from noise_equilibrium._equilibrium._turns import data_ground, search
from noise_equilibrium._flow import as_law
from noise_equilibrium._noise import measured_moments
from noise_equilibrium._noise._reference import per_sample_gradients
from noise_equilibrium._parameters import split
from noise_equilibrium._symmetry import ElementwiseLegs, MatrixLegs
from noise_equilibrium._symmetry._algebra import ALGEBRAS
from noise_equilibrium._symmetry._leg import BoundLeg


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


# --- single entries of a gradient -------------------------------------------------------------------------------------

TABLE, SHAPES = normal(0, 5, 3), {"w": (4, 3), "v": (2, 4), "e": (7, 3), "stack": (2, 3, 3)}


def positions(p, z):
    return jnp.sum(jnp.tanh(jnp.tanh(z @ p["w"].T) @ p["v"].T) ** 2)


def sliced(p, z):
    return jnp.sum(jnp.tanh(z @ p["w"][:2].T) ** 2) + jnp.sum((z @ p["w"][2:].T) ** 2)


def looked_up(p, z):
    index = jnp.argsort(z[:, 0]) % 7
    return jnp.sum(jnp.sin(p["e"][index] @ p["w"].T))


def layers(p, z):
    return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), z, p["stack"])[0] ** 2)


def normalised(p, z):
    return jnp.sum(z @ (p["w"] / jnp.linalg.norm(p["w"])).T) ** 2


@pytest.mark.parametrize("loss", [positions, sliced, looked_up, layers, normalised])
def test_second_moments_of_single_entries_are_those_of_the_gradients(loss):
    params = {name: normal(i, *shape) for i, (name, shape) in enumerate(SHAPES.items())}
    problem = ne.Problem(loss, normal(9, 20, 5, 3))
    arrays, _ = split(params)
    used = [i for i, g in enumerate(per_sample_gradients(problem, params)) if np.any(g)]
    legs = [BoundLeg(i, (), 1, (), "").of_entries(arrays[i].shape) for i in used]
    terms = tuple(ElementwiseLegs((leg,), ALGEBRAS["diagonal"]) for leg in legs)
    gradients = per_sample_gradients(problem, params)
    for place, moments in zip(used, measured_moments(problem, params, terms)[0], strict=True):
        flat = np.asarray(gradients[place]).reshape(20, -1)
        np.testing.assert_allclose(moments.noise[0], flat.var(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.mean[0], flat.mean(axis=0) ** 2, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.weight[0], arrays[place].ravel() ** 2, rtol=1e-12)


# --- networks ---------------------------------------------------------------------------------------------------------


def mlp(widths, samples=30, decay=1e-2):
    params = [
        {"w": normal(i, b, a), "b": 0.3 * normal(20 + i, b)} for i, (a, b) in enumerate(itertools.pairwise(widths))
    ]

    def loss(p, z):
        h, y = z
        for layer in p[:-1]:
            h = jax.nn.relu(layer["w"] @ h + layer["b"])
        return jnp.sum((p[-1]["w"] @ h + p[-1]["b"] - y) ** 2)

    def at(i, name, axis):
        return (lambda p: p[i][name], axis)

    symmetries = [
        ne.neuron_rescaling([at(i, "w", 0), at(i, "b", 0)], at(i + 1, "w", 1)) for i in range(len(widths) - 2)
    ]
    return (
        ne.Problem(loss, (normal(40, samples, widths[0]), normal(41, samples, widths[-1])), decay),
        params,
        symmetries,
    )


def counted(monkeypatch):
    """How many passes over the data a program holds."""
    passes = []
    for module in (_joint, _find):
        original = module.measured_moments
        monkeypatch.setattr(module, "measured_moments", lambda *a, f=original: (passes.append(1), f(*a))[1])
    return passes


def by_turns(problem, params, symmetries, law):
    """What balancing in turn finds, with a pass over the data for every turn."""
    arrays, rebuild = split(params)
    bound = tuple(symmetry.bind(params) for symmetry in symmetries)
    return search(data_ground(problem, rebuild), arrays, bound, as_law(law).charge_law(problem))


@pytest.mark.parametrize(
    "law",
    [0.05, pytest.param(ne.SGD(0.05, 4, replacement=False), marks=pytest.mark.slow)],
    ids=["σ²", "without"],
)
def test_scalings_that_share_parameters_need_one_pass(law, monkeypatch):
    problem, params, symmetries = mlp((3, 5, 4, 6, 2))
    passes = counted(monkeypatch)
    found = ne.find_equilibrium(problem, params, symmetries, law)
    assert len(passes) == 2  # the moments, and the residual
    turns = by_turns(problem, params, symmetries, law)
    assert found.residual <= 1e-9
    assert found.status == ne.Status.CONVERGED
    for one, other in zip(found.element, turns.elements, strict=True):
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=0, atol=1e-8)
    assert int(turns.sweeps) > 2


@pytest.mark.slow
def test_a_dead_neuron_between_scaled_layers_rests_and_an_unused_one_dies():
    """Without decay nothing acts on a dead neuron; with an outgoing weight of 0 it is only pushed to 0."""
    problem, params, symmetries = mlp((3, 4, 4, 2), decay=0.0)
    params[0]["b"] = params[0]["b"].at[1].set(-200.0)
    params[2]["w"] = params[2]["w"].at[:, 2].set(0.0)
    found = ne.find_equilibrium(problem, params, symmetries, 0.05)
    turns = by_turns(problem, params, symmetries, 0.05)
    assert found.status == ne.Status.LIMIT
    assert found.element[0][1] == 0
    assert jnp.isinf(found.element[1][2])
    for one, other in zip(found.element, turns.elements, strict=True):
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=0, atol=1e-8)
    np.testing.assert_allclose(problem.risk(found.params), problem.risk(params), rtol=1e-10)


@pytest.mark.slow
def test_derivatives_through_one_pass_are_finite_differences():
    problem, params, symmetries = mlp((3, 4, 5, 2), samples=20)
    along = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(1.0, 1 + leaf.size)).reshape(leaf.shape), params)

    @jax.jit
    def value(t):
        moved = jax.tree.map(lambda a, b: a + t[0] * b, params, along)
        x, y = problem.data
        changed = ne.Problem(problem.loss, (x, y * (1 + t[1])), 1e-2 * (1 + t[2]))
        found = ne.find_equilibrium(changed, moved, symmetries, 0.05 * (1 + t[3]))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found.params))

    zero, direction, h = jnp.zeros(4), jnp.array([0.2, 0.4, -0.6, 0.5]), 1e-4
    low2, low, high, high2 = (value(k * h * direction) for k in (-2, -1, 1, 2))
    numerical = (low2 - 8 * low + 8 * high - high2) / (12 * h)
    np.testing.assert_allclose(jnp.dot(jax.grad(value)(zero), direction), numerical, rtol=1e-6)


# --- matrices: many layers, one batch ---------------------------------------------------------------------------------


def attention(layers=3, width=6, heads=2):
    keys = itertools.count(50)
    params = [{name: normal(next(keys), width, width) / 2 for name in "qkvo"} for _ in range(layers)]

    def loss(p, z):
        x, y = z
        for layer in p:
            q, k, v = ((x @ layer[name].T).reshape(len(x), heads, -1) for name in "qkv")
            scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k), axis=-1)
            x = x + jnp.einsum("hts,shd->thd", scores, v).reshape(x.shape) @ layer["o"].T
        return jnp.sum((x - y) ** 2)

    symmetries = []
    for i in range(layers):
        q, k, v, o = ((lambda p, i=i, n=name: p[i][n]) for name in "qkvo")
        symmetries += [
            ne.double_rotation((q, 0), (k, 0), blocks=heads),
            ne.double_rotation((o, 1), (v, 0), blocks=heads),
        ]
    return ne.Problem(loss, (normal(1, 24, 4, width), normal(2, 24, 4, width)), 1e-2), params, symmetries


def test_many_layers_are_one_batch_and_the_same_as_each_alone(monkeypatch):
    problem, params, symmetries = attention()
    balances = []
    original = MatrixLegs.balance
    monkeypatch.setattr(MatrixLegs, "balance", lambda *a: (balances.append(1), original(*a))[1])
    passes = counted(monkeypatch)
    found = ne.find_equilibrium(problem, params, symmetries, 0.05)
    assert len(balances) == 1  # six symmetries of two kinds of legs, but one program
    assert len(passes) == 2
    assert found.status == ne.Status.CONVERGED
    assert found.residual <= 1e-9
    for place in (0, 3):
        alone = ne.find_equilibrium(problem, params, symmetries[place], 0.05)
        np.testing.assert_allclose(found.element[place], alone.element, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_what_does_not_share_is_not_balanced_in_turn():
    """A chain of two matrix symmetries takes turns; a third that stands apart is done at once, with the same result."""
    weights = [normal(i, 3, 3) for i in range(3)] + [normal(7, 4, 3), normal(8, 3, 4)]

    def loss(p, z):
        x, y = z
        return jnp.sum((p[2] @ p[1] @ p[0] @ x - y) ** 2) + jnp.sum((p[4] @ p[3] @ x - y) ** 2)

    problem = ne.Problem(loss, (normal(9, 30, 3), normal(10, 30, 3)), 1e-2)
    chain = [
        ne.double_rotation((lambda p: p[1]), (lambda p: p[0])),
        ne.double_rotation((lambda p: p[2]), lambda p: p[1]),
    ]
    apart = ne.double_rotation(lambda p: p[4], lambda p: p[3])
    found = ne.find_equilibrium(problem, weights, [chain[0], apart, chain[1]], 0.05)
    assert found.residual <= 1e-9
    assert found.status == ne.Status.CONVERGED
    assert int(found.sweeps) >= 2
    alone = ne.find_equilibrium(problem, weights, apart, 0.05)
    np.testing.assert_allclose(found.element[1], alone.element, rtol=0, atol=1e-9)
