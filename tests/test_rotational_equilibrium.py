"""Rotational equilibrium: the identity of a step, and norm, angle and time constant against long runs."""

from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import noise_equilibrium as ne

SIZE, RATE, RUNS = 16, 0.05, 64
BETA, BETAS = 0.9, (0.9, 0.98)
SHRINK = 1e-3  # ηλ; of momentum at η_eff


def wander(params, sample):
    """A loss that knows the direction of θ only, and whose noise is the same in all directions."""
    return jnp.vdot(sample, params) / jnp.linalg.norm(params)


# Signs, ± the rows of a Hadamard matrix: E|ĝ|²‖θ‖² = SIZE − 1 at S = 1, and squares of entries that fluctuate little,
# as the law of Adam has it.
SIGNS = reduce(np.kron, 4 * [np.array([[1.0, 1.0], [1.0, -1.0]])])
AXES = np.concatenate([SIGNS, -SIGNS])


def case(name):
    """The problem, the dynamics, the decay to give, a norm near that of rest, and the angle per step of theory."""
    if name == "AdamW":
        dynamics = ne.Optax(optax.adamw(RATE, *BETAS, weight_decay=SHRINK / RATE), 1)
        angle = np.sqrt(2 * SHRINK * (1 - BETAS[0]) / (1 + BETAS[0]))
        return ne.Problem(wander, AXES), dynamics, SHRINK, np.sqrt(RATE * SIZE / (2 * SHRINK / RATE)), angle
    gamma = SHRINK / (2 * RATE)
    norm = (RATE * (SIZE - 1) / (2 * SHRINK / RATE)) ** 0.25
    if name == "SGD":
        return ne.Problem(wander, AXES, gamma), ne.SGD(RATE, 1), None, norm, np.sqrt(2 * SHRINK)
    momentum = ne.Momentum(RATE * (1 - BETA), BETA, 1)
    return ne.Problem(wander, AXES, gamma), momentum, None, norm, np.sqrt(2 * SHRINK * (1 - BETA) / (1 + BETA))


def start(norm):
    direction = jax.random.normal(jax.random.key(3), (SIZE,))
    return norm * direction / jnp.linalg.norm(direction)


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5


@eqx.filter_jit
def norms(problem, dynamics, norm, keys, steps, every):
    """‖θ‖² of runs from a norm."""

    def one(key):
        watch = {"square": lambda w: jnp.sum(w**2)}
        return ne.simulate(problem, dynamics, start(norm), steps, key=key, observe=watch, every=every)

    return jax.vmap(one)(keys).observed["square"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "Momentum", "AdamW"])
def test_the_norm_at_rest_is_predicted_from_short_runs_far_from_it(name):
    problem, dynamics, decay, norm, angle = case(name)
    keys = jax.random.split(jax.random.key(0), (2, RUNS))
    # 240 steps, of which 60 are left out, are many memories of the optimiser, and half of a relaxation at most.
    found = jax.vmap(
        lambda key: ne.rotational_equilibrium(problem, start(1.3 * norm), dynamics, 240, key=key, decay=decay)
    )(keys[0])
    assert float(found.measured_norm.mean()) > 1.15 * norm
    rest = np.asarray(norms(problem, dynamics, norm, keys[1], 8000, 50))[:, 60:].mean(axis=1)
    (predicted, of_prediction), (measured, of_rest) = mean_and_error(found.norm), mean_and_error(rest**0.5)
    # ‖θ‖² fluctuates by a share of the order √(SHRINK), and memories are a share ηλ/(1−β) of the relaxation.
    bias = 2 * SHRINK / (1 - BETA) * measured
    assert abs(predicted - measured) < 4 * np.hypot(of_prediction, of_rest) + bias
    np.testing.assert_allclose(found.exponent.mean(), 0 if name == "AdamW" else 1, atol=0.03)
    np.testing.assert_allclose(found.angle.mean(), angle, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD", "Momentum", "AdamW"])
def test_angle_and_time_constant_are_those_of_long_runs(name):
    problem, dynamics, decay, norm, _ = case(name)
    keys = jax.random.split(jax.random.key(1), (2, RUNS))
    found = jax.vmap(lambda key: ne.rotational_equilibrium(problem, start(norm), dynamics, 240, key=key, decay=decay))(
        keys[0]
    )

    @eqx.filter_jit
    def angle(key):
        before = ne.simulate(problem, dynamics, start(norm), 3000, key=key)
        after = ne.resume(problem, dynamics, before, 400, observe={"w": lambda w: w / jnp.linalg.norm(w)})
        units = after.observed["w"]
        return jnp.mean(2 * (1 - jnp.sum(units[1:] * units[:-1], axis=1))) ** 0.5

    (predicted, error), (measured, other) = mean_and_error(found.angle), mean_and_error(jax.vmap(angle)(keys[1]))
    assert abs(predicted - measured) < 4 * np.hypot(error, other) + 2 * SHRINK / (1 - BETA) * measured

    steps = round(float(found.steps.mean()))
    # The same samples from a norm above and one below: what is left of the difference, without most of the noise.
    above, below = (np.asarray(norms(problem, dynamics, c * norm, keys[1], steps, steps)) for c in (1.05, 0.95))
    left = np.log((above - below)[:, 1] / (above - below)[:, 0])
    rate, error = mean_and_error(left)
    # A momentum that starts from nothing loses its memory, of 1/(1−β) steps, from the time.
    assert abs(rate + 1) < 4 * error + 2 / ((1 - BETA) * steps)


def test_the_identity_holds_at_every_step_of_adamw():
    """With u from Adam itself: what AdamW adds to it is the shrinking, and nothing else."""
    weight_decay = 0.3
    adam, adamw = optax.adam(RATE), optax.adamw(RATE, weight_decay=weight_decay)
    kept, params = 1 - RATE * weight_decay, start(1.0)
    states = adam.init(params), adamw.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for sample in AXES[::3]:
            gradient = jax.grad(wander)(params, sample)
            (u, first), (whole, second) = (
                tx.update(gradient, s, params) for tx, s in zip((adam, adamw), states, strict=True)
            )
            after, states = params + whole, (first, second)
            expected = kept**2 * jnp.sum(params**2) + 2 * kept * jnp.vdot(params, u) + jnp.sum(u**2)
            np.testing.assert_allclose(jnp.sum(after**2), expected, rtol=1e-14)
            params = after


def test_growth_is_what_the_norm_gains_exactly():
    problem, dynamics, decay, norm, _ = case("AdamW")
    steps, key = 40, jax.random.key(5)
    found = ne.rotational_equilibrium(problem, start(norm), dynamics, steps, key=key, decay=decay)
    run = ne.simulate(problem, dynamics, start(norm), steps, key=key, observe={"square": lambda w: jnp.sum(w**2)})
    squares = run.observed["square"][10:]  # the first quarter is left out
    gained = squares[1:] - (1 - decay) ** 2 * squares[:-1]
    np.testing.assert_allclose(found.growth, gained.mean(), rtol=1e-10)
    np.testing.assert_allclose(found.measured_norm**2, squares[:-1].mean(), rtol=1e-12)


def test_of_every_neuron_by_itself_and_without_decay():
    def loss(params, sample):  # weights whose length nobody knows, neuron by neuron
        return jnp.sum(sample @ params["w"] / jnp.linalg.norm(params["w"], axis=0)) + jnp.vdot(params["b"], sample)

    params = {"w": jnp.stack([start(2.0), start(5.0)], axis=1), "b": jnp.ones(SIZE)}
    neurons = ne.Symmetry([ne.Leg(lambda p: p["w"], 1)], "diagonal")
    key, adam = jax.random.key(0), ne.Optax(optax.adam(1e-3), 1)
    found = ne.rotational_equilibrium(ne.Problem(loss, AXES), params, adam, 8, key=key, symmetry=neurons, decay=0.0)
    np.testing.assert_allclose(found.measured_norm, [2, 5], rtol=1e-2)
    assert jnp.isinf(found.norm).all()
    assert jnp.isinf(found.steps).all()
    assert (found.angle == 0).all()
    assert (found.growth != 0).all()


def test_bad_arguments_are_refused():
    problem, params, key = ne.Problem(wander, AXES), start(1.0), jax.random.key(0)
    call = lambda dynamics, problem=problem, steps=8, **more: ne.rotational_equilibrium(  # noqa: E731
        problem, params, dynamics, steps, key=key, **more
    )
    with pytest.raises(ValueError, match="an optax optimiser does not tell its own; expected ηλ"):
        call(ne.Optax(optax.sgd(0.1), 1))
    with pytest.raises(ValueError, match=r"decay is 0\.1 with SGD; expected None"):
        call(ne.SGD(0.1, 1), decay=0.1)
    with pytest.raises(ValueError, match=r"decay is 1\.5; expected ηλ"):
        call(ne.Optax(optax.sgd(0.1), 1), decay=1.5)
    with pytest.raises(ValueError, match="expected 0, and decay in the optimiser"):
        call(ne.Optax(optax.sgd(0.1), 1), ne.Problem(wander, AXES, 0.1), decay=0.1)
    with pytest.raises(ValueError, match="expected SGD, Momentum or Optax"):
        call(ne.GD(0.1))
    with pytest.raises(ValueError, match="a schedule; expected one learning rate"):
        call(ne.SGD(optax.constant_schedule(0.1), 1))
    with pytest.raises(ValueError, match="steps is 3"):
        call(ne.SGD(0.1, 1), steps=3)
    with pytest.raises(ValueError, match="no scaling of weights"):
        call(ne.SGD(0.1, 1), symmetry=ne.Symmetry([ne.Leg(lambda p: p, power=2)], "scalar"))
