"""One measurement for everything: what takes (problem, params, symmetry) takes it in place of the three."""

import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear as linear

UP, DOWN = linear.symmetry.legs[0].where, linear.symmetry.legs[1].where
SYMMETRIES = {
    "scalar": ne.rescaling(UP, DOWN),
    "diagonal": ne.neuron_rescaling((UP, 1), (DOWN, 0)),
    "symmetric": linear.symmetry,
    "generator": ne.exponential_symmetry(np.diag([1.0] * 12 + [-1.0] * 12)),
}
FEW = ["diagonal"]
SLOW = [pytest.param(algebra, marks=pytest.mark.slow) for algebra in ("symmetric", "scalar", "generator")]
LAWS = {"σ²": 0.02, "with": ne.SGD(0.1, 4), "without": ne.SGD(0.1, 4, replacement=False), "sde": ne.SDE(0.1, 4)}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def network(samples=40):
    return ne.Problem(linear.loss, (normal(0, samples, 3), normal(1, samples, 3)), 1e-2), linear.Params(
        normal(2, 3, 4), normal(3, 4, 3)
    )


CONSUMERS = {
    "flow": ne.noether_flow,
    "rates": ne.relaxation_rates,
    "modes": lambda *a: ne.relaxation_modes(*a).slowest,
    "orbit": lambda *a: ne.orbit_flow(*a, [0.0, 0.5]).charge,
    "scales": lambda *a: [ne.time_scales(*a).erm, ne.time_scales(*a).equi],
    "equilibrium": lambda *a: ne.find_equilibrium(*a).params,
}


@pytest.mark.parametrize("algebra", [*FEW, *SLOW])
def test_every_consumer_takes_a_measurement(algebra):
    problem, params = network()
    symmetry = SYMMETRIES[algebra]
    here = ne.measure(problem, params, symmetry)
    for name, law in LAWS.items():
        for consumer in CONSUMERS if name == "without" else ["flow", "equilibrium"]:
            one, other = CONSUMERS[consumer](here, law), CONSUMERS[consumer](problem, params, symmetry, law)
            for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=f"{consumer} under {name}")
    step = ne.expected_charge_step(problem, params, symmetry, LAWS["without"])
    np.testing.assert_allclose(ne.expected_charge_step(here, dynamics=LAWS["without"]), step, rtol=1e-12)


def test_it_holds_what_the_moments_are_with_the_block_axis():
    problem, params = network()
    heads = ne.double_rotation((UP, 1), (DOWN, 0), blocks=2)
    for symmetry, shape in ((linear.symmetry, (1, 4, 4)), (heads, (2, 2, 2)), (SYMMETRIES["scalar"], (1,))):
        here, moments = ne.measure(problem, params, symmetry), ne.noise_moments(problem, params, symmetry)
        assert here.weight[0].shape == here.noise[0].shape == here.mean[1].shape == shape
        np.testing.assert_allclose(here.moments.noise_plus, moments.noise_plus, rtol=1e-12)
        np.testing.assert_allclose(here.noise[1].reshape(moments.noise[1].shape), moments.noise[1], rtol=1e-12)
    assert here.num_samples == here.count == 40


def test_several_are_measured_in_one_pass_and_the_gradient_with_them():
    problem, params = network()
    several = list(SYMMETRIES.values())[:3]
    measured = ne.measure(problem, params, several, gradient=True)
    assert isinstance(measured, tuple)
    for one, symmetry in zip(measured, several, strict=True):
        flow = ne.noether_flow(problem, params, symmetry, 0.02)
        np.testing.assert_allclose(ne.noether_flow(one, 0.02), flow, rtol=1e-10, atol=1e-12)
    expected = jax.grad(problem.risk)(params)
    chex.assert_trees_all_close(measured[0].gradient, expected, rtol=1e-12)
    assert ne.measure(problem, params, several[0]).gradient is None


def test_it_crosses_jit_vmap_and_derivatives():
    problem, params = network()

    def flow(up):
        return jnp.sum(ne.noether_flow(ne.measure(problem, params._replace(up=up), linear.symmetry), 0.02) ** 2)

    many = jnp.stack([params.up, 2 * params.up])
    np.testing.assert_allclose(jax.jit(jax.vmap(flow))(many), [flow(up) for up in many], rtol=1e-12)
    along = normal(5, 3, 4)
    step = 1e-6 * along
    numerical = (flow(params.up + step) - flow(params.up - step)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.grad(flow)(params.up) * along), numerical, rtol=1e-6)
    here = ne.measure(problem, params, linear.symmetry)
    np.testing.assert_allclose(jax.jit(ne.noether_flow)(here, 0.02), ne.noether_flow(here, 0.02), rtol=1e-12)


def test_nothing_is_measured_twice():
    """The loss is read once for any number of consumers of a measurement."""
    problem, params = network()
    loss = chex.assert_max_traces(lambda p, z: linear.loss(p, z), n=1)
    here = ne.measure(ne.Problem(loss, problem.data), params, linear.symmetry)
    for law in LAWS.values():
        ne.noether_flow(here, law), ne.relaxation_rates(here, law), ne.orbit_flow(here, law, [0.0, 1.0])


# --- data that are not at hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algebra", ["diagonal", pytest.param("symmetric", marks=pytest.mark.slow), *SLOW])
def test_the_sum_of_parts_is_as_good_as_the_whole(algebra):
    problem, params = network()
    symmetry = SYMMETRIES[algebra]
    x, y = problem.data
    parts = [
        ne.partial_moments(ne.Problem(linear.loss, (x[a:b], y[a:b]), 1e-2), params, symmetry)
        for a, b in itertools.pairwise([0, 7, 25, 40])
    ]
    for law in LAWS.values():
        whole = ne.find_equilibrium(problem, params, symmetry, law)
        found = ne.find_equilibrium(sum(parts), law)
        chex.assert_trees_all_close(found.params, whole.params, rtol=1e-8, atol=1e-9)
        assert found.status == whole.status
        assert jnp.isnan(found.residual)  # there are no data to measure it on
        flow = ne.noether_flow(problem, params, symmetry, law)
        np.testing.assert_allclose(ne.noether_flow(sum(parts), law), flow, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="this measurement has no data"):
        ne.time_scales(sum(parts), 0.02)


@pytest.mark.float32
def test_the_sum_of_parts_in_single_precision():
    """Four hidden units between three inputs and outputs: one direction is empty, and must not look full."""
    problem, params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), network())
    problem = ne.Problem(linear.loss, problem.data, 1e-2)
    x, y = problem.data
    parts = [
        ne.partial_moments(ne.Problem(linear.loss, (x[a:b], y[a:b]), 1e-2), params, linear.symmetry)
        for a, b in itertools.pairwise([0, 20, 40])
    ]
    whole, found = ne.find_equilibrium(problem, params, linear.symmetry, 0.02), ne.find_equilibrium(sum(parts), 0.02)
    assert found.status == whole.status == ne.Status.CONVERGED
    chex.assert_trees_all_close(found.params, whole.params, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_estimate_carries_its_standard_errors_on():
    """Against the spread over independent samples; the standard error of a standard error of 32 is 1/√62."""
    teacher = ne.data.LinearTeacher(np.eye(3), np.eye(3), 0.1 * np.eye(3))
    _, params = network()
    symmetry, law = SYMMETRIES["diagonal"], ne.SGD(0.1, 4)

    def consumer(measurement):
        return {"flow": ne.noether_flow(measurement, law), "element": ne.find_equilibrium(measurement, law).element}

    values, errors = [], []
    for seed in range(32):
        problem = ne.Problem(linear.loss, ne.Stream(teacher), 1e-2).sampled(jax.random.key(seed), 256)
        estimate = ne.estimate_moments(problem, params, symmetry, batches=16)
        values.append(consumer(estimate))
        errors.append(estimate.standard_error_of(consumer))
    for name in ("flow", "element"):
        spread = np.std([value[name] for value in values], axis=0, ddof=1)
        stated = np.sqrt(np.mean(np.square([error[name] for error in errors]), axis=0))
        assert np.all(np.abs(np.log(stated / spread)) < 4 / np.sqrt(62)), (name, stated, spread)


def test_redrawn_data_know_both_parts_of_their_noise():
    """Without replacement a batch lessens the choice of samples alone; the law of a step is that of `of_batch`."""
    x = normal(0, 6, 3)
    redrawn = ne.Redrawn(x, lambda key, sample: (sample, sample + jax.random.normal(key, (3,))))
    problem = ne.Problem(linear.loss, redrawn, 1e-2)
    _, params = network()
    moments = ne.redrawn_moments(problem, params, linear.symmetry, key=jax.random.key(0), redraws=64)
    for replacement in (True, False):
        sgd = ne.SGD(0.1, 3, replacement=replacement)
        batch = moments.of_batch(3, replacement)
        decay, rate = 1e-2 * (1 - 0.1 * 1e-2), 0.05
        raises = 2 * decay * batch.weight_minus + rate * (batch.noise_plus + batch.mean_plus)
        lowers = 2 * decay * batch.weight_plus + rate * (batch.noise_minus + batch.mean_minus)
        np.testing.assert_allclose(ne.noether_flow(moments, sgd), 2 * (raises - lowers), rtol=1e-10, atol=1e-12)
        found = ne.find_equilibrium(moments, sgd)
        assert found.status in (ne.Status.CONVERGED, ne.Status.LIMIT)
        p = jax.scipy.linalg.expm(found.element)
        np.testing.assert_allclose(p @ p @ lowers @ p @ p, raises, rtol=1e-7, atol=1e-9)


def test_bad_measurements_are_refused():
    problem, params = network()
    several = ne.partial_moments(problem, params, [linear.symmetry, SYMMETRIES["scalar"]])
    with pytest.raises(ValueError, match="got the measurements of 2 symmetries; expected one"):
        ne.noether_flow(several, 0.02)
    free = ne.measure(problem, params, ne.exponential_symmetry(lambda v: v))
    np.testing.assert_allclose(ne.noether_flow(free, 0.02), ne.noether_flow(problem, params, ne.scaling(), 0.02))
    with pytest.raises(ValueError, match="relaxation_rates needs the eigenvalues of A"):
        ne.relaxation_rates(free, 0.02)
    stream = ne.Problem(linear.loss, ne.Stream(lambda key: jax.random.normal(key, (2, 3))))
    with pytest.raises(ValueError, match="measure needs an expectation over a finite data set"):
        ne.measure(stream, params, linear.symmetry)


# --- errors in place of statuses --------------------------------------------------------------------------------------


def test_throw_names_the_symmetry_and_the_direction():
    _, params = network()
    one_sided = ne.Problem(lambda p, z: jnp.sum((p.up * z[:, None]) ** 2), normal(7, 20, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ne.find_equilibrium(one_sided, params, linear.symmetry, 0.02).status == ne.Status.DIVERGES
        with pytest.raises(RuntimeError, match=r"the symmetry of params.up, params.down has no equilibrium: e\^λ goes"):
            ne.find_equilibrium(one_sided, params, linear.symmetry, 0.02, throw=True)
        with pytest.raises(RuntimeError, match=r"goes to ∞ at \[0\] and 3 others"):
            ne.find_equilibrium(one_sided, params, SYMMETRIES["diagonal"], 0.02, throw=True)
        with pytest.raises(RuntimeError, match="the descent ended before a minimum"):
            ne.predict(one_sided, params, SYMMETRIES["scalar"], 0.02, steps=1, throw=True)
        compiled = jax.jit(lambda p: ne.find_equilibrium(one_sided, p, linear.symmetry, 0.02, throw=True).params)
        with pytest.raises(Exception, match="has no equilibrium"):
            jax.block_until_ready(compiled(params))


@pytest.mark.slow
def test_throw_leaves_what_was_found_alone():
    problem, params = network()
    found = ne.find_equilibrium(problem, params, linear.symmetry, 0.02)
    again = ne.find_equilibrium(problem, params, linear.symmetry, 0.02, throw=True)
    chex.assert_trees_all_equal(found.params, again.params)
    asymmetric = ne.Problem(lambda p, z: linear.loss(p, z) + jnp.sum(p.up.T @ z[0]), problem.data)
    with pytest.raises(RuntimeError, match="still has a flow: the residual is"):
        ne.find_equilibrium(asymmetric, params, linear.symmetry, 0.02, throw=True)
