"""Momentum: its steps against optax, the exact law of its charge at every step, and the expected step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import noise_equilibrium as ne
from noise_equilibrium._dynamics._momentum import kept_form

FORMS = pytest.mark.parametrize("nesterov", [False, True], ids=["heavy-ball", "nesterov"])
RATE, BETA = 0.002, 0.9


def gradients_of(problem, params):
    """Every ∇ℓ(θ, z_i), a pytree like params with a leading axis."""
    return jax.vmap(jax.grad(problem.loss), (None, 0))(params, problem.data)


def mixed(symmetry, params, other):
    """θᵀAm, symmetrised: a quarter of C(θ + m) − C(θ − m)."""
    plus, minus = (jax.tree.map(lambda a, b, sign=sign: a + sign * b, params, other) for sign in (1, -1))
    return (symmetry.charge(plus) - symmetry.charge(minus)) / 4


@FORMS
def test_steps_are_those_of_optax(nesterov):
    problem, params = problems.linear_problem(3, 4, 2, 9, decay=0.1)
    key = jax.random.key(1)
    ours = ne.simulate(problem, ne.Momentum(RATE, BETA, 3, False, nesterov), params, 20, key=key)
    optimizer = optax.sgd(RATE, momentum=BETA, nesterov=nesterov)
    theirs = ne.simulate(problem, ne.Optax(optimizer, 3, False), params, 20, key=key)
    for one, other in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(ours.time[-1], 20 * RATE / (1 - BETA), rtol=1e-12)


@FORMS
@pytest.mark.parametrize(("decay", "beta"), [(0.0, 0.9), (0.3, 0.9), (30.0, 0.9)], ids=["none", "weak", "underdamped"])
def test_every_step_moves_the_charge_by_the_exact_law(nesterov, decay, beta):
    """To rounding, in all algebras."""
    problem, params = problems.linear_problem(3, 4, 2, 7, decay=decay)
    dynamics = ne.Momentum(RATE, beta, 1, nesterov=nesterov)
    effective, form = RATE / (1 - beta), kept_form(RATE, beta, decay, nesterov)

    @jax.jit
    def step(params, state, key):
        after, new = dynamics.step(problem, params, state, key, 0)
        old, arrays, shape = state[0], jax.tree.leaves(params), jax.tree.structure(params)
        gradient = [(m - beta * o) - 2 * decay * a for m, o, a in zip(new[0], old, arrays, strict=True)]
        gradient, velocity = (jax.tree.unflatten(shape, one) for one in (gradient, old))
        off, moved = [], []
        for symmetry in problems.SYMMETRIES.values():
            pushed = symmetry.charge(gradient) + 2 * form.cross * mixed(symmetry, velocity, gradient)
            expected = -form.decay * symmetry.charge(params) + effective**2 * pushed
            before, then = (dynamics.charge(problem, *at, symmetry) for at in ((params, state), (after, new)))
            off.append(jnp.max(jnp.abs(then - before - expected)))
            moved.append(jnp.max(jnp.abs(then - before)))
        return after, new, jnp.stack(off), jnp.stack(moved)

    state, off, moved = dynamics.init(problem, params), [], []
    for key in jax.random.split(jax.random.key(0), 200):
        params, state, *seen = step(params, state, key)
        off.append(seen[0])
        moved.append(seen[1])
    assert np.max(moved, 0).min() > 1e-5
    assert np.max(off) < 3e-14 * form.theta  # of charges that are about 10


def test_without_decay_the_charge_is_that_of_a_point_ahead():
    """C(θ − βη_eff m) of the heavy ball, C(θ − β²η_eff m) of Nesterov's; mᵀAĝ counts 2β and 2β²."""
    problem, params = problems.linear_problem(3, 4, 2, 7)
    velocity = [jax.random.normal(jax.random.key(i), array.shape) for i, array in enumerate(params)]
    for nesterov, ahead in ((False, BETA), (True, BETA**2)):
        dynamics = ne.Momentum(RATE, BETA, 1, nesterov=nesterov)
        point = type(params)(*(a - ahead * RATE / (1 - BETA) * m for a, m in zip(params, velocity, strict=True)))
        found = dynamics.charge(problem, params, (velocity, ()), problems.SCALAR)
        np.testing.assert_allclose(found, problems.SCALAR.charge(point), rtol=1e-12)
        np.testing.assert_allclose(kept_form(RATE, BETA, 0.0, nesterov).cross, ahead, rtol=1e-12)


def test_the_closed_form_of_the_heavy_ball_with_decay():
    """γ' = γ(1 − ηγ/(1+β)), ρ = β, 𝒞 = C(rθ − βη_eff m) + 4η_eff γ' C(θ)/(1−β²)."""
    rate, beta, decay = 0.3, 0.7, 0.4
    effective, r = rate / (1 - beta), 1 - 2 * decay * rate / (1 - beta) / (1 + beta)
    form, drop = kept_form(rate, beta, decay, False), 4 * effective * decay * (1 - rate * decay / (1 + beta))
    np.testing.assert_allclose(form.decay, drop, rtol=1e-12)
    np.testing.assert_allclose(form.cross, beta, rtol=1e-12)
    expected = [r**2 + drop / (1 - beta**2), -2 * r * beta * effective, (beta * effective) ** 2]
    np.testing.assert_allclose([form.theta, form.mixed, form.velocity], expected, rtol=1e-12)


@FORMS
@pytest.mark.parametrize(("replacement", "decay"), [(True, 0.0), (False, 0.3)], ids=["with", "without-and-decay"])
def test_the_expected_step_is_the_mean_over_all_minibatches(nesterov, replacement, decay):
    """With m at its mean (ḡ + 2γθ)/(1−β); θᵀAḡ = 0, so that mᵀAḡ = ḡᵀAḡ/(1−β)."""
    problem, params = problems.linear_problem(3, 4, 2, 5, decay=decay)
    dynamics, shape = ne.Momentum(RATE, BETA, 2, replacement, nesterov), jax.tree.structure(params)
    each = jax.tree.leaves(gradients_of(problem, params))
    mean = [gradient.mean(0) for gradient in each]
    velocity = [(g + 2 * decay * a) / (1 - BETA) for g, a in zip(mean, jax.tree.leaves(params), strict=True)]

    def moved(batch):
        slope = [g[batch].mean(0) + 2 * decay * a for g, a in zip(each, jax.tree.leaves(params), strict=True)]
        new = [BETA * m + g for m, g in zip(velocity, slope, strict=True)]
        by = [g + BETA * m if nesterov else m for g, m in zip(slope, new, strict=True)]
        after = jax.tree.unflatten(shape, [a - RATE * b for a, b in zip(jax.tree.leaves(params), by, strict=True)])
        return {
            name: dynamics.charge(problem, after, (new, ()), symmetry)
            - dynamics.charge(problem, params, (velocity, ()), symmetry)
            for name, symmetry in problems.SYMMETRIES.items()
        }

    pairs = list(itertools.product(range(5), repeat=2) if replacement else itertools.permutations(range(5), 2))
    measured = jax.jit(jax.vmap(moved))(jnp.asarray(pairs))
    for name, symmetry in problems.SYMMETRIES.items():
        predicted = ne.expected_charge_step(problem, params, symmetry, dynamics)
        np.testing.assert_allclose(measured[name].mean(0), predicted, rtol=1e-13, atol=2e-14)


def test_the_law_at_no_momentum_is_that_of_sgd():
    problem, params = problems.linear_problem(3, 4, 2, 5, decay=0.2)
    for replacement in (True, False, "epoch"):
        for nesterov in (False, True):
            momentum, sgd = ne.Momentum(0.1, 0.0, 2, replacement, nesterov), ne.SGD(0.1, 2, replacement)
            steps = [ne.expected_charge_step(problem, params, problems.SCALAR, one) for one in (momentum, sgd)]
            np.testing.assert_allclose(*steps, rtol=1e-12)
            assert momentum.noise_scale == sgd.noise_scale


def test_the_noise_of_shuffled_epochs():
    """At fixed gradients: the mean of ĝ² + 2ρmĝ over every permutation and over the steps of an epoch."""
    values = np.array([1.0, -2.0, 4.0, 0.5, -3.5])
    problem, beta = ne.Problem(lambda w, z: z * w, jnp.asarray(values)), 0.6
    for size in (1, 2):
        steps, total = 5 // size, 0.0
        orders = list(itertools.permutations(range(5)))
        for order in orders:
            m = 0.0  # what it remembers of earlier epochs is independent, and has mean 0
            for t in range(steps):
                gradient = values[list(order[t * size : (t + 1) * size])].mean()
                total += gradient**2 + 2 * beta * m * gradient
                m = beta * m + gradient
        law = ne.Momentum(RATE, beta, size, "epoch").charge_law(problem)
        np.testing.assert_allclose(total / len(orders) / steps, law.noise * values.var(), rtol=1e-12)


def test_at_rest_the_equilibrium_is_exact_for_any_rate():
    """(w·z) has no mean here and no curvature: E C = 2s Tr Σ_S / (4γ') exactly, C = w², for a large ηγ too."""
    data = jnp.array([1.0, -1.0])
    problem = ne.Problem(lambda w, z: z * w, data, 0.5)
    dynamics = ne.Momentum(0.6, 0.5, 1)
    keys = jax.random.split(jax.random.key(0), 4000)
    ends = jax.vmap(lambda key: ne.simulate(problem, dynamics, jnp.asarray(0.0), 200, key=key).params)(keys)
    law = dynamics.charge_law(problem)
    predicted, squares = law.scale * law.noise / (2 * law.decay), np.asarray(ends) ** 2
    assert abs(squares.mean() - predicted) < 4 * squares.std() / 4000**0.5
    sgd = ne.SGD(1.2, 1).charge_law(problem)
    assert abs(squares.mean() - sgd.scale / (2 * sgd.decay)) > 10 * squares.std() / 4000**0.5


@pytest.mark.slow
def test_what_takes_a_law_takes_momentum():
    """At γ = 0 it is the law of SGD at η_eff but for the mean gradient, and that of continuous time at a minimum."""
    problem, params = problems.linear_problem(2, 2, 3, 30)
    momentum, continuous = ne.Momentum(0.001, 0.9, 4), 0.01 / 8
    np.testing.assert_allclose(momentum.noise_scale, continuous, rtol=1e-12)
    predicted = [ne.predict(problem, params, problems.SCALAR, law).params for law in (momentum, continuous)]
    for one, other in zip(*map(jax.tree.leaves, predicted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    at = predicted[0]
    rates = [ne.relaxation_rates(problem, at, problems.SCALAR, law) for law in (momentum, continuous)]
    np.testing.assert_allclose(*rates, rtol=1e-5)
    found = ne.find_equilibrium(problem, params, problems.DIAGONAL, momentum)
    assert problems.status(found) == ne.Status.CONVERGED
    step = ne.expected_charge_step(problem, found.params, problems.DIAGONAL, momentum)
    np.testing.assert_allclose(step, 0, atol=1e-12)
    sgd = ne.find_equilibrium(problem, params, problems.DIAGONAL, ne.SGD(0.01, 4))
    assert float(jnp.max(jnp.abs(found.element - sgd.element))) > 0.01  # off a minimum it is another


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_without_noise_charges_move_more_by_a_known_factor(beta):
    """(1+β)/(1−β) times as far over the same time, at η → 0; the first steps, before m is full, count at order η."""
    problem, params = problems.linear_problem(3, 4, 2, 7)
    rate = 1e-4
    moved = [
        problems.DIAGONAL.charge(ne.simulate(problem, dynamics, params, 4000, key=jax.random.key(0)).params)
        - problems.DIAGONAL.charge(params)
        for dynamics in (ne.Momentum(rate * (1 - beta), beta, 7, False), ne.GD(rate))
    ]
    ratio = jnp.vdot(moved[0], moved[1]) / jnp.vdot(moved[1], moved[1])
    np.testing.assert_allclose(ratio, (1 + beta) / (1 - beta), rtol=0.03)


def test_around_a_minimum_theta_and_m_fluctuate_together():
    """What the law leaves out: E[ḡ² + 2βmḡ] is (1−β)/(1+β) × E ḡ² for ℓ = hθ²/2 + ξθ, not (1+β)/(1−β) × E ḡ²."""
    rate, curvature = 1e-3, 1.0
    step = np.array([[1 - rate * curvature, -rate * BETA], [curvature, BETA]])
    push = np.array([-rate, 1.0])
    covariance = np.linalg.solve(np.eye(4) - np.kron(step, step), np.kron(push, push)).reshape(2, 2)
    mean_square = curvature**2 * covariance[0, 0]
    np.testing.assert_allclose(mean_square, rate / (1 - BETA) * curvature / 2, rtol=0.01)
    together = mean_square + 2 * BETA * curvature * covariance[0, 1]
    np.testing.assert_allclose(together / mean_square, (1 - BETA) / (1 + BETA), rtol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.Momentum(0.0, 0.5, 2), "learning_rate is 0.0; expected a number > 0"),
        (lambda: ne.Momentum(0.1, 1.0, 2), r"momentum is 1.0; expected a number 0 ≤ β < 1"),
        (lambda: ne.Momentum(0.1, -0.1, 2), r"momentum is -0.1"),
        (lambda: ne.Momentum(0.1, lambda step: 0.5, 2), "expected a number 0 ≤ β < 1"),
        (lambda: ne.Momentum(0.1, 0.5, 0), "batch_size is 0; expected an integer of at least 1"),
        (lambda: ne.Momentum(0.1, 0.5, 2, nesterov="no"), "nesterov is 'no'; expected True or False"),
        (lambda: ne.Momentum(lambda step: 0.1, 0.5, 2).noise_scale, "this one is a schedule"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_decay_that_does_not_contract_is_refused():
    problem, params = problems.linear_problem(3, 4, 2, 5, decay=16.0)
    with pytest.raises(ValueError, match=r"learning rate × weight decay is 1.6; expected less than 1.5"):
        ne.find_equilibrium(problem, params, problems.SCALAR, ne.Momentum(0.1, 0.5, 2))


def test_a_sweep_over_rates_and_momenta_is_a_loop():
    problem, params = problems.linear_problem(2, 2, 3, 10)

    def run(key, rate, beta):
        dynamics = ne.Momentum(rate, beta, 2)
        end = ne.simulate(problem, dynamics, params, 5, key=key).params
        return {
            "charge": problems.SCALAR.charge(end),
            "step": ne.expected_charge_step(problem, params, problems.SCALAR, dynamics),
        }

    axes = {"rate": [0.001, 0.002], "beta": [0.0, 0.9]}
    found = ne.sweep(run, axes, seeds=2, key=jax.random.key(0), progress=False)
    step = ne.expected_charge_step(problem, params, problems.SCALAR, ne.Momentum(0.002, 0.9, 2))
    np.testing.assert_allclose(found["step"].sel(rate=0.002, beta=0.9), step, rtol=1e-10)
    assert bool((found["charge"].std("seed") > 0).all())
