"""Weak errors against closed forms, and the same SDE in the hands of diffrax."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

KEY = jax.random.key(1)

# Multiplicative noise in closed form: ℓ = z w²/2 with z = 1 ± s, so g = z w, ḡ = w, Σ = s²w²; γ = 0.
SPREAD, SIZE, TIME = 1.0, 1, 1.0
DATA = np.array([1 - SPREAD, 1 + SPREAD])
OBSERVE = {"square": lambda w: w**2, "mean": lambda w: w}


def bent(w, z):
    return z * w**2 / 2


PROBLEM = ne.Problem(bent, DATA)


def second_moment(eta, steps_of, extra):
    """E w² after TIME when a step of size dt multiplies it by (1 − dt)² + extra(dt), from 1."""
    dt = steps_of(eta)
    return ((1 - dt) ** 2 + extra(eta, dt)) ** round(TIME / dt)


EXACT = {
    "SGD": lambda eta: second_moment(eta, lambda eta: eta, lambda eta, dt: eta**2 * SPREAD**2 / SIZE),
    "SVAG": lambda eta, n: second_moment(eta, lambda eta: eta / n, lambda eta, dt: n * dt**2 * SPREAD**2 / SIZE),
    "Euler": lambda eta, dt: second_moment(eta, lambda eta: dt, lambda eta, dt: eta * dt * SPREAD**2 / SIZE),
    "SDE": lambda eta: np.exp((-2 + eta * SPREAD**2 / SIZE) * TIME),
}
RATES = (0.25, 0.125)


def exact_sde(rate):
    return {"square": EXACT["SDE"](rate), "mean": np.exp(-TIME)}


def errors_in_se(result, expected):
    return np.abs(result.error["square"] - expected) / result.standard_error["square"]


def test_the_gap_between_sgd_and_its_sde_is_the_closed_form_and_linear_in_the_rate():
    result = ne.weak_error(
        PROBLEM,
        lambda rate: ne.SGD(rate, SIZE),
        exact_sde,
        jnp.asarray(1.0),
        OBSERVE,
        RATES,
        TIME,
        seeds=100_000,
        key=KEY,
    )
    gap = np.array([EXACT["SGD"](rate) - EXACT["SDE"](rate) for rate in RATES])
    assert np.all(errors_in_se(result, gap) < 4)
    assert np.all(np.abs(result.error["square"]) > 10 * result.standard_error["square"])  # so the gap itself is seen
    (order, spread) = result.order()["mean"]
    slope = np.diff(np.log([np.exp(-TIME) - (1 - rate) ** round(TIME / rate) for rate in RATES])) / np.log(0.5)
    assert abs(order - slope[0]) < 4 * spread < 0.2
    low, high = result.interval(0.9999)["mean"]
    exact = np.array([(1 - rate) ** round(TIME / rate) for rate in RATES]) - np.exp(-TIME)
    assert np.all((low < exact) & (exact < high))
    assert result.diverged.tolist() == [0, 0]


@pytest.mark.slow
def test_svag_goes_to_the_sde_as_l_grows():
    eta, amplifications, results = 0.25, (1, 2, 8), []
    for amplification in amplifications:
        result = ne.weak_error(
            PROBLEM,
            lambda rate, times=amplification: ne.SVAG(rate, SIZE, times),
            exact_sde,
            jnp.asarray(1.0),
            OBSERVE,
            (eta,),
            TIME,
            seeds=50_000,
            key=KEY,
        )
        assert errors_in_se(result, EXACT["SVAG"](eta, amplification) - EXACT["SDE"](eta))[0] < 4
        results.append(result)
    ends = [results[i].interval(0.9999)["square"] for i in (0, -1)]
    assert ends[0][1] < ends[1][0]  # the gap of SGD is outside what SVAG at l = 8 allows


@pytest.mark.slow
def test_the_bias_of_euler_maruyama_is_linear_in_dt():
    """At fixed η, hence fixed noise, dt ≠ η; means within 4 standard errors of the recursion of Euler–Maruyama.

    The order in dt is within 4 standard errors of 1, and they are below 1/4: it is neither 0 nor 2.
    """
    eta, steps = 0.25, (0.25, 0.125, 0.0625)
    results = []
    for dt in steps:
        result = ne.weak_error(
            PROBLEM,
            lambda rate, dt=dt: ne.SDE(rate, SIZE, dt=dt),
            exact_sde,
            jnp.asarray(1.0),
            OBSERVE,
            (eta,),
            TIME,
            seeds=50_000,
            key=KEY,
        )
        assert errors_in_se(result, EXACT["Euler"](eta, dt) - EXACT["SDE"](eta))[0] < 4
        results.append(result)
    means, references, errors = (
        {"square": np.concatenate([getattr(result, name)["square"] for result in results])}
        for name in ("mean", "reference", "standard_error")
    )
    over_dt = ne.WeakError(np.array(steps), means, references, errors, np.zeros(3, int))
    order, spread = over_dt.order()["square"]
    assert abs(order - 1) < 4 * spread < 1


@pytest.mark.slow
def test_two_simulated_dynamics_are_compared_with_independent_numbers():
    result = ne.weak_error(
        PROBLEM,
        lambda rate: ne.SGD(rate, SIZE),
        lambda rate: ne.SDE(rate, SIZE, dt=rate / 4),
        jnp.asarray(1.0),
        OBSERVE,
        (0.25,),
        TIME,
        seeds=20_000,
        key=KEY,
        batch=3000,
    )
    gap = EXACT["SGD"](0.25) - EXACT["Euler"](0.25, 0.0625)
    assert errors_in_se(result, gap)[0] < 4
    np.testing.assert_allclose(result.reference["square"][0], EXACT["Euler"](0.25, 0.0625), rtol=0.1)
    flow = ne.weak_error(
        PROBLEM,
        ne.GradientFlow,
        lambda rate: {"square": np.exp(-2), "mean": np.exp(-1)},
        jnp.asarray(1.0),
        OBSERVE,
        (0.25,),
        TIME,
        seeds=5,
        key=KEY,
    )
    assert flow.standard_error["mean"].tolist() == [0.0]  # no noise: one run
    np.testing.assert_allclose(flow.error["mean"], 0, atol=1e-9)


def test_a_diverged_run_is_counted_and_its_mean_is_not_a_number():
    problem = ne.Problem(lambda w, z: (w**2 - z) ** 2 / 4, jnp.array([1.0]))
    result = ne.weak_error(
        problem,
        ne.GD,
        lambda rate: {"w": 1.0},
        jnp.asarray(6.0),
        {"w": lambda w: w},
        (0.01, 0.1),
        2.0,
        seeds=2,
        key=KEY,
    )
    assert result.diverged.tolist() == [0, 1]
    assert np.isnan(result.mean["w"]).tolist() == [False, True]


def compare(dynamics=None, reference=None, observe=None, **options):
    given = {"rates": (0.25,), "time": TIME, "seeds": 2, "key": KEY} | options
    rates, time = given.pop("rates"), given.pop("time")
    return ne.weak_error(
        PROBLEM,
        dynamics or (lambda rate: ne.SGD(rate, SIZE)),
        reference or exact_sde,
        jnp.asarray(1.0),
        OBSERVE if observe is None else observe,
        rates,
        time,
        **given,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time": 1.1}, "time is 1.1, 4.4 steps of 0.25; expected a whole number of steps"),
        ({"seeds": 1}, "seeds is 1; expected an integer of at least 2"),
        ({"batch": 0}, "batch is 0"),
        ({"rates": ()}, "rates is empty"),
        ({"observe": {}}, "expected at least one function of params"),
        ({"observe": {"m": ne.running(lambda w: w)}}, "none running"),
        (
            {"dynamics": lambda rate: rate},
            "got 0.25 for a learning rate; expected a function of η that returns dynamics",
        ),
        ({"dynamics": lambda rate: ne.GD(optax.constant_schedule(rate))}, "this one is a schedule"),
        (
            {"reference": lambda rate: {"square": 1.0}},
            r"expected dynamics, or a dict with a value of \['mean', 'square'\]",
        ),
        ({"key": None}, "weak_error needs random numbers"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(**arguments)


def test_a_level_is_a_probability():
    with pytest.raises(ValueError, match="level is 95; expected a probability"):
        compare(dynamics=ne.GD).interval(95)


# --- diffrax ---------------------------------------------------------------------------------------------------------


class OurIncrements(diffrax.AbstractPath):
    """The Brownian path whose increments over the steps of `simulate` are the numbers that it draws."""

    key: jax.Array
    dt: float
    count: int = eqx.field(static=True)
    t0 = 0.0
    t1 = np.inf

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        step = jnp.rint(t0 / self.dt).astype(jnp.int32)
        normals = jax.random.normal(jax.random.fold_in(self.key, step), (self.count,), jnp.float64)
        return jnp.sqrt(self.dt) * normals


class Net(eqx.Module):
    up: jax.Array
    down: jax.Array
    activation: object


def net_loss(net, z):
    return jnp.sum((net.up @ net.activation(net.down @ z[0]) - z[1]) ** 2)


@pytest.mark.parametrize("kind", ["arrays", "module"])
def test_euler_of_diffrax_on_the_same_increments_is_our_step(kind):
    keys = jax.random.split(jax.random.key(0), 3)
    data = jax.random.normal(keys[0], (5, 2)), jax.random.normal(keys[1], (5, 2))
    params = linear.init(keys[2], 2, 3, 2)
    loss = linear.loss
    if kind == "module":
        params, loss = Net(params.up, params.down, jnp.tanh), net_loss
    problem, sde = ne.Problem(loss, data, 0.1), ne.SDE(0.1, 2, dt=0.02)
    run = ne.simulate(problem, sde, params, 20, key=KEY)
    start = eqx.filter(params, eqx.is_inexact_array)
    terms = ne.sde_terms(problem, sde, params, OurIncrements(KEY, 0.02, 5))
    end = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 0.4, 0.02, start)
    assert end.stats["num_steps"] == 20
    ours, theirs = (ne.flatten(tree)[0] for tree in (run.params, jax.tree.map(lambda y: y[0], end.ys)))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-12)


def test_the_operator_of_the_diffusion_has_the_covariance_of_the_noise():
    keys = jax.random.split(jax.random.key(0), 3)
    problem = ne.Problem(linear.loss, (jax.random.normal(keys[0], (5, 2)), jax.random.normal(keys[1], (5, 2))))
    params, sde = linear.init(keys[2], 2, 3, 2), ne.SDE(0.1, 2)
    terms = ne.sde_terms(problem, sde, params, OurIncrements(KEY, 0.1, 5)).terms
    operator = terms[1].vf(0.0, params, None)
    columns = jax.vmap(lambda e: ne.flatten(operator.mv(e))[0])(jnp.eye(5))
    covariance = 2 * sde.noise_scale * ne.gradient_covariance(problem, params)
    np.testing.assert_allclose(columns.T @ columns, covariance, rtol=0, atol=1e-14)


def test_the_stratonovich_drift_is_half_the_derivative_of_the_noise_along_itself():
    """½ Σ_k (∂b_k) b_k by brute force, with b_k the columns of the diffusion."""
    keys = jax.random.split(jax.random.key(0), 3)
    problem = ne.Problem(linear.loss, (jax.random.normal(keys[0], (5, 2)), jax.random.normal(keys[1], (5, 2))), 0.1)
    params, sde = linear.init(keys[2], 2, 3, 2), ne.SDE(0.1, 2)
    ito, stratonovich = (
        ne.sde_terms(problem, sde, params, OurIncrements(KEY, 0.1, 5), stratonovich=flag).terms
        for flag in (False, True)
    )
    theta, unflatten = ne.flatten(params)

    def columns(theta):
        operator = ito[1].vf(0.0, unflatten(theta), None)
        return jax.vmap(lambda e: ne.flatten(operator.mv(e))[0])(jnp.eye(5))

    b = columns(theta)
    correction = sum(jax.jvp(lambda theta, k=k: columns(theta)[k], (theta,), (b[k],))[1] for k in range(5)) / 2
    drifts = [ne.flatten(terms[0].vf(0.0, params, None))[0] for terms in (ito, stratonovich)]
    np.testing.assert_allclose(drifts[1], drifts[0] - correction, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_a_stratonovich_solver_converges_to_the_ito_solution():
    """On PROBLEM: w = exp(−t − σ²s²t + √(2σ²) s W) with W = (W₂ − W₁)/√2, path by path."""
    sde = ne.SDE(0.5, SIZE)
    path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=1e-4, shape=(2,), key=KEY)
    terms = ne.sde_terms(PROBLEM, sde, jnp.asarray(1.0), path, stratonovich=True)
    ends = [
        float(diffrax.diffeqsolve(terms, diffrax.EulerHeun(), 0.0, 1.0, dt, jnp.asarray(1.0), max_steps=2000).ys[0])
        for dt in (1 / 16, 1 / 256)
    ]
    motion = path.evaluate(0.0, 1.0)
    scale = np.sqrt(2 * sde.noise_scale) * SPREAD
    exact = float(jnp.exp(-1 - scale**2 / 2 + scale * (motion[1] - motion[0]) / np.sqrt(2)))
    errors = np.abs(np.array(ends) - exact) / exact
    assert errors[1] < 5e-3
    assert errors[1] < errors[0] / 4  # a wrong drift would leave an error of σ²s² = 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: ne.sde_terms(PROBLEM, ne.SGD(0.1, 1), jnp.asarray(1.0), path), "expected an SDE object"),
        (
            lambda path: ne.sde_terms(PROBLEM, ne.SDE(optax.constant_schedule(0.1), 1), jnp.asarray(1.0), path),
            "this one is a schedule",
        ),
        (
            lambda path: ne.sde_terms(
                ne.Problem(bent, ne.Stream(jax.random.normal)), ne.SDE(0.1, 1), jnp.ones(()), path
            ),
            "SDE needs an expectation",
        ),
    ],
    ids=["no-sde", "schedule", "stream"],
)
def test_bad_terms_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(OurIncrements(KEY, 0.1, 2))
