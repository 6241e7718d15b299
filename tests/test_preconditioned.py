"""One number per leg: the exact law at every step, equilibria, and what Adam makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

RATE, PLUS, MINUS = 0.003, 3.0, 0.5


def per_leg(rate, up, down, decay=0.0):
    """θ ← (1 − ηλ)θ − η d ĝ, with a number for U and one for W."""

    def update(updates, state, params):
        numbers = type(params)(up, down)
        return jax.tree.map(lambda g, t, d: -rate * (d * g + decay * t), updates, params, numbers), state

    return optax.GradientTransformation(lambda params: (), update)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_every_step_moves_the_charge_by_the_exact_law(decay):
    problem, params = problems.linear_problem(3, 4, 2, 7)
    law = ne.Preconditioned(RATE, 1, PLUS, MINUS)
    dynamics = ne.Optax(per_leg(RATE, PLUS, MINUS, decay), 1)

    @jax.jit
    def step(params, state, key):
        after, state = dynamics.step(problem, params, state, key, 0)
        numbers = linear.Params(PLUS, MINUS)
        pushes = jax.tree.map(lambda a, t, d: (t - a - RATE * decay * t) / d, after, params, numbers)
        off = []
        for symmetry in problems.SYMMETRIES.values():
            scaled = linear.Params(jnp.sqrt(PLUS) * pushes.up, jnp.sqrt(MINUS) * pushes.down)  # η√d ĝ
            expected = (1 - RATE * decay) ** 2 * law.charge(params, symmetry) + symmetry.charge(scaled)
            off.append(jnp.max(jnp.abs(law.charge(after, symmetry) - expected)))
        return after, state, jnp.stack(off)

    state, worst = dynamics.init(problem, params), 0.0
    for key in jax.random.split(jax.random.key(0), 100):
        params, state, off = step(params, state, key)
        worst = max(worst, float(off.max()))
    assert worst < 2e-14


@pytest.mark.slow
def test_fixed_numbers_are_sgd_in_other_parameters():
    """θ±/√d±: flow, expected step, rates and equilibria are those of SGD there, in all algebras."""
    problem, params = problems.linear_problem(3, 4, 2, 12, decay=0.1)
    roots = linear.Params(jnp.sqrt(PLUS), jnp.sqrt(MINUS))
    scaled = jax.tree.map(jnp.divide, params, roots)
    other = ne.Problem(lambda p, z: problem.loss(jax.tree.map(jnp.multiply, p, roots), z), problem.data, 0.1)
    law, sgd = ne.Preconditioned(RATE, 2, PLUS, MINUS, False), ne.SGD(RATE, 2, False)
    for symmetry in (problems.DIAGONAL, linear.symmetry):
        np.testing.assert_allclose(law.charge(params, symmetry), symmetry.charge(scaled), rtol=1e-12, atol=1e-12)
        for function in (ne.noether_flow, ne.expected_charge_step, ne.relaxation_rates):
            mine, theirs = function(problem, params, symmetry, law), function(other, scaled, symmetry, sgd)
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
        mine, theirs = (
            ne.find_equilibrium(problem, params, symmetry, law),
            ne.find_equilibrium(other, scaled, symmetry, sgd),
        )
        assert problems.status(mine) == problems.status(theirs)
        assert problems.status(mine) in (ne.Status.CONVERGED, ne.Status.LIMIT)
        np.testing.assert_allclose(mine.element, theirs.element, rtol=1e-8, atol=1e-9)
    mine, theirs = (
        ne.orbit_flow(problem, params, linear.symmetry, law, [0.0, 2.0]),
        ne.orbit_flow(other, scaled, linear.symmetry, sgd, [0.0, 2.0]),
    )
    np.testing.assert_allclose(mine.charge, theirs.charge, rtol=1e-7, atol=1e-8)


def test_generators_take_fixed_numbers():
    problem, params = problems.linear_problem(3, 4, 2, 12)
    law = ne.Preconditioned(RATE, 2, PLUS, MINUS)
    signs = jnp.concatenate([jnp.ones(params.up.size), -jnp.ones(params.down.size)])
    generator = ne.exponential_symmetry(jnp.diag(signs))
    for function in (ne.noether_flow, ne.relaxation_rates):
        mine, theirs = (function(problem, params, one, law) for one in (generator, problems.SCALAR))
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)
    np.testing.assert_allclose(law.charge(params, generator), law.charge(params, problems.SCALAR), rtol=1e-12)
    with pytest.raises(ValueError, match="follow the gradients of legs, and a generator has none"):
        ne.find_equilibrium(problem, params, generator, ne.Preconditioned(RATE, 2))


def second_moments(problem, params, replacement=1.0):
    """E ĝ² summed over U and over W, of batches of one sample."""
    gradients = jax.vmap(jax.grad(problem.loss), (None, 0))(params, problem.data)
    return tuple(jnp.sum(leaf**2) / leaf.shape[0] for leaf in gradients)


def test_numbers_that_follow_are_inverse_roots_of_mean_squares():
    problem, params = problems.linear_problem(3, 4, 2, 12)
    squares = second_moments(problem, params)
    for symmetry in problems.SYMMETRIES.values():
        law = ne.Preconditioned(RATE, 1).at(problem, params, symmetry)
        expected = [(array.size / square) ** 0.5 for array, square in zip(params, squares, strict=True)]
        np.testing.assert_allclose([law.plus, law.minus], expected, rtol=1e-12)
        following = ne.noether_flow(problem, params, symmetry, ne.Preconditioned(RATE, 1))
        np.testing.assert_allclose(following, ne.noether_flow(problem, params, symmetry, law), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", problems.SYMMETRIES)
def test_numbers_that_follow_rest_where_noise_per_entry_balances(name):
    """n₊M₊ = n₋M₋ with the mean gradient in M, from any point of the orbit in one call."""
    problem, params = problems.linear_problem(3, 4, 2, 12)
    symmetry, law = problems.SYMMETRIES[name], ne.Preconditioned(RATE, 1)
    found = ne.find_equilibrium(problem, params, symmetry, law)
    assert problems.status(found) in (ne.Status.CONVERGED, ne.Status.LIMIT)
    assert found.residual < 1e-10
    moments = ne.noise_moments(problem, found.params, symmetry)
    plus = params.up.size * (moments.noise_plus + moments.mean_plus)
    minus = params.down.size * (moments.noise_minus + moments.mean_minus)
    np.testing.assert_allclose(plus, minus, rtol=1e-7, atol=1e-7 * float(jnp.max(jnp.abs(plus))))


@pytest.mark.slow
def test_with_decay_one_number_rests_at_once_and_others_step_by_step():
    problem, params = problems.linear_problem(3, 4, 2, 12, decay=0.5)
    law = ne.Preconditioned(0.05, 1)
    found = ne.find_equilibrium(problem, params, problems.SCALAR, law)
    assert problems.status(found) == ne.Status.CONVERGED
    assert abs(float(ne.noether_flow(problem, found.params, problems.SCALAR, law))) < 1e-10
    point, residuals = params, []
    for _ in range(12):
        found = ne.find_equilibrium(problem, point, problems.DIAGONAL, law)
        point = found.params
        residuals.append(float(found.residual))
    assert problems.status(found) == ne.Status.CONVERGED
    assert residuals[0] > 1e-4
    assert residuals[-1] < 1e-8


@pytest.mark.slow
def test_derivatives_follow_the_numbers():
    problem, params = problems.linear_problem(3, 4, 2, 12)

    def element(scale, law):
        moved = ne.Problem(lambda p, z: problem.loss(p, (z[0], scale * z[1])), problem.data)
        return ne.find_equilibrium(moved, params, problems.SCALAR, law).element

    law = ne.Preconditioned(RATE, 1)
    slope = jax.grad(element)(1.0, law)
    difference = (element(1 + 1e-5, law) - element(1 - 1e-5, law)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.float32
def test_single_precision():
    problem, params = problems.linear_problem(3, 4, 2, 12)
    found = ne.find_equilibrium(problem, params, linear.symmetry, ne.Preconditioned(RATE, 1))
    assert problems.status(found) in (ne.Status.CONVERGED, ne.Status.LIMIT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.Preconditioned(0.0, 1), "learning_rate is 0.0"),
        (lambda: ne.Preconditioned(0.1, 1, 1.0), "expected two numbers > 0, or none"),
        (lambda: ne.Preconditioned(0.1, 1, 1.0, 0.0), "minus is 0.0; expected a number > 0"),
        (lambda: ne.Preconditioned(lambda step: 0.1, 1), "this one is a schedule"),
        (
            lambda: ne.Preconditioned(0.1, 1).charge(*problems.linear_problem(3, 4, 2, 5)[1:], problems.SCALAR),
            "fix them",
        ),
        (
            lambda: ne.find_equilibrium(
                *problems.linear_problem(3, 4, 2, 5), [problems.SCALAR], ne.Preconditioned(0.1, 1, 1.0, 2.0)
            ),
            "expected one symmetry",
        ),
    ],
)
def test_bad_use_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def one_per_matrix(rate, memory=0.999):
    """Adam with β₁ = 0 and one v for U and one for W."""

    def init(params):
        return jax.tree.map(lambda _: jnp.zeros(()), params), jnp.zeros(())

    def update(updates, state, params):
        count = state[1] + 1
        v = jax.tree.map(lambda v, g: memory * v + (1 - memory) * jnp.mean(g**2), state[0], updates)
        return jax.tree.map(lambda g, v: -rate * g / jnp.sqrt(v / (1 - memory**count)), updates, v), (v, count)

    return optax.GradientTransformation(init, update)


@pytest.mark.slow
def test_adam_rests_where_the_law_says_and_not_where_sgd_does():
    """‖W‖²/‖U‖² of a linear network 12 → 4: (12/4)² = 9, of SGD 3; 30η is the bias that was found at two rates."""
    rate, steps = 0.008, 60_000
    teacher = ne.data.LinearTeacher(jnp.eye(4, 12), np.eye(12), 0.25 * np.eye(4))
    population = ne.Problem(linear.loss, ne.Stream(teacher))
    start = linear.init(jax.random.key(5), 12, 4, 4)
    law = ne.Preconditioned(rate, 8)
    rest = ne.predict(ne.Problem(linear.loss, teacher.noise_matched()), start, linear.symmetry, law).params
    assert abs(float(jnp.sum(rest.down**2) / jnp.sum(rest.up**2)) - 9) < 1e-9

    def ratio(optimizer, key):
        squares = ne.running(lambda p: jnp.stack([jnp.sum(p.down**2), jnp.sum(p.up**2)]), 0.3)
        begin = linear.Params(rest.up / 1.1, rest.down * 1.1)
        run = ne.simulate(
            population, ne.Optax(optimizer, 8), begin, steps, key=key, observe={"of": squares}, every=steps
        )
        return run.observed["of"].mean[0] / run.observed["of"].mean[1]

    for optimizer in (one_per_matrix(rate), optax.adam(rate)):
        found = jax.jit(jax.vmap(lambda key, o=optimizer: ratio(o, key)))(jax.random.split(jax.random.key(3), 4))
        assert abs(float(found.mean()) - 9) < 30 * rate + 4 * float(found.std()) / 2 + 0.1  # of the start, what is left
