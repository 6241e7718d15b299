"""Several steps in a turn of the loop: the same numbers, and who decides how many."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import xarray

import noise_equilibrium as ne
from noise_equilibrium._dynamics import _unroll
from noise_equilibrium.models import two_layer_linear as linear

KEY = jax.random.key(2)
CHARGE = linear.symmetry.charge
OBSERVE = {"charge": CHARGE, "mean": ne.running(CHARGE, 3)}


def run(unroll, dynamics, steps=12, every=6):
    problem, params = problems.linear_problem(2, 3, 2, samples=9, decay=0.05)
    return ne.simulate(problem, dynamics, params, steps, key=KEY, observe=OBSERVE, every=every, unroll=unroll)


def turns(steps, every, **options):
    """The lengths of the loops of a run as they are traced, and how many of their turns are one."""
    problem, params = problems.linear_problem(2, 3, 2, samples=9)
    program = jax.make_jaxpr(
        lambda key: ne.simulate(problem, ne.SGD(0.05, 2), params, steps, key=key, every=every, **options).params
    )(KEY)
    return sorted(_scans(program.jaxpr))


def _scans(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and eqn.params["length"] > 1:
            yield eqn.params["length"], eqn.params["unroll"]
        for inside in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inside, "jaxpr"):
                yield from _scans(inside.jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dynamics",
    [ne.SGD(0.05, 2, "epoch"), ne.SDE(0.05, 2), ne.GD(0.05)],
    ids=lambda one: type(one).__name__,
)
def test_steps_in_one_turn_give_the_same_numbers(dynamics):
    """To some roundings of each step; keys, counts and records are those of the step."""
    one = run(1, dynamics)
    for unroll, every in ((4, 6), (5, 1), (100, 12)):
        other = run(unroll, dynamics, every=every)
        np.testing.assert_array_equal(other.state.step, one.state.step)
        np.testing.assert_array_equal(other.state.clock.time, one.state.clock.time)
        assert other.observed["mean"].count == one.observed["mean"].count
        np.testing.assert_allclose(other.params.up, one.params.up, rtol=1e-13)
        np.testing.assert_allclose(other.observed["charge"][-1], one.observed["charge"][-1], rtol=1e-12)
    segments = run(4, dynamics, steps=6)
    problem, _ = problems.linear_problem(2, 3, 2, samples=9, decay=0.05)
    end = ne.resume(problem, dynamics, segments, 6, observe=OBSERVE, every=6, unroll=5)
    np.testing.assert_allclose(end.params.up, one.params.up, rtol=1e-13)


def test_a_turn_has_the_steps_that_were_asked_for():
    assert turns(12, 6) == [(2, 1), (6, 1)]  # a CPU turns for nothing
    assert turns(12, 6, unroll=4) == [(2, 1), (6, 4)]
    assert turns(12, 1, unroll=4) == [(12, 4)]
    assert turns(12, 2, unroll=4) == [(2, 2), (6, 2)]
    with pytest.raises(ValueError, match="unroll is 0; expected an integer of at least 1"):
        turns(12, 6, unroll=0)


def test_elsewhere_than_on_a_cpu_the_work_of_a_step_decides(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert turns(12, 12) == [(12, 8)]  # a step of some hundred operations
    monkeypatch.setattr(_unroll, "TURN_OPERATIONS", 1.0)
    assert turns(10, 10) == [(10, 1)]


# --- sweeps ----------------------------------------------------------------------------------------------------------


def sweep(unroll, **options):
    problem, params = problems.linear_problem(2, 3, 2, samples=9)

    def run(key, *, rate):
        return ne.simulate(problem, ne.SGD(rate, 2), params, 8, key=key, observe={"charge": CHARGE}, every=4)

    return ne.sweep(run, {"rate": [0.1, 0.2]}, seeds=2, key=KEY, unroll=unroll, progress=False, **options)


def test_a_sweep_passes_it_on_and_a_store_does_not_mind(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "noise_equilibrium._dynamics._loop.steps_in_a_turn",
        lambda unroll, *_: asked.append(unroll) or _unroll.steps_in_a_turn(unroll, *_),
    )
    data = sweep(4, store=tmp_path / "store").load()
    assert set(asked) == {1, 4}  # one for what a store knows the computation by
    xarray.testing.assert_identical(sweep(None, store=tmp_path / "store").load(), data)
    xarray.testing.assert_allclose(sweep(None), data, rtol=1e-12)
    with pytest.raises(ValueError, match="unroll is 0"):
        sweep(0)


def test_what_a_run_says_itself_holds():
    problem, params = problems.linear_problem(2, 3, 2, samples=9)
    with _unroll.unrolled(4):
        assert _unroll.as_chosen(2) == 2
        assert turns(12, 12, unroll=2) == [(12, 2)]
        assert turns(12, 12) == [(12, 4)]
    assert jnp.isfinite(ne.simulate(problem, ne.GD(0.1), params, 2, unroll=2).params.up).all()


def test_a_run_that_is_jitted_is_traced_again_for_another_number(tmp_path):
    problem, params = problems.linear_problem(2, 3, 2, samples=9)

    @jax.jit
    def one(key, rate):
        return ne.simulate(problem, ne.SGD(rate, 2), params, 12, key=key, every=6, observe={"charge": CHARGE})

    def both(unroll):
        options = {"store": tmp_path / "store", "progress": False, "unroll": unroll}
        return ne.sweep(lambda key, *, rate: one(key, rate), {"rate": [0.1, 0.2]}, seeds=2, key=KEY, **options).load()

    xarray.testing.assert_identical(both(4), both(1))  # the second opens the store of the first

    def lengths(unroll):
        with _unroll.unrolled(unroll):
            return sorted(_scans(jax.make_jaxpr(one)(KEY, 0.1).jaxpr))

    assert {turn for _, turn in lengths(1)} == {1}
    assert 3 in {turn for _, turn in lengths(3)}
