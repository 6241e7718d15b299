"""Symmetries found by number: exactly those that a model has, in both precisions, for any layout of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_symmetries import MODELS, equinox_mlp, fits, neurons, normal, normalised, pairs, squared

import noise_equilibrium as ne
from noise_equilibrium._discovery import Symmetries

QUICK_SINGLE = ("relu", "adapter", "attention-fused")


def each_precision():
    """Every model in both precisions; the quick ones in double, and a few of them in single precision."""
    for name, model in MODELS.items():
        yield pytest.param(name, id=name, marks=[pytest.mark.slow] if model.slow else [])
        marks = [pytest.mark.float32] + ([] if name in QUICK_SINGLE else [pytest.mark.slow])
        yield pytest.param(name, id=f"{name}-float32", marks=marks)


def described(found, params):
    return tuple((str(one), one.algebra, one.charge(params).shape) for one in found)


@pytest.mark.parametrize("name", list(each_precision()))
def test_exactly_the_symmetries_of_a_model_are_found(name):
    model = MODELS[name]
    loss, params, data = model.build()
    found = ne.find_symmetries(ne.Problem(loss, data), params, frozen=model.frozen)
    assert described(found, params) == model.found
    assert found.ignored == model.ignored
    assert found.beyond == model.beyond


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("attention-fused", "image-first", "experts", "relu-recurrence", "tied")
    ],
)
def test_what_is_found_is_an_ordinary_symmetry(name):
    model = MODELS[name]
    loss, params, data = model.build()
    problem = ne.Problem(loss, data)
    for one in ne.find_symmetries(problem, params):
        assert isinstance(one, ne.Symmetry)
        ne.check_symmetry(problem, params, one)
        charge = one.charge(params)
        element = 0.3 * jax.random.normal(jax.random.key(1), charge.shape)
        if one.algebra == "symmetric":
            element = element + jnp.swapaxes(element, -1, -2)
        moved = one.act(params, element)
        before, after = (jax.vmap(loss, (None, 0))(p, data) for p in (params, moved))
        np.testing.assert_allclose(after, before, rtol=1e-12)
        assert (
            max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (params, moved)), strict=True)) > 0.01
        )


def test_two_lines_to_the_equilibrium_of_a_module():
    loss, params, data = equinox_mlp()
    problem = ne.Problem(loss, data, weight_decay=1e-3)
    equilibrium = ne.find_equilibrium(problem, params, ne.find_symmetries(problem, params), ne.SGD(0.05, 4))
    assert float(equilibrium.residual) < 1e-8
    before, after = (jax.vmap(loss, (None, 0))(p, data) for p in (params, equilibrium.params))
    np.testing.assert_allclose(after, before, rtol=1e-10)
    assert float(jnp.abs(equilibrium.params.layers[0].weight - params.layers[0].weight).max()) > 0.01


@pytest.mark.slow
def test_scalings_that_move_entries_twice_have_a_joint_equilibrium():
    loss, params, data = MODELS["relu-recurrence"].build()
    problem, sgd = ne.Problem(loss, data, weight_decay=1e-3), ne.SGD(0.05, 4)
    found = ne.find_symmetries(problem, params)
    equilibrium = ne.find_equilibrium(problem, params, found, sgd)
    rates = [ne.noether_flow(problem, equilibrium.params, one, sgd) for one in found]
    start = [ne.noether_flow(problem, params, one, sgd) for one in found]
    assert max(abs(float(rate)) for rate in rates) < 1e-8 * max(abs(float(rate)) for rate in start)


def test_results_repeat_and_do_not_hang_on_the_key():
    loss, params, data = neurons(jax.nn.relu)()
    problem = ne.Problem(loss, data)
    first, again = (ne.find_symmetries(problem, params) for _ in range(2))
    assert [(str(a), a.violation, a.gap) for a in first] == [(str(b), b.violation, b.gap) for b in again]
    other = ne.find_symmetries(problem, params, key=jax.random.key(7))
    assert list(map(str, other)) == list(map(str, first))
    assert other[0].violation != first[0].violation


def test_how_sure():
    loss, params, data = neurons(jax.nn.relu)()
    for one in ne.find_symmetries(ne.Problem(loss, data), params):
        assert one.violation < 1e-15
        assert one.gap > 1e10


def test_a_network_that_nearly_has_a_symmetry_is_told_by_how_much():
    loss, params, data = neurons(jax.nn.gelu)()
    found = ne.find_symmetries(ne.Problem(loss, data), params)
    assert found == []
    assert {str(one) for one in found.broken} >= {words for words, *_ in MODELS["relu"].found}
    assert all(0.05 < one.violation < 0.3 for one in found.broken)
    assert "no symmetry" in found.reason()
    assert "broken by" in found.reason()


def normalised_with(eps):
    _, params, data = normalised("rms")()

    def loss(p, z):
        h = p["w"] @ z[0]
        return squared(p["u"] @ (h / jnp.sqrt(jnp.mean(h**2) + eps) * p["gain"]), z[1])

    found = ne.find_symmetries(ne.Problem(loss, data), params)
    assert list(map(str, found)) == ["['gain'] ↔ ['u'] columns: 6 scalings"]
    (broken,) = (one for one in found.broken if str(one) == "['w']: one scaling")
    return broken


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_an_epsilon_in_a_normalisation_breaks_scale_invariance_in_proportion(eps):
    assert 0.5 * eps < normalised_with(eps).violation < 100 * eps


@pytest.mark.float32
def test_an_epsilon_below_rounding_is_told_from_a_symmetry_where_it_counts():
    # Slopes are known to 1e-7 here: only at smaller parameters does it show.
    assert normalised_with(1e-8).violation < 1e-6


# --- the program as a second finder --------------------------------------------------------------------------------


def read_program(name):
    model = MODELS[name]
    loss, params, data = model.build()
    problem = ne.Problem(loss, data)
    found = ne.find_symmetries(problem, params, frozen=model.frozen)
    return found, lambda these: these.program(problem, params)


AGREE = {
    "adapter": 2, "attention": 16, "attention-grouped": 12, "attention-normed": 16, "attention-rotary": 12,
    "attention-stacked": 24, "equinox-mlp": 16, "experts": 15, "gated": 5, "gelu": 0, "layer-norm": 7, "linear": 12,
    "pre-norm": 14, "relu-recurrence": 4, "residual": 14, "squared-relu": 12, "stacked-layers": 18, "weight-norm": 12,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), [pytest.param(*one, marks=pytest.mark.slow) for one in AGREE.items()])
def test_the_program_shows_the_same_scalings(name, count):
    found, read = read_program(name)
    assert read(found) == f"the program shows the same {count} scalings"


def test_where_the_program_shows_more_that_is_said():
    found, read = read_program("relu")
    assert read(found) == "the program shows the same 12 scalings"
    fewer = Symmetries(found[:1])
    assert read(fewer) == "the program shows 12 scalings, 6 of them among those that were found"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        # Of convolutions the reader knows nothing; nor that softmax ignores the bias of keys, here part of a parameter.
        (
            "image-first",
            "the program shows 0 scalings, 0 of them among those that were found; it does not show ['b'], ",
        ),
        ("attention-fused", "the program shows 16 scalings, 8 of them among those that were found; it does not show "),
    ],
)
def test_where_the_program_shows_less_that_is_said(name, text):
    found, read = read_program(name)
    assert read(found).startswith(text)


def test_a_large_program_is_not_read():
    loss, params, data = MODELS["decoder"].build()
    assert Symmetries([]).program(ne.Problem(loss, data), params) == "the program was not read: it is too large"


# --- what a user may hand in -----------------------------------------------------------------------------------------


def test_frozen_parameters_are_no_legs():
    loss, params, data = neurons(jax.nn.relu)()
    found = ne.find_symmetries(ne.Problem(loss, data), params, frozen=lambda p: p["w1"])
    assert list(map(str, found)) == ["['b2'], ['w2'] rows ↔ ['w3'] columns: 6 scalings"]


def test_two_samples_are_enough_for_a_model_that_depends_on_them_in_general():
    loss, params, data = neurons(jax.nn.relu)()
    found = ne.find_symmetries(ne.Problem(loss, jax.tree.map(lambda leaf: leaf[:2], data)), params)
    assert tuple(map(str, found)) == tuple(words for words, *_ in MODELS["relu"].found)


@pytest.mark.slow
@pytest.mark.float32
def test_axes_of_very_many_entries_are_scaled_as_a_whole_and_that_is_said():
    loss = fits(lambda p, x: jnp.sin(jnp.dot(p["u"] * p["v"], jnp.cos(x * jnp.arange(2.0**18 + 1)))))
    long = 2**18 + 1
    params = {"u": normal(1, long), "v": normal(2, long)}
    found = ne.find_symmetries(ne.Problem(loss, pairs(1, y=(1,))), params)
    assert described(found, params) == (("['u'] ↔ ['v']: one scaling", "scalar", ()),)
    assert "not along the axes of more than 262144 entries, of ['u'], ['v']" in found.reason()


def test_parameters_without_entries_and_integer_tables_are_left_alone():
    loss, params, data = neurons(jax.nn.relu)()
    more = params | {"empty": jnp.zeros((0, 3)), "table": jnp.arange(3)}
    found = ne.find_symmetries(ne.Problem(loss, data), more)
    assert described(found, more) == MODELS["relu"].found
    assert found.ignored == ()


def test_bad_input_is_refused():
    loss, params, data = neurons(jax.nn.relu)()
    problem = ne.Problem(loss, data)
    one = jax.tree.map(lambda leaf: leaf[:1], data)
    with pytest.raises(ValueError, match=r"got 1 sample; expected at least 2"):
        ne.find_symmetries(ne.Problem(loss, one), params)
    stream = ne.Problem(loss, ne.Stream(lambda key: jax.tree.map(lambda leaf: leaf[0], data)))
    with pytest.raises(ValueError, match=r"find_symmetries needs an expectation over a finite data set"):
        ne.find_symmetries(stream, params)
    with pytest.raises(ValueError, match="no floating-point array"):
        ne.find_symmetries(problem, jax.tree.map(lambda leaf: leaf.astype(int), params))
    with pytest.raises(ValueError, match=r"the loss is nan at params for sample 0"):
        ne.find_symmetries(problem, params | {"w1": params["w1"] * jnp.nan})
    with pytest.raises(ValueError, match=r"\['b1'\] has dtype bfloat16; find_symmetries compares slopes"):
        ne.find_symmetries(problem, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))
    with pytest.raises(ValueError, match=r"expected a call outside jit"):
        jax.jit(lambda p: len(ne.find_symmetries(problem, p)))(params)
    with pytest.raises(ValueError, match=r"the loss does not depend on any of the parameters"):
        ne.find_symmetries(ne.Problem(lambda p, z: jnp.sum(z[1]), data), params)
    with pytest.raises(ValueError, match=r"frozen failed on params \(KeyError"):
        ne.find_symmetries(problem, params, frozen=lambda p: p["nothing"])
    with pytest.raises(ValueError, match=r"frozen is 3; expected a function"):
        ne.find_symmetries(problem, params, frozen=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"frozen selects every parameter"):
        ne.find_symmetries(problem, params, frozen=lambda p: p)


@pytest.mark.parametrize("place", [3, 97, 150])
def test_a_sample_that_spoils_the_search_is_named(place):
    loss, params, (x, y) = neurons(jax.nn.relu)()
    many = jnp.tile(x, (200 // len(x) + 1, 1))[:200], jnp.tile(y, (200 // len(y) + 1, 1))[:200]
    spoilt = many[0].at[place].set(jnp.nan), many[1]
    with pytest.raises(ValueError, match=rf"the loss is nan at params for sample {place}"):
        ne.find_symmetries(ne.Problem(loss, spoilt), params)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("width", "keys"), [(2, 6), *(pytest.param(width, 30, marks=pytest.mark.slow) for width in (2, 3, 4))]
)
def test_units_that_happen_to_sleep_hide_and_invent_nothing(width, keys):
    loss = fits(lambda p, x: p["u"] @ jax.nn.relu(p["w"] @ x + p["b"]))
    params = {"b": normal(1, width), "u": normal(2, 2, width), "w": normal(3, width, 3)}
    problem = ne.Problem(loss, jax.tree.map(lambda leaf: leaf[:16], pairs(3, y=(2,))))
    for key in range(keys):
        found = ne.find_symmetries(problem, params, key=jax.random.key(key))
        assert described(found, params) == (
            (f"['b'], ['w'] rows ↔ ['u'] columns: {width} scalings", "diagonal", (width,)),
        )


def test_a_parameter_that_leaves_the_domain_of_the_loss_is_named():
    loss = fits(lambda p, x: jnp.dot(p["w"], x) / jnp.sqrt(1.01 - p["c"] ** 2))
    params = {"c": jnp.array([1.0, 0.5])[0], "w": normal(1, 4)}
    problem = ne.Problem(loss, pairs(4, y=()))
    with pytest.raises(ValueError, match=r"not finite after a perturbation of \['c'\]"):
        ne.find_symmetries(problem, params)
    assert ne.find_symmetries(problem, params, frozen=lambda p: p["c"]) == []


def test_the_program_does_not_depend_on_which_sample_comes_first():
    """Labels in one-hot form: zeros that the first sample has, others have not."""
    labels = jnp.array([2, 0, 1, 1, 2, 0])
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    params = {"E": jnp.ones((3, 3)) + jnp.eye(3), "v": jnp.array([1.0, 2.0, 3.0])}

    def loss(p, z):
        return jnp.sum((jax.nn.one_hot(z[1], 3) @ p["E"] * p["v"] - z[0]) ** 2)

    shown = []
    for shift in range(3):
        data = (inputs, jnp.roll(labels, shift))
        problem = ne.Problem(loss, data)
        shown.append(ne.find_symmetries(problem, params).program(problem, params))
    assert shown[0] == shown[1] == shown[2]
