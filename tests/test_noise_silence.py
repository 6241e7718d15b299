"""Losses without gradient noise, by construction: the note comes at every call, at the line of the user's."""

import inspect
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf

import noise_equilibrium as ne

PARAMS = {"u": np.float64(2.0), "i": np.float64(3.0)}
DATA = np.array([1.0, -1.0, 2.0])
IGNORING = ne.rescaling(leaf("u"), leaf("i"))
IGNORED = r"does not depend on params\['i'\], so there is no gradient noise there"


def loss(p, z):
    return p["u"] * z


def constant(p, z):
    return p["u"] * p["i"]


PROBLEM = ne.Problem(loss, DATA)
REDRAWN = ne.Problem(loss, ne.Redrawn(DATA, lambda key, z: z + jax.random.normal(key)))

# Of finite problems. Every call stands on a line of its own, which the warning has to name.
ASKED = {
    "noise_moments": lambda problem: ne.noise_moments(problem, PARAMS, IGNORING),
    "a sequence": lambda problem: ne.noise_moments(problem, PARAMS, [ne.scaling(leaf("u")), IGNORING]),
    "partial_moments": lambda problem: ne.partial_moments(problem, PARAMS, IGNORING),
    "estimate_moments": lambda problem: ne.estimate_moments(problem, PARAMS, IGNORING, batches=3),
    "noise_trace": lambda problem: ne.noise_trace(problem, PARAMS, IGNORING),
    "charge_rates": lambda problem: ne.charge_rates(problem, PARAMS, IGNORING),
    "explain": lambda problem: ne.explain(problem, PARAMS, IGNORING),
    "noether_flow": lambda problem: ne.noether_flow(problem, PARAMS, IGNORING, 0.1),
    "measure": lambda problem: ne.measure(problem, PARAMS, IGNORING),
    "relaxation_rates": lambda problem: ne.relaxation_rates(problem, PARAMS, IGNORING, 0.1),
    "orbit_flow": lambda problem: ne.orbit_flow(problem, PARAMS, IGNORING, 0.1, [1.0]),
    "find_equilibrium": lambda problem: ne.find_equilibrium(problem, PARAMS, IGNORING, 0.1),
    "a joint one": lambda problem: ne.find_equilibrium(problem, PARAMS, [ne.scaling(leaf("u")), IGNORING], 0.1),
    "predict": lambda problem: ne.predict(problem, PARAMS, IGNORING, 0.1),
    "expected_charge_step": lambda problem: ne.expected_charge_step(problem, PARAMS, IGNORING, ne.SGD(0.1, 1)),
    "redrawn_moments": lambda _: ne.redrawn_moments(REDRAWN, PARAMS, IGNORING, key=jax.random.key(0)),
}


def notes(ask):
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask()
    return caught


def places(caught):
    return [(note.filename, note.lineno) for note in caught]


def line_of(function):
    return inspect.getsourcelines(function)[1]


@pytest.mark.parametrize("name", ASKED)
def test_every_call_says_what_the_loss_ignores_at_the_line_of_the_call(name):
    ask = ASKED[name]
    for _ in range(2):  # traced, and compiled already
        with pytest.warns(UserWarning, match=IGNORED) as caught:
            ask(PROBLEM)
        assert places(caught) == [(__file__, line_of(ask))]


@pytest.mark.parametrize("name", [name for name in ASKED if name != "redrawn_moments"])
def test_every_call_says_that_the_loss_does_not_see_the_sample(name):
    for _ in range(2):
        with pytest.warns(UserWarning, match="does not depend on the sample, so it has no gradient noise") as caught:
            ASKED[name](ne.Problem(constant, DATA))
        assert len(caught) == 1


def test_a_trace_over_all_parameters_does_not_speak_of_those_the_loss_ignores():
    assert notes(lambda: ne.noise_trace(PROBLEM, PARAMS)) == []
    for _ in range(2):
        with pytest.warns(UserWarning, match="does not depend on the sample"):
            ne.noise_trace(ne.Problem(constant, DATA), PARAMS)


def test_a_caller_may_silence_the_note_by_its_own_line():
    """Filters go by the module of the line that is blamed: this one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=__name__)
        ne.noise_moments(PROBLEM, PARAMS, IGNORING)


def test_inside_a_transformation_the_note_comes_with_the_trace():
    def noise(u):
        return ne.noise_moments(PROBLEM, {**PARAMS, "u": u}, IGNORING).noise_plus

    here = (__file__, line_of(noise) + 1)
    compiled = jax.jit(noise)
    assert places(notes(lambda: compiled(2.0))) == [here]
    assert places(notes(lambda: compiled(3.0))) == []
    assert places(notes(lambda: jax.vmap(noise)(jnp.ones(2)))) == [here]
    assert places(notes(lambda: jax.grad(noise)(2.0))) == [here]


def test_programs_that_take_the_moments_inside_blame_the_line_of_the_user_too():
    """When they are traced; the note is the same each time, so Python's own filter shows it once."""

    def asks():
        ne.relaxation_rates(PROBLEM, PARAMS, IGNORING, 0.1)
        ne.find_equilibrium(PROBLEM, PARAMS, IGNORING, 0.1)

    first = line_of(asks) + 1
    assert set(places(notes(asks))) == {(__file__, first), (__file__, first + 1)}


def test_the_loss_is_read_once_and_the_note_costs_no_further_trace():
    @chex.assert_max_traces(n=3)  # the first two share a program
    def counted(p, z):
        return loss(p, z)

    problem = ne.Problem(counted, DATA)
    for ask in (ne.noise_moments, ne.partial_moments, ne.charge_rates, ne.noise_trace):
        first = notes(lambda ask=ask: ask(problem, PARAMS, IGNORING))
        again = notes(lambda ask=ask: ask(problem, PARAMS, IGNORING))
        assert len(first) == len(again) == 1


def test_the_sde_of_a_loss_that_ignores_a_parameter_has_no_note():
    """Its Itô–Stratonovich correction is ∇Tr Σ over all parameters, which nobody asked for one by one."""
    import diffrax

    params = jax.tree.map(jnp.asarray, PARAMS)
    path = diffrax.UnsafeBrownianPath(shape=(3,), key=jax.random.key(0))
    terms = ne.sde_terms(PROBLEM, ne.SDE(0.1, 1), params, path, stratonovich=True)
    drift = terms.terms[0].vf(0.0, params, None)
    np.testing.assert_allclose(drift["u"], -np.mean(DATA), rtol=1e-12)  # Tr Σ = Var z at every θ
