"""Legs that are parts of axes: every pattern against slices and reshapes that are written out by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal

import noise_equilibrium as ne
from noise_equilibrium._equilibrium._find import _require_commuting
from noise_equilibrium._equilibrium._turns import data_ground, search
from noise_equilibrium._flow import as_law
from noise_equilibrium._flow._across import across_orbit
from noise_equilibrium._parameters import split
from noise_equilibrium._valley._turning import _fields

N, T, D, H, K = 6, 5, 7, 2, 4  # samples, tokens, width, heads, and the size of a head
ALGEBRAS = ("scalar", "diagonal", "symmetric")


class Part(NamedTuple):
    """A leg, and the same part of the array by hand: (H, m, k), blocks in front and what is acted on last."""

    name: str
    pattern: str
    power: int
    by_hand: Callable[[Any], Any]


class Case(NamedTuple):
    loss: Callable[[Any, Any], Any]
    params: dict[str, Any]
    data: Any
    parts: list[Part]
    algebra: str | None = None  # of the largest symmetry that the loss has
    path: str = "factors"

    @property
    def problem(self) -> ne.Problem:
        return ne.Problem(self.loss, self.data, 1e-2)

    def symmetry(self, algebra: str) -> ne.Symmetry:
        return ne.Symmetry([ne.Leg(leaf(one.name), one.pattern, one.power) for one in self.parts], algebra)


def matrix(seed, *shape):
    return normal(seed, *shape) / np.sqrt(shape[-1])


TOKENS = normal(0, N, T, D)


# --- attention --------------------------------------------------------------------------------------------------------


def scores(q, k):
    """Of (T, H, k) each."""
    return jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k), axis=-1)


def attend(q, k, v):
    return jnp.einsum("hts,shd->thd", scores(q, k), v).reshape(len(q), -1)


def fused(p, x):
    qkv = (x @ p["qkv"].T + p["b"]).reshape(T, 3, H, K)
    return jnp.sum(jnp.tanh(attend(*jnp.moveaxis(qkv, 1, 0)) @ p["o"].T) ** 2)


def fused_then_split(p, x):
    q, k, v = (
        (x @ w.T + b).reshape(T, H, K) for w, b in zip(jnp.split(p["qkv"], 3), jnp.split(p["b"], 3), strict=True)
    )
    return jnp.sum(jnp.tanh(attend(q, k, v) @ p["o"].T) ** 2)


def fused_by_head(p, x):
    q, k, v = jnp.moveaxis((x @ p["qkv"].T + p["b"]).reshape(T, H, 3, K), 2, 0)
    return jnp.sum(jnp.tanh(attend(q, k, v) @ p["o"].T) ** 2)


FUSED = {"qkv": matrix(1, 3 * H * K, D), "b": normal(2, 3 * H * K), "o": matrix(3, 4, H * K)}


def of_qkv(place, by_head=False):
    """The rows of queries, keys or values in a matrix, or the entries in a bias, as (H, m, k)."""

    def by_hand(array):
        split = array.reshape((H, 3, K, -1) if by_head else (3, H, K, -1))
        return (split[:, place] if by_head else split[place]).swapaxes(1, 2)

    return by_hand


def qkv_parts(place, power, by_head=False):
    axis = f"(head=2 _3[{place}] *)" if by_head else f"(_3[{place}] head=2 *)"
    return [
        Part("qkv", axis + " _", power, of_qkv(place, by_head)),
        Part("b", axis, power, of_qkv(place, by_head)),
    ]


def columns_of_heads(array):
    return array.reshape(-1, H, K).swapaxes(0, 1)


OUTPUT = Part("o", "_ (head=2 *)", -1, columns_of_heads)


def grouped(p, x):
    q, k = (x @ p["q"].T).reshape(T, H, 3, K), (x @ p["k"].T).reshape(T, H, K)
    return jnp.sum(jax.nn.softmax(jnp.einsum("tgad,sgd->gats", q, k), axis=-1) ** 2)


def rotary(halves):
    """Rotation of the pairs (i, i + k/2) of a head, or of neighbours, by angles that grow with the position."""

    def rotate(x):  # (T, H, K)
        pairs = x.reshape(T, H, 2, K // 2) if halves else jnp.swapaxes(x.reshape(T, H, K // 2, 2), 2, 3)
        angle = jnp.arange(1.0, 1 + T)[:, None] * jnp.array([1.0, 0.3])
        cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def loss(p, x):
        q, k = (rotate((x @ p[name].T).reshape(T, H, K)) for name in ("q", "k"))
        return jnp.sum(scores(q, k) ** 2)

    def by_hand(array):
        split = array.reshape((H, 2, K // 2, D) if halves else (H, K // 2, 2, D))
        return (split.transpose(0, 1, 3, 2) if halves else split.transpose(0, 2, 3, 1)).reshape(H, 2 * D, K // 2)

    pattern = "(head=2 _2 *) _" if halves else "(head=2 * _2) _"
    params = {"q": 2 * matrix(1, H * K, D), "k": matrix(2, H * K, D)}
    return Case(loss, params, TOKENS, [Part("q", pattern, 1, by_hand), Part("k", pattern, -1, by_hand)], "diagonal")


def flax_attention(p, x):
    q, k, v = (jnp.einsum("td,dhk->thk", x, p[name]) for name in "qkv")
    mixed = jnp.einsum("hts,shd->thd", scores(q, k), v)
    return jnp.sum(jnp.tanh(jnp.einsum("thk,hkd->td", mixed, p["o"])) ** 2)


# --- layers of neurons ------------------------------------------------------------------------------------------------


def swiglu(p, x):
    gate, up = jnp.split(p["w"] @ x, 2)
    return jnp.sum((p["down"] @ (jax.nn.silu(gate) * up)) ** 2)


def conv_dense(last):
    """A convolution of 3 channels to 4, ReLU, and a dense layer on what is flattened with channels last or first."""
    spec = ("NHWC", "HWIO", "NHWC") if last else ("NCHW", "OIHW", "NCHW")

    def loss(p, x):
        out = jax.lax.conv_general_dilated(x[None], p["w"], (1, 1), "VALID", dimension_numbers=spec)[0]
        out = jax.nn.relu(out + (p["b"] if last else p["b"][:, None, None]))
        return jnp.sum(jnp.tanh(p["u"] @ out.ravel()) ** 2)

    def of_kernel(w):
        return w.reshape(1, -1, 4) if last else w.reshape(1, 4, -1).swapaxes(1, 2)

    def of_dense(u):
        return u.reshape(1, -1, 4) if last else u.reshape(1, 2, 4, 9).swapaxes(2, 3).reshape(1, -1, 4)

    shape, image = ((2, 2, 3, 4), (4, 4, 3)) if last else ((4, 3, 2, 2), (3, 4, 4))
    params = {"w": normal(1, *shape) / 3, "b": normal(2, 4), "u": normal(3, 2, 36) / 3}
    parts = [
        Part("w", "_ _ _ *" if last else "* _ _ _", 1, of_kernel),
        Part("b", "*", 1, lambda b: b.reshape(1, 1, 4)),
        Part("u", "_ (_9 *)" if last else "_ (* _9)", -1, of_dense),
    ]
    return Case(loss, params, normal(4, N, *image), parts, "diagonal")


LAYERS = {"w": normal(1, 3, 5, D) / 2, "b": normal(2, 3, 5), "u": normal(3, 3, D, 5) / 2}
LAYER_PARTS = [
    Part("w", "layer * _", 1, lambda w: w.swapaxes(1, 2)),
    Part("b", "layer *", 1, lambda b: b[:, None]),
    Part("u", "layer _ *", -1, lambda u: u),
]


def layer(x, p):
    return x + p["u"] @ jax.nn.relu(p["w"] @ x + p["b"]), None


def scanned(p, x):
    return jnp.sum(jax.lax.scan(layer, x[0], p)[0] ** 2)


def unrolled(p, x):
    x = x[0]
    for i in range(3):
        x, _ = layer(x, {name: array[i] for name, array in p.items()})
    return jnp.sum(x**2)


# --- odd parts --------------------------------------------------------------------------------------------------------


def two_layers(p, x):
    return jnp.sum((p["u"] @ jax.nn.relu(p["w"] @ x[0] + p["b"])) ** 2)


def embedded(p, x):
    index = jnp.floor(3 * jnp.abs(x[:, 0])).astype(int) % 6
    return jnp.sum(jnp.sin(p["e"][index] @ p["w"].T) @ p["u"].T)


def tapped(p, x):
    return jnp.sum((jnp.sin(p["u"]) @ (jnp.sin(p["w"]) @ x[0] + jnp.sin(p["b"]))) ** 2)


WIDE = {"w": normal(1, 12, D) / 2, "b": normal(2, 12), "u": normal(3, 3, 12) / 2}
# Neurons 2:8 of twelve, and of another reading every second of three parts.
RANGE = [
    Part("w", "*12[2:8] _", 1, lambda w: w[2:8].T[None]),
    Part("b", "*12[2:8]", 1, lambda b: b[2:8][None, None]),
    Part("u", "_ *12[2:8]", -1, lambda u: u[:, 2:8][None]),
]
BLOCKS_OF_RANGE = [
    Part("w", "(head=4[1:3] *) _7[2:5]", 1, lambda w: w[3:9, 2:5].reshape(2, 3, 3).swapaxes(1, 2)),
    Part("u", "_3[1:] (head=2 _2[1] *)", -1, lambda u: u[1:].reshape(2, 2, 2, 3)[:, :, 1].swapaxes(0, 1)),
]
TWO_AXES = [
    Part("w", "layer (head=5 *1) _", 1, lambda w: w.reshape(15, 1, D).swapaxes(1, 2)),
    Part("u", "layer * head", -1, lambda u: u[:, :1].transpose(0, 2, 1).reshape(15, 1, 1)),
]
TABLE = {"e": normal(1, 6, D), "w": normal(2, 4, D), "u": normal(3, 2, 4)}

CASES = {
    "fused-queries-keys": Case(fused, FUSED, TOKENS, qkv_parts(0, 1) + qkv_parts(1, -1), "symmetric"),
    "fused-values-output": Case(fused, FUSED, TOKENS, [*qkv_parts(2, 1), OUTPUT], "symmetric"),
    "fused-then-split": Case(fused_then_split, FUSED, TOKENS, qkv_parts(0, 1) + qkv_parts(1, -1), "symmetric"),
    "fused-by-head": Case(fused_by_head, FUSED, TOKENS, qkv_parts(0, 1, True) + qkv_parts(1, -1, True), "symmetric"),
    "grouped": Case(
        grouped,
        {"q": 2 * matrix(1, H * 3 * K, D), "k": matrix(2, H * K, D)},
        TOKENS,
        [
            Part("q", "(group=2 _3 *) _", 1, lambda q: q.reshape(H, 3, K, D).swapaxes(2, 3).reshape(H, 3 * D, K)),
            Part("k", "(group=2 *) _", -1, lambda k: k.reshape(H, K, D).swapaxes(1, 2)),
        ],
        "symmetric",
    ),
    "rotary-halves": rotary(halves=True),
    "rotary-neighbours": rotary(halves=False),
    "flax-kernels": Case(
        flax_attention,
        {**{name: matrix(i, D, H, K) * 2 for i, name in enumerate("qkv")}, "o": normal(5, H, K, D)},
        TOKENS,
        [
            Part("v", "_ head *", 1, lambda v: v.swapaxes(0, 1)),
            Part("o", "head * _", -1, lambda o: o.swapaxes(1, 2)),
        ],
        "symmetric",
    ),
    "swiglu": Case(
        swiglu,
        {"w": normal(1, 10, D) / 2, "down": normal(2, 3, 5)},
        TOKENS[:, 0],
        [Part("w", "(_2[1] *) _", 1, lambda w: w[5:].T[None]), Part("down", "_ *", -1, lambda d: d[None])],
        "diagonal",
    ),
    "conv-dense-first": conv_dense(last=False),
    "conv-dense-last": conv_dense(last=True),
    "scanned": Case(scanned, LAYERS, TOKENS, LAYER_PARTS, "diagonal"),
    "unrolled": Case(unrolled, LAYERS, TOKENS, LAYER_PARTS, "diagonal"),
    "range": Case(two_layers, WIDE, TOKENS, RANGE, "diagonal"),
    "range-tapped": Case(tapped, WIDE, TOKENS, RANGE, path="tapped"),
    "range-of-blocks": Case(two_layers, WIDE, TOKENS, BLOCKS_OF_RANGE),
    "range-of-rows": Case(
        embedded,
        TABLE,
        TOKENS,
        [
            Part("e", "_6[1:4] *", 1, lambda e: e[1:4][None]),
            Part("w", "_ *", -1, lambda w: w[None]),
        ],
    ),
    "rows-in-blocks": Case(embedded, TABLE, TOKENS, [Part("e", "(block=2 *) _", 1, lambda e: e.reshape(2, 3, D).mT)]),
}


def product(algebra, left, right):
    """Of (H, m, k)."""
    return {
        "scalar": lambda: np.einsum("hmk,hmk->h", left, right),
        "diagonal": lambda: np.einsum("hmk,hmk->hk", left, right),
        "symmetric": lambda: np.einsum("hmk,hml->hkl", left, right),
    }[algebra]()


def by_power(case, algebra, arrays):
    """Σ Gram over the legs of each power, averaged over the leading axis of the arrays."""
    totals = {}
    for part in case.parts:
        grams = [product(algebra, one, one) for one in map(part.by_hand, arrays[part.name])]
        totals[part.power] = totals.get(part.power, 0) + np.mean(grams, axis=0)
    return totals


def require_moments(case, rtol=1e-12):
    gradients = jax.jit(jax.vmap(jax.grad(case.loss), (None, 0)))(case.params, case.data)
    gradients = {key: np.asarray(array, np.float64) for key, array in gradients.items()}
    mean = {key: np.mean(array, axis=0, keepdims=True) for key, array in gradients.items()}
    centred = {key: array - mean[key] for key, array in gradients.items()}
    weights = {key: np.asarray(array)[None] for key, array in case.params.items()}
    symmetries = [case.symmetry(algebra) for algebra in ALGEBRAS]
    found: Any = ne.noise_moments(case.problem, case.params, symmetries)
    for algebra, moments in zip(ALGEBRAS, found, strict=True):
        for kind, arrays in (("noise", centred), ("mean", mean), ("weight", weights)):
            for power, expected in by_power(case, algebra, arrays).items():
                ours = getattr(moments, kind)[moments.powers.index(power)]
                scale = np.max(np.abs(expected))
                np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=0, atol=rtol * scale)
    legs = ne.explain(case.problem, case.params, symmetries).legs
    assert {leg.path for leg in legs if not leg.name.startswith("params['b']")} == {case.path}  # biases meet no input


# Their other layouts are in the quick tests, and they themselves in those of the action.
SLOW = ("fused-by-head", "rotary-neighbours", "conv-dense-last", "range-tapped")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in CASES])
def test_moments_are_those_of_per_sample_gradients(name):
    require_moments(CASES[name])


@pytest.mark.parametrize("cuts", [(3, 6, 9), (6,), (5, 8)], ids=str)
def test_moments_of_a_parameter_used_in_slices(cuts):
    """The slices hold whole blocks, parts of blocks, parts of what is shared, and parts of what is acted on."""

    def loss(p, x):
        return sum(jnp.sum(jnp.tanh(w @ x[0]) ** 2) * (i + 1.0) for i, w in enumerate(jnp.split(p["w"], cuts)))

    parts = [
        Part("w", "(block=2 _2[1] *3) _", 1, lambda w: w.reshape(2, 2, 3, D)[:, 1].swapaxes(1, 2)),
        Part("w", "(block=2 _2[0] *) _7[3:]", -1, lambda w: w.reshape(2, 2, 3, D)[:, 0, :, 3:].swapaxes(1, 2)),
    ]
    if cuts == (6,):  # of a range of blocks each slice has one
        parts = [Part("w", "(block=4[1:3] *) _", 1, lambda w: w.reshape(4, 3, D)[1:3].swapaxes(1, 2))]
    require_moments(Case(loss, WIDE, TOKENS, parts))


@pytest.mark.parametrize("name", ["unrolled"])
def test_charge_rates_of_every_sample(name):
    case = CASES[name]
    algebra = str(case.algebra)
    rates = np.asarray(ne.charge_rates(case.problem, case.params, case.symmetry(algebra)))
    gradients = jax.jit(jax.vmap(jax.grad(case.loss), (None, 0)))(case.params, case.data)
    for sample in range(N):
        grams = by_power(case, algebra, {key: np.asarray(array)[sample][None] for key, array in gradients.items()})
        expected = sum(power * gram for power, gram in grams.items())
        np.testing.assert_allclose(rates[sample], expected, rtol=0, atol=1e-12 * np.max(np.abs(expected)))


def test_slices_that_hold_whole_blocks_are_measured_one_by_one():
    """As cheap as the fused product, where joining them would cost their number squared."""
    flops = [
        [leg.flops for leg in ne.explain(CASES[name].problem, FUSED, CASES[name].symmetry("symmetric")).legs]
        for name in ("fused-queries-keys", "fused-then-split")
    ]
    np.testing.assert_allclose(*flops, rtol=1e-12)


# --- charge, action, checks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_an_element_acts_on_the_part_and_on_nothing_else(name):
    case = CASES[name]
    algebra = case.algebra or "diagonal"
    symmetry = case.symmetry(algebra)
    charge = np.asarray(symmetry.charge(case.params))
    element = 0.3 * normal(7, *charge.shape)
    element = element + np.swapaxes(element, -1, -2) if algebra == "symmetric" else element
    moved, tangent = symmetry.act(case.params, element), symmetry.generator(case.params, element)
    expected = {key: np.array(array) for key, array in case.params.items()}
    tangents = {key: np.zeros_like(array) for key, array in case.params.items()}
    totals: Any = 0
    for part in case.parts:
        array = case.params[part.name]
        places = part.by_hand(np.arange(array.size).reshape(array.shape))
        inside = array.ravel()[places]
        blocks = element.reshape(len(places), places.shape[2], -1)
        matrices = part.power * (blocks if algebra == "symmetric" else blocks * np.eye(places.shape[2]))
        values, vectors = np.linalg.eigh(matrices)
        totals = totals + part.power * product(algebra, inside, inside)
        expected[part.name].ravel()[places] = inside @ (vectors * np.exp(values)[:, None] @ vectors.mT)
        tangents[part.name].ravel()[places] = inside @ matrices
    np.testing.assert_allclose(charge, totals.reshape(charge.shape), rtol=1e-12, atol=1e-12)
    for key, array in expected.items():
        np.testing.assert_allclose(moved[key], array, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(tangent[key], tangents[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.algebra])
def test_the_losses_have_the_symmetries(name):
    case = CASES[name]
    assert ne.symmetry_violation(case.problem, case.params, case.symmetry(str(case.algebra))) <= 1e-12


def test_a_violation_is_measured_against_the_gradient_of_the_part():
    """Another part of the parameter with a large gradient does not hide it."""
    problem = ne.Problem(lambda p, z: p[0] * p[1] ** 2 * z + 1e9 * p[2], jnp.ones(1))
    halves = ne.Symmetry([ne.Leg(lambda p: p, "*3[0]", 1), ne.Leg(lambda p: p, "*3[1]", -1)], "diagonal")
    np.testing.assert_allclose(ne.symmetry_violation(problem, jnp.ones(3), halves), 1 / np.sqrt(10), rtol=1e-12)


@pytest.mark.parametrize("name", ["fused-queries-keys", "range"])
def test_what_lies_across_the_orbit_has_no_part_along_it_and_all_that_is_not_moved(name):
    case = CASES[name]
    symmetry = case.symmetry(str(case.algebra))
    element = normal(7, *symmetry.charge(case.params).shape)
    element = element + element.swapaxes(-1, -2) if symmetry.algebra == "symmetric" else element
    along = ne.flatten(symmetry.generator(case.params, element))[0]
    project = across_orbit(symmetry.bind(case.params), case.params)
    np.testing.assert_allclose(project(along), 0, atol=1e-12)
    still = jnp.where(along == 0, normal(8, *along.shape), 0)  # entries that no leg holds
    assert jnp.any(still != 0)
    np.testing.assert_array_equal(project(still), still)


def test_a_scalar_leg_needs_nothing_that_is_acted_on():
    case = CASES["scanned"]
    legs = [("w", "layer _ _"), ("w", "layer * _")]
    one, other = (
        ne.noise_moments(case.problem, case.params, ne.Symmetry([ne.Leg(leaf(name), pattern)], "scalar"))
        for name, pattern in legs
    )
    np.testing.assert_allclose(one.noise_plus, other.noise_plus, rtol=1e-13)
    np.testing.assert_allclose(one.weight_plus, np.sum(LAYERS["w"] ** 2, axis=(1, 2)), rtol=1e-13)


def test_blocks_are_found_by_name_in_the_order_of_the_first_leg():
    params = {"a": normal(1, 2, 3, 4), "b": normal(2, 3, 2, 4)}
    legs = [ne.Leg(leaf("a"), "x y *"), ne.Leg(leaf("b"), "y x *", -1)]
    charge = ne.Symmetry(legs, "diagonal").charge(params)
    expected = (params["a"] ** 2 - params["b"].swapaxes(0, 1) ** 2).reshape(6, 4)
    np.testing.assert_allclose(charge, expected, rtol=1e-13)


def test_blocks_of_a_numbered_axis_are_those_of_a_name():
    params = {"a": normal(1, 6, 5), "b": normal(2, 6)}
    legs = [ne.Leg(leaf("a"), 0, 1, blocks=2), ne.Leg(leaf("b"), "(head=2 *)", -1)]
    charge = ne.Symmetry(legs, "diagonal").charge(params)
    np.testing.assert_allclose(charge, (np.sum(params["a"] ** 2, 1) - params["b"] ** 2).reshape(2, 3), rtol=1e-13)


# --- flow, rates, equilibria ------------------------------------------------------------------------------------------


def require_equilibrium(problem, params, symmetries, sweeps=None):
    found = ne.find_equilibrium(problem, params, symmetries, 0.05)
    assert found.status == ne.Status.CONVERGED
    assert found.residual <= 1e-10
    assert sweeps is None or int(found.sweeps) == sweeps
    data_loss = ne.Problem(problem.loss, problem.data).risk
    np.testing.assert_allclose(data_loss(found.params), data_loss(params), rtol=1e-11)
    assert max(float(jnp.max(jnp.abs(e))) for e in jax.tree.leaves(found.element)) > 1e-2
    return found


def test_both_symmetries_of_fused_attention_balance_at_once():
    """They share a parameter, but no entry of it."""
    several = [CASES[name].symmetry("symmetric") for name in ("fused-queries-keys", "fused-values-output")]
    problem = CASES["fused-queries-keys"].problem
    require_equilibrium(problem, FUSED, several, sweeps=1)


def test_layers_in_one_array_are_balanced_at_once():
    case = CASES["scanned"]
    found = require_equilibrium(case.problem, case.params, [case.symmetry("diagonal")], sweeps=1)
    assert found.element[0].shape == (3, 5)
    flow = ne.noether_flow(case.problem, case.params, case.symmetry("diagonal"), 0.05)
    rates = ne.relaxation_rates(case.problem, found.params, case.symmetry("diagonal"), 0.05)
    assert flow.shape == rates.shape == (3, 5)
    assert float(jnp.min(rates)) > 0


@pytest.mark.parametrize("last", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["first", "last"])
def test_convolutions_and_a_dense_layer_behind_them_are_balanced_together(last):
    """Two symmetries that share the second kernel: entry by entry, from one measurement."""
    case = conv_dense(last)
    spec = ("NHWC", "HWIO", "NHWC") if last else ("NCHW", "OIHW", "NCHW")

    def loss(p, x):
        conv = jax.lax.conv_general_dilated(x[None], p["v"], (1, 1), "VALID", dimension_numbers=spec)[0]
        return case.loss(p, jax.nn.relu(conv))

    kernel = normal(8, 1, 1, 2, 3) if last else normal(8, 3, 2, 1, 1)
    data = normal(9, N, 4, 4, 2) if last else normal(9, N, 2, 4, 4)
    into = [
        ne.Leg(leaf("v"), "_ _ _ *" if last else "* _ _ _"),
        ne.Leg(leaf("w"), "_ _ * _" if last else "_ * _ _", -1),
    ]
    several = [ne.Symmetry(into, "diagonal"), case.symmetry("diagonal")]
    require_equilibrium(ne.Problem(loss, data, 1e-2), case.params | {"v": kernel}, several)


@pytest.mark.slow
def test_scalings_of_overlapping_and_disjoint_parts_find_what_turns_find():
    def scaled(pattern, algebra):
        legs = [ne.Leg(leaf("w"), f"{pattern} _"), ne.Leg(leaf("b"), pattern), ne.Leg(leaf("u"), f"_ {pattern}", -1)]
        return ne.Symmetry(legs, algebra)

    several = [scaled("*12[0:2]", "diagonal"), scaled("*12[2:8]", "diagonal"), scaled("(two=6[3:] *)", "scalar")]
    problem = ne.Problem(two_layers, TOKENS, 1e-2)
    found = require_equilibrium(problem, WIDE, several)
    arrays, rebuild = split(WIDE)
    bound = tuple(symmetry.bind(WIDE) for symmetry in several)
    turns = search(data_ground(problem, rebuild), arrays, bound, as_law(0.05).charge_law(problem))
    for one, other in zip(split(found.params)[0], turns.arrays, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_parts_are_moved_to_the_least_largest_entry_and_to_the_least_curvature():
    case = CASES["range"]
    rest = [ne.Leg(leaf("w"), "*12[8:] _"), ne.Leg(leaf("b"), "*12[8:]"), ne.Leg(leaf("u"), "_ *12[8:]", -1)]
    several = [case.symmetry("diagonal"), ne.Symmetry(rest, "diagonal")]
    for objective in ("largest_entry", "flattest"):
        found = ne.move_along(case.problem, case.params, several, objective)
        assert found.status == ne.Status.CONVERGED
        np.testing.assert_array_equal(found.params["w"][:2], WIDE["w"][:2])
        assert not np.any(np.isclose(found.params["u"][:, 3:], WIDE["u"][:, 3:], rtol=1e-3))  # neuron 2 is dead


HEADS, HALVES = "(_3[0] head=2 *) _", "(_3[0] head=2 *2 _2) _"
COMMUTE = [
    (HEADS, "symmetric", "(_3[1] head=2 *) _", "symmetric", True),  # disjoint
    (HEADS, "symmetric", "(_3[0:2] *) _", "symmetric", False),
    (HEADS, "symmetric", "(_3[0] *) _", "diagonal", False),
    (HEADS, "symmetric", "(_3[0] head=2 *) _", "scalar", True),  # a number for a head
    (HEADS, "symmetric", "(_3[0] part=4 *) _", "scalar", False),  # half of a head
    (HEADS, "symmetric", "(_3[0] head=2 *4[1:3]) _", "scalar", False),  # some of what is mixed
    (HEADS, "symmetric", "_ *", "symmetric", True),  # on the other side
    (HEADS, "symmetric", "(_24[3:9]) *", "symmetric", False),  # on the other side of some of what is mixed
    (HEADS, "symmetric", "(_24[4:9]) *", "symmetric", True),
    ("(_3 head=2 *2 _2) _", "symmetric", "(_3 head=2 _2 *2) _", "symmetric", True),  # factors of one axis
    (HALVES, "symmetric", "(_3[0] head=2 *) _", "diagonal", False),
    (HALVES, "diagonal", "(_3[0] head=2 *) _", "diagonal", True),
]


@pytest.mark.parametrize(("first", "one", "second", "other", "expected"), COMMUTE)
def test_which_symmetries_of_one_parameter_commute(first, one, second, other, expected):
    """Against the commutator of two elements."""
    params = {"qkv": FUSED["qkv"]}
    pair = [ne.Symmetry([ne.Leg(leaf("qkv"), p)], a) for p, a in ((first, one), (second, other))]
    elements = []
    for place, symmetry in enumerate(pair):
        element = normal(place, *symmetry.charge(params).shape)
        elements.append(element + element.swapaxes(-1, -2) if symmetry.algebra == "symmetric" else element)
    (a, x), (b, y) = zip(pair, elements, strict=True)
    ab, ba = b.generator(a.generator(params, x), y)["qkv"], a.generator(b.generator(params, y), x)["qkv"]
    assert bool(jnp.max(jnp.abs(ab - ba)) < 1e-12) == expected
    bound = tuple(symmetry.bind(params) for symmetry in pair)
    if expected:
        _require_commuting(bound)
    else:
        with pytest.raises(ValueError, match=r"act on axis 0 of params\['qkv'\], as .*_3\[0\].* do not commute"):
            _require_commuting(bound)


@pytest.mark.float32
def test_legs_in_single_precision():
    case = CASES["fused-queries-keys"]
    single = jax.tree.map(lambda a: np.asarray(a, np.float32), (case.params, case.data))
    case = case._replace(params=single[0], data=single[1])
    require_moments(case, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.float32
def test_parts_are_balanced_in_single_precision():
    case = CASES["fused-queries-keys"]
    single = jax.tree.map(lambda a: np.asarray(a, np.float32), (case.params, case.data))
    case = case._replace(params=single[0], data=single[1])
    found = ne.find_equilibrium(case.problem, case.params, case.symmetry("symmetric"), 0.05)
    assert found.status == ne.Status.CONVERGED
    assert found.params["qkv"].dtype == jnp.float32
    np.testing.assert_array_equal(found.params["qkv"][2 * H * K :], case.params["qkv"][2 * H * K :])


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(_3 head *) _", r"\(_3 head \*\) leaves several lengths open; expected at most one"),
        ("(_3[0] *", "expected an item for every axis.*parentheses"),
        ("", "axis is ''; expected an item for every axis"),
        ("() *", "empty parentheses"),
        ("* *", r"with '\*' in it twice; expected the factor that is acted on once"),
        ("head=2 head=2", "with 'head' in it twice; expected a block once"),
        ("*:2 _", r"with the item '\*:2'; expected '\*', '_' or a name"),
        ("*-1 _", r"with the item '\*-1'"),
        ("head4=_ *", "with the item 'head4=_'"),
        ("_3[3] *", r"where _3\[3\] is empty or goes beyond its length"),
        ("_3[2:2] *", r"where _3\[2:2\] is empty"),
        ("_0 *", "where _0 is empty"),
    ],
)
def test_what_is_no_pattern_is_refused_at_once(pattern, message):
    with pytest.raises(ValueError, match=message):
        ne.Leg(leaf("qkv"), pattern)


def of(*patterns, algebra="diagonal", names=("qkv", "qkv")):
    return lambda: ne.Symmetry(
        [ne.Leg(leaf(name), pattern) for name, pattern in zip(names, patterns, strict=False)], algebra
    ).bind(FUSED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ne.Leg(leaf("o"), "_ *", blocks=2), r"blocks is 2 with axis '_ \*'; expected blocks by name"),
        (lambda: ne.Leg(leaf("o"), 1.5), "axis is 1.5; expected an integer, a pattern"),
        (of("_ (head=2 _)"), r"axis '_ \(head=2 _\)', in which nothing is acted on; expected '\*'.*'diagonal'"),
        (of("*"), r"reads params\['qkv'\], which has shape \(24, 7\), as '\*', with 1 items; expected one for each"),
        (
            of("(_3[0] head=5 *) _"),
            r"reads axis 0 of params\['qkv'\], of length 24, as \(_3\[0\] head=5 \*\); .*divides 24.* theirs is 15",
        ),
        (of("*23 _"), r"axis 0 of params\['qkv'\], of length 24, as \*23; expected lengths whose product is 24"),
        (of("*[20:30] _"), r"axis 0 of params\['qkv'\], of length 24, as \*\[20:30\], where .* beyond its length"),
        (
            of("(_3[0:2] head=2 *) _", "(_3[1] head=2 *) _"),
            r"params\['qkv'\] is in two legs .*_3\[0:2\] head=2 \*4\) _7\" and .*_3\[1\] .* entries in common",
        ),
        (
            of("(_3[0] head=2 *) _", "(_3[1] group=2 *) _"),
            r"differ in their blocks \(head=2; group=2\); expected the same names",
        ),
        (of("(_3[0] head=2 *) _", "(_3[1] head=4 *) _"), r"differ in their blocks \(head=2; head=4\)"),
        (of("(_3[0] head=2 *) _", 0, names=("qkv", "o")), r"differ in their blocks \(head=2; none\)"),
        (
            of("(_3[0] *) _", 0, names=("qkv", "o")),
            r"legs differ in length \(params\['qkv'\]: 8, params\['o'\]: 4\).*_3\[0\] \*8\) _7.*'\(_36 \*\) _'",
        ),
    ],
)
def test_legs_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bound_leg_is_printed_with_all_lengths():
    symmetry = CASES["fused-queries-keys"].symmetry("symmetric").bind(FUSED)
    assert str(symmetry.legs[0]) == "params['qkv'] \"(_3[0] head=2 *4) _7\""


def test_of_the_second_order_and_of_turning_only_the_part_is_seen():
    """A third of a matrix that is in no leg has a gradient and a curvature of its own."""
    params, x = {"w": normal(1, 6, 3)}, normal(2, 7, 3)

    def loss(p, x):
        left, right, beside = p["w"].reshape(3, 2, 3)
        return jnp.sum((left.T @ (right @ x)) ** 2) + jnp.sum(jnp.tanh(beside @ x))

    problem = ne.Problem(loss, x)
    halves = [ne.Leg(lambda p: p["w"], f"(_3[{place}] *) _", 1 - 2 * place) for place in (0, 1)]
    symmetry = ne.Symmetry(halves, "symmetric")
    ne.check_symmetry(problem, params, symmetry, order=2)
    fields = _fields(symmetry.bind(params), [params["w"]]).reshape(2, 2, 6, 3)
    element = jnp.array([[0.3, -0.2], [-0.2, 0.5]])
    along = jnp.einsum("kl,klij->ij", element, fields)
    np.testing.assert_allclose(along, symmetry.generator(params, element)["w"], rtol=1e-12, atol=1e-12)
