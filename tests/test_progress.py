"""A run with a bar is the run without one, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_move_along import relu_problem

import noise_equilibrium as ne
from noise_equilibrium._dynamics._progress import segments

OBSERVE = {
    "square": lambda p: jnp.sum(p[0]["w"] ** 2),
    "mean": ne.running(lambda p: p[1]["b"]),
    "crossed": ne.first_time(lambda p: jnp.sum(p[0]["w"] ** 2) > 1e9),
}


@pytest.mark.parametrize(
    "dynamics",
    [
        ne.SGD(0.01, 4, "epoch"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (ne.SDE(0.01, 4), ne.Optax(optax.adam(1e-2), 3))),
    ],
    ids=lambda d: type(d).__name__,
)
def test_segments_change_nothing(dynamics, capsys):
    problem, params = relu_problem()
    arguments = {"key": jax.random.key(1), "observe": OBSERVE, "every": 3}
    plain = ne.simulate(problem, dynamics, params, 309, **arguments)
    shown = ne.simulate(problem, dynamics, params, 309, **arguments, progress=True)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(shown), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "309/309" in capsys.readouterr().err.replace(".0", "")


def test_segments_cover_the_run():
    assert sum(segments(10_000, 10)) == 10_000
    assert len(set(segments(10_000, 10))) == 1
    assert segments(7, 7) == [7]
    assert segments(0, 1) == []
    assert sum(segments(309, 3)) == 309


def test_nothing_is_shown_inside_jit(capsys):
    problem, params = relu_problem()
    run = jax.jit(lambda p: ne.simulate(problem, ne.GD(0.01), p, 10, progress=True).params)
    run(params)
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_under_vmap_over_a_learning_rate(capsys):
    problem, params = relu_problem()

    def run(rate):
        return ne.simulate(problem, ne.GD(rate), params, 4, progress=True).params[0]["w"]

    both = jax.vmap(run)(jnp.array([1e-3, 2e-3]))
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(both[1], run(2e-3), rtol=1e-12)
    assert "4.00/4.00" in capsys.readouterr().err


def test_a_run_that_diverges_is_frozen_and_says_so(capsys):
    problem = ne.Problem(lambda w, z: (w**2 - z) ** 2, jnp.array([1.0, 2.0]))
    run = ne.simulate(problem, ne.GD(10.0), jnp.array(3.0), 40, observe={"w": lambda w: w}, progress=True)
    plain = ne.simulate(problem, ne.GD(10.0), jnp.array(3.0), 40, observe={"w": lambda w: w})
    np.testing.assert_array_equal(run.observed["w"], plain.observed["w"])
    assert f"diverged at step {int(plain.diverged_at)}" in capsys.readouterr().err
