"""Rebalancing in a training loop: the function stays, the point is right, the optimiser's state follows."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_move_along import ROTATION, linear_problem, loss, neurons, relu_problem

import noise_equilibrium as ne

BOTH = [neurons(0), neurons(1)]


def gradient(params, batch, loss=loss):
    return jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params)


def trained(tx, steps, problem, params, jit=True):
    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies by Python numbers of its own types
            updates, state = tx.update(gradient(params, problem.data, problem.loss), state, params, data=problem.data)
        return optax.apply_updates(params, updates), state

    step, state = jax.jit(step) if jit else step, tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_every_third_step_lands_on_the_equilibrium_of_the_point_that_training_reached():
    problem, params = relu_problem()
    sgd, dynamics = optax.sgd(0.01), ne.SGD(0.01, 4)
    tx = optax.chain(sgd, ne.rebalance(loss, BOTH, every=3, dynamics=dynamics, weight_decay=0.01))
    ended, state = trained(tx, 3, problem, params)
    plain, _ = trained(optax.chain(sgd), 2, problem, params)
    updates, _ = sgd.update(gradient(plain, problem.data), sgd.init(params))
    plain = optax.apply_updates(plain, updates)
    there = ne.find_equilibrium(ne.Problem(loss, problem.data, 0.01), plain, BOTH, dynamics).params
    for one, other in zip(jax.tree.leaves(ended), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(problem.risk(ended), problem.risk(plain), rtol=1e-11)
    assert int(state[1].status) == ne.Status.CONVERGED
    assert int(state[1].updates) == 3


@pytest.mark.slow
def test_nothing_moves_before_its_time():
    problem, params = relu_problem()
    tx = optax.chain(optax.sgd(0.01), ne.rebalance(loss, BOTH, every=5))
    ended, state = trained(tx, 4, problem, params)
    plain, _ = trained(optax.chain(optax.sgd(0.01)), 4, problem, params)
    for one, other in zip(jax.tree.leaves(ended), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert int(state[1].status) == -1


@pytest.mark.parametrize("kind", ["relu", pytest.param("linear", marks=pytest.mark.slow)])
def test_momentum_is_moved_as_gradients_are(kind):
    """The momentum after a motion is that of a run in which every past gradient was taken at the moved point."""
    problem, params = relu_problem() if kind == "relu" else linear_problem()
    symmetry = neurons(0) if kind == "relu" else ROTATION
    # A learning rate of zero: the parameters stand still, and momentum is a multiple of the gradient there.
    tx = ne.rebalance(problem.loss, symmetry, every=2, to="norm", optimizer=optax.sgd(0.0, momentum=0.5))
    ended, state = trained(tx, 2, problem, params)
    momentum = state.inner[0].trace
    expected = jax.tree.map(lambda g: 1.5 * g, gradient(ended, problem.data, problem.loss))
    for one, other in zip(jax.tree.leaves(momentum), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_squares_of_adam_are_moved_as_squares_of_gradients():
    problem, params = relu_problem()
    tx = ne.rebalance(loss, neurons(0), every=2, to="norm", optimizer=optax.adam(0.0))
    ended, state = trained(tx, 2, problem, params)
    _, plain = trained(ne.rebalance(loss, neurons(0), every=9, to="norm", optimizer=optax.adam(0.0)), 2, problem, ended)
    for name in ("mu", "nu"):
        moved, at_end = (jax.tree.leaves(getattr(s.inner[0], name)) for s in (state, plain))
        for one, other in zip(moved, at_end, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
def test_the_state_can_be_reset():
    problem, params = relu_problem()
    tx = ne.rebalance(loss, BOTH, every=2, optimizer=optax.adam(1e-3), state="reset")
    _, state = trained(tx, 2, problem, params)
    moments = jax.tree.leaves((state.inner[0].mu, state.inner[0].nu))
    assert all(float(jnp.max(jnp.abs(leaf))) == 0 for leaf in moments)
    assert int(state.inner[0].count) == 2


@pytest.mark.slow
def test_behind_multi_transform_and_inside_masked():
    problem, params = relu_problem()
    labels = jax.tree.map_with_path(lambda path, _: "slow" if path[0].idx == 2 else "fast", params)
    both = optax.multi_transform({"fast": optax.adam(1e-2), "slow": optax.sgd(1e-3)}, labels)
    ended, state = trained(optax.chain(both, ne.rebalance(loss, BOTH, every=1)), 2, problem, params)
    assert int(state[1].status) == ne.Status.CONVERGED
    mask = [{"w": True, "b": True}, {"w": True, "b": True}, {"w": False, "b": False}]
    inside = optax.chain(optax.sgd(1e-2), optax.masked(ne.rebalance(loss, neurons(0), every=1, to="norm"), mask))
    ended, _ = trained(inside, 1, problem, params)
    np.testing.assert_allclose(neurons(0).charge(ended), jnp.zeros(6), atol=1e-10)


@pytest.mark.slow
def test_an_equinox_module_in_single_precision():
    with jax.enable_x64(False):
        model = eqx.nn.MLP(3, 2, 8, 1, key=jax.random.key(0))
        trainable, static = eqx.partition(model, eqx.is_inexact_array)

        def loss(trainable, sample):
            return jnp.sum((eqx.combine(trainable, static)(sample[0]) - sample[1]) ** 2)

        keys = jax.random.split(jax.random.key(1))
        data = jax.random.normal(keys[0], (20, 3)), jax.random.normal(keys[1], (20, 2))
        hidden = ne.neuron_rescaling(
            [(lambda m: m.layers[0].weight, 0), (lambda m: m.layers[0].bias, 0)], (lambda m: m.layers[1].weight, 1)
        )
        tx = optax.chain(optax.adam(1e-3), ne.rebalance(loss, hidden, every=2))
        problem = ne.Problem(loss, data)
        _, state = trained(tx, 4, problem, trainable)
        assert int(state[1].status) == ne.Status.CONVERGED


def test_a_loss_without_the_symmetry_is_refused_at_the_first_call():
    problem, params = relu_problem()

    def tanh_loss(params, sample):
        hidden = jnp.tanh(params[0]["w"] @ sample[0] + params[0]["b"])
        return jnp.sum((params[1]["w"] @ hidden) ** 2)

    tx = ne.rebalance(tanh_loss, neurons(0), every=10)
    with pytest.raises(ne.SymmetryError, match="the loss lacks the symmetry"):
        tx.update(params, tx.init(params), params, data=problem.data)


@pytest.mark.slow
def test_a_masked_optimiser_is_moved_too():
    problem, params = relu_problem()
    mask = [{"w": True, "b": True}, {"w": True, "b": True}, {"w": False, "b": False}]
    inner = optax.masked(optax.sgd(0.0, momentum=0.5), mask)
    tx = ne.rebalance(loss, neurons(0), every=2, to="norm", optimizer=inner)

    def step(params, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient(params, problem.data), state, params, data=problem.data)
        updates[2] = jax.tree.map(jnp.zeros_like, updates[2])  # what is masked passes through as its gradient
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(2):
        params, state = step(params, state)
    momentum, expected = state.inner.inner_state[0].trace, gradient(params, problem.data)
    for place in (0, 1):
        for name in ("w", "b"):
            np.testing.assert_allclose(momentum[place][name], 1.5 * expected[place][name], rtol=1e-9, atol=1e-11)
    assert isinstance(momentum[2]["w"], optax.MaskedNode)


def test_bad_arguments_are_refused():
    _, params = relu_problem()
    with pytest.raises(ValueError, match="every is 0; expected an integer of at least 1"):
        ne.rebalance(loss, BOTH, every=0)
    with pytest.raises(ValueError, match="dynamics came with to='norm'"):
        ne.rebalance(loss, BOTH, every=1, to="norm", dynamics=ne.SGD(0.1, 2))
    with pytest.raises(ValueError, match="the objective is 'sharpest'"):
        ne.rebalance(loss, BOTH, every=1, to="sharpest")
    with pytest.raises(ValueError, match="state is 'keep'; expected 'move' or 'reset'"):
        ne.rebalance(loss, BOTH, every=1, state="keep")
    with pytest.raises(ValueError, match=r"weight_decay is 0\.1 without dynamics"):
        ne.rebalance(loss, BOTH, every=1, weight_decay=0.1)
    with pytest.raises(ValueError, match="dynamics samples with replacement=False; expected True"):
        ne.rebalance(loss, BOTH, every=1, dynamics=ne.SGD(0.1, 2, False))
    with pytest.raises(ValueError, match=r"symmetries is \[\]; expected a Symmetry"):
        ne.rebalance(loss, [], every=1)
    tx = ne.rebalance(loss, BOTH, every=1)
    with pytest.raises(ValueError, match=r"expected update\(gradients, state, params, data=batch\)"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="expected the batch as an extra argument"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("wrapped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_between_motions_updates_are_the_optimisers_and_cost_nothing(wrapped):
    """To the last bit, and in the compiled program the branch that stays has nothing to do: it copies no parameter."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        problem, params = relu_problem()
        params, data = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, problem.data))
        adam, slope = optax.adam(1e-2), gradient(params, data)
        if wrapped:
            tx = ne.rebalance(loss, neurons(0), every=2, to="norm", optimizer=adam)
        else:
            tx = optax.chain(adam, ne.rebalance(loss, neurons(0), every=2, to="norm"))
        update = jax.jit(lambda slope, state, params: tx.update(slope, state, params, data=data))
        expected, _ = jax.jit(adam.update)(slope, adam.init(params), params)
        found, _ = update(slope, tx.init(params), params)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)
        program = update.lower(slope, tx.init(params), params).compile().as_text()
    (names,) = re.findall(r" conditional\(.*branch_computations=\{%?([\w.\-]+), %?([\w.\-]+)\}", program)
    stays, moves = (re.search(rf"^%?{re.escape(name)} .*?^\}}", program, re.M | re.S)[0] for name in names)
    # A computation is its head, its operations and a brace.
    assert len(stays.splitlines()) < 6 < len(moves.splitlines())
    assert " copy(" not in stays
