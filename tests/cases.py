"""The table of losses on which the fast noise moments are compared with their definition.

Each case says which parameters the fast path must find in matrix products (`uses`, their number) and which it must tap
at themselves (`escaped`), so that the fast path cannot be lost without a failing test.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from problems import relu_loss

import noise_equilibrium as ne

N = 5  # samples; every other length in the table is smaller or different, so that a mix-up of axes shows
TOKENS = 3


class Case(NamedTuple):
    name: str
    loss: Callable[[Any, Any], Any]
    params: Any
    data: Any
    legs: tuple[ne.Leg, ...]
    uses: int
    escaped: tuple[str, ...] = ()
    algebras: tuple[str, ...] = ("scalar", "diagonal", "symmetric")


def normal(seed: int, *shape: int) -> np.ndarray:
    """A NumPy array, which is of double precision even outside of a fixture."""
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def symmetry_of(case: Case, algebra: str) -> ne.Symmetry:
    """The legs of a case in one algebra; a scalar leg scales the whole parameter unless its axis is split."""
    scalar = algebra == "scalar"
    return ne.Symmetry([leg if leg.blocks > 1 or not scalar else leg_of_all(leg) for leg in case.legs], algebra)


def leg_of_all(leg: ne.Leg) -> ne.Leg:
    return ne.Leg(leg.where, None, leg.power)


def leaf(name: str) -> Callable[[Any], Any]:
    return lambda params: params[name]


U, V, W = ne.Leg(leaf("u"), 1, +1), ne.Leg(leaf("v"), 1, +1), ne.Leg(leaf("w"), 0, -1)


def two_layer(d_y: int = 2, d: int = 3, d_x: int = 4) -> dict[str, np.ndarray]:
    return {"u": normal(1, d_y, d), "w": normal(2, d, d_x)}


def samples(*x: int, y: tuple[int, ...] = (2,)) -> tuple[np.ndarray, np.ndarray]:
    return normal(3, N, *x), normal(4, N, *y)


def squared(out: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((out - y) ** 2)


def net(first: Callable, second: Callable) -> Callable:
    """‖second(u, tanh(first(w, x))) − y‖² for two spellings of a matrix product."""
    return lambda p, z: squared(second(p["u"], jnp.tanh(first(p["w"], z[0]))), z[1])


def matmul(a, x):
    return a @ x


def spelled(name: str, product: Callable, uses: int = 2, escaped: tuple[str, ...] = (), **changes: Any) -> Case:
    """The two-layer net with both products in one spelling."""
    return Case(name, net(product, product), **(standard() | {"uses": uses, "escaped": escaped} | changes))


def on_w(name: str, first: Callable, uses: int, escaped: tuple[str, ...] = (), **changes: Any) -> Case:
    """The two-layer net with its first product spelled unusually."""
    return Case(name, net(first, matmul), **(standard() | {"uses": uses, "escaped": escaped} | changes))


def standard() -> dict[str, Any]:
    return {"params": two_layer(), "data": samples(4), "legs": (U, W), "uses": 2}


def tokens_standard() -> dict[str, Any]:
    return standard() | {"data": samples(TOKENS, 4, y=(TOKENS, 2))}


def seen(name: str, change: Callable) -> Case:
    """The two-layer net with w passed through a function before its product; such a w must escape."""
    return on_w(name, lambda w, x: change(w) @ x, uses=1, escaped=("['w']",))


# --- functions on parameters and activations ------------------------------------------------------------------------


@jax.custom_jvp
def doubled(w):
    return 2 * w


doubled.defjvp(lambda primals, tangents: (2 * primals[0], 3 * tangents[0]))  # "wrong" on purpose: the rule counts


@jax.custom_vjp
def tripled(w):
    return 3 * w


tripled.defvjp(lambda w: (3 * w, None), lambda _, g: (5 * g,))


@jax.custom_vjp
def clipped(h):
    return h


clipped.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))


def token_loss(product: Callable) -> Callable:
    """Tokens in rows, one shared net: p is applied to every row of x."""
    return lambda p, z: squared(product(jnp.tanh(product(z[0], p["w"])), p["u"]), z[1])


def recurrent(p, z):
    """A scan whose constants hold two parameters, one of them multiplied by the carry."""

    def step(h, x):
        h = jnp.tanh(p["v"] @ h + p["w"] @ x)
        return h, p["u"] @ h

    return squared(jax.lax.scan(step, jnp.zeros(3), z[0], reverse=True)[1], z[1])


def over_tokens(p, z):
    return squared(jax.lax.map(lambda x: p["u"] @ jnp.tanh(p["w"] @ x), z[0]), z[1])


def nested(p, z):
    """A scan in a rematerialised scan."""

    @jax.checkpoint
    def outer(h, xs):
        return jax.lax.scan(lambda h, x: (jnp.tanh(p["v"] @ h + p["w"] @ x), None), h, xs)[0], None

    h, _ = jax.lax.scan(outer, jnp.zeros(3), z[0])
    return squared(p["u"] @ h, z[1])


def carried(p, z):
    """A parameter changes in the carry of the scan, which makes every parameter in that scan escape."""

    def step(carry, x):
        w, total = carry
        return (0.9 * w, total + p["u"] @ jnp.tanh(w @ x)), None

    return squared(jax.lax.scan(step, (p["w"], jnp.zeros(2)), z[0])[0][1], z[1])


def stacked_layers(p, z):
    h, _ = jax.lax.scan(lambda h, layer: (jnp.tanh(layer @ h), None), z[0], p["layers"])
    return squared(p["u"] @ h, z[1])


def fori(p, z):
    h = jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(p["v"] @ h), z[0])
    return squared(p["u"] @ h, z[1])


def condition(p, z):
    x, y = z
    return squared(p["u"] @ jax.lax.cond(x[0] > 0, lambda: jnp.tanh(p["w"] @ x), lambda: p["w"] @ x), y)


def attention_scores(p, z):
    """Query and key projections with heads in one axis, causal softmax."""
    x, y = z
    q, k = ((x @ p[name].T).reshape(TOKENS, 2, 3) for name in ("q", "k"))
    scores = jax.nn.softmax(jnp.einsum("thi,shi->hts", q, k), axis=-1)
    return squared(jnp.einsum("hts,sd->td", scores, x), y)


class Net(eqx.Module):
    """A module with leaves that are not parameters."""

    down: eqx.nn.Linear
    up: eqx.nn.Linear
    activation: Callable
    slope: float
    steps: jax.Array

    def __call__(self, x):
        return self.up(self.slope * self.activation(self.down(x)))


def module_net() -> Net:
    keys = jax.random.split(jax.random.key(5))
    down, up = eqx.nn.Linear(4, 3, key=keys[0]), eqx.nn.Linear(3, 2, key=keys[1])
    return Net(down, up, jax.nn.relu, 0.7, jnp.arange(3))


def module_loss(model, z):
    return squared(model(z[0]), z[1])


# --- the table ------------------------------------------------------------------------------------------------------


def spellings() -> list[Case]:
    """Products of a parameter and an activation, in every spelling."""
    return [
        spelled("@", lambda a, x: a @ x),
        spelled("@-column", lambda a, x: (a @ x[:, None])[:, 0]),
        spelled("@-row", lambda a, x: jnp.squeeze(x[None] @ jnp.expand_dims(a, 0).mT)),
        spelled("dot", jnp.dot),
        spelled("matmul", jnp.matmul),
        spelled("tensordot", lambda a, x: jnp.tensordot(x, a, axes=(0, 1))),
        spelled("einsum", lambda a, x: jnp.einsum("ij,j->i", a, x)),
        spelled(
            "transpose",
            lambda a, x: x @ a,
            params={"u": normal(1, 3, 2), "w": normal(2, 4, 3)},
            legs=(ne.Leg(leaf("u"), 0, +1), ne.Leg(leaf("w"), -1, -1)),
        ),
        on_w("used-twice", lambda w, x: w @ x + w @ x**2, uses=3),
        on_w("used-twice-transposed", lambda w, x: w @ x + (x**2) @ w.T, uses=3),
        Case("tied", lambda p, z: squared(p["w"].T @ jnp.tanh(p["w"] @ z[0]), z[0]), two_layer(), samples(4), (W,), 2),
        Case(
            "tied-mixed-axes",  # one use sums over both axes of v by turns, the other is a quadratic form
            lambda p, z: squared(p["v"] @ (p["v"].T @ z[0]), z[1]),
            {"v": normal(6, 3, 3)},
            samples(3, y=(3,)),
            (V,),
            2,
        ),
        Case(
            "batched-and-not",  # the same parameter in a product along its first axis, and batched over it
            lambda p, z: squared(p["v"] @ z[0] + jax.vmap(jnp.dot)(p["v"], z[1]), z[0]),
            {"v": normal(6, 3, 3)},
            (normal(3, N, 3), normal(4, N, 3, 3)),
            (V,),
            2,
        ),
    ]


def programs() -> list[Case]:
    """Programs around the products: jit, remat, vmap, loops, branches, derivatives."""
    square = {"u": normal(1, 2, 3), "v": normal(6, 3, 3), "w": normal(2, 3, 4)}
    return [
        spelled("jit", jax.jit(lambda a, x: a @ x)),
        spelled("jit-transpose", lambda a, x: jax.jit(lambda a: a.T)(a).T @ x),
        spelled("remat", jax.checkpoint(lambda a, x: a @ x)),
        Case("remat-net", jax.checkpoint(net(matmul, matmul)), **standard()),
        Case("jit-remat-jit", jax.jit(jax.checkpoint(jax.jit(net(matmul, matmul)))), **standard()),
        Case("vmap-tokens", token_loss(jax.vmap(lambda x, a: a @ x, (0, None))), **tokens_standard()),
        Case("x@w.T-tokens", token_loss(lambda x, a: x @ a.T), **tokens_standard()),
        Case("map-tokens", over_tokens, **tokens_standard()),
        Case("scan", recurrent, square, samples(TOKENS, 4, y=(TOKENS, 2)), (V, W, U), 3),
        Case("scan-in-remat-in-scan", nested, square, samples(2, TOKENS, 4), (V, W, U), 3),
        Case("fori", fori, square, samples(3), (V,), 1),
        Case("scan-carry", carried, two_layer(), samples(TOKENS, 4), (U, W), 0, ("['u']", "['w']")),
        Case(
            "scan-over-layers",
            stacked_layers,
            {"u": normal(1, 2, 3), "layers": normal(2, 2, 3, 3)},
            samples(3),
            (U, ne.Leg(leaf("layers"), 1, -1)),
            2,
        ),
        Case(
            "gradient-in-loss",  # a penalty on the input gradient: products with w and u, each forward and transposed
            lambda p, z: jnp.sum(jax.grad(lambda x: net(matmul, matmul)(p, (x, z[1])))(z[0]) ** 2),
            **(standard() | {"uses": 4}),
        ),
        Case("cond", condition, two_layer(), samples(4), (U, W), 1, ("['w']",)),
    ]


def changed_weights() -> list[Case]:
    """Parameters that are more than factors of products, and must escape."""
    return [
        Case(
            "regulariser",
            lambda p, z: net(matmul, matmul)(p, z) + 0.3 * jnp.sum(z[0] ** 2) * jnp.linalg.norm(p["w"]),
            two_layer(),
            samples(4),
            (U, W),
            1,
            ("['w']",),
        ),
        seen("custom_jvp-on-leaf", doubled),
        seen("custom_vjp-on-leaf", tripled),
        on_w("custom_vjp-on-activation", lambda w, x: clipped(w @ x), uses=2),
        on_w("stop_gradient-on-one-use", lambda w, x: jax.lax.stop_gradient(w) @ x + w @ x**2, 1, ("['w']",)),
        seen("weight-normalised", lambda w: w / jnp.linalg.norm(w, axis=1, keepdims=True)),
        seen("squared", lambda w: w * w),
        seen("sliced", lambda w: w[:2].sum(0) + w[::-1]),
        on_w("elementwise", lambda w, x: jnp.sum(w * x, axis=1), 1, ("['w']",)),
        Case(
            "product-of-leaves",
            lambda p, z: squared((p["u"] @ p["w"]) @ z[0], z[1]),
            **standard(),
        ),
        Case(
            "product-with-another-leaf",
            lambda p, z: squared((p["u"] @ p["w"]) @ z[0], z[1]),
            two_layer(),
            samples(4),
            (U,),
            1,
        ),
    ]


def sizes() -> list[Case]:
    """Axes of length 1, parameters of rank 0 and 1, and one that the loss ignores."""
    return [
        spelled("d_y=1", matmul, params=two_layer(1, 3, 4), data=samples(4, y=(1,))),
        spelled("d=1", matmul, params=two_layer(2, 1, 4)),
        spelled("d_x=1", matmul, params=two_layer(2, 3, 1), data=samples(1)),
        spelled("all=1", matmul, params=two_layer(1, 1, 1), data=samples(1, y=(1,))),
        Case("vector-leaf", lambda p, z: (p["w"] @ z[0] - z[1]) ** 2, {"w": normal(2, 4)}, samples(4, y=()), (W,), 1),
        Case(
            "scalar-leaf",
            lambda p, z: (p["c"] * z - 1) ** 2,
            {"c": normal(2)},
            normal(3, N),
            (ne.Leg(leaf("c")),),
            0,
            ("['c']",),
            ("scalar",),
        ),
        Case(
            "leaf-is-loss",
            lambda p, z: p["c"],
            {"c": normal(2)},
            normal(3, N),
            (ne.Leg(leaf("c")),),
            0,
            ("['c']",),
            ("scalar",),
        ),
        spelled(
            "ignored-leaf", matmul, params=two_layer() | {"i": normal(6, 2, 3)}, legs=(U, W, ne.Leg(leaf("i"), 1, +1))
        ),
    ]


def modules() -> list[Case]:
    """Networks of Equinox."""
    return [
        Case(
            "eqx-linear",
            module_loss,
            module_net(),
            samples(4),
            (
                ne.Leg(lambda m: m.up.weight, -1, +1),
                ne.Leg(lambda m: m.down.weight, 0, -1),
                ne.Leg(lambda m: m.down.bias, 0, -1),
            ),
            2,
            (".down.bias",),
        ),
        Case(
            "eqx-mlp",
            module_loss,
            eqx.nn.MLP(4, 2, 3, 2, activation=jnp.tanh, key=jax.random.key(5)),
            samples(4),
            (ne.Leg(lambda m: m.layers[1].weight, 1, +1), ne.Leg(lambda m: m.layers[0].weight, 0, -1)),
            2,
        ),
        Case(
            "eqx-attention",
            lambda model, z: squared(model(z[0], z[0], z[0]), z[1]),
            eqx.nn.MultiheadAttention(2, 4, qk_size=3, key=jax.random.key(5)),
            samples(TOKENS, 4, y=(TOKENS, 4)),
            (
                ne.Leg(lambda m: m.query_proj.weight, 0, +1, blocks=2),
                ne.Leg(lambda m: m.key_proj.weight, 0, -1, blocks=2),
            ),
            2,
        ),
    ]


def heads() -> list[Case]:
    """Attention heads in one axis, split off, stacked, and as a batch axis."""
    heads = {"w": normal(2, 2, 3, 4), "u": normal(1, 2, 2, 3)}  # H, k, d and d_y, H, k
    flat_heads = {"w": normal(2, 6, 4), "u": normal(1, 2, 6)}
    return [
        Case(
            "heads-in-one-axis",
            attention_scores,
            {"q": normal(1, 6, 4), "k": normal(2, 6, 4)},
            samples(TOKENS, 4, y=(TOKENS, 4)),
            (ne.Leg(leaf("q"), 0, +1, blocks=2), ne.Leg(leaf("k"), 0, -1, blocks=2)),
            2,
        ),
        Case(
            "heads-reshaped",
            lambda p, z: squared(
                jnp.einsum("yhk,hk->y", p["u"].reshape(2, 2, 3), jnp.tanh((p["w"] @ z[0]).reshape(2, 3))), z[1]
            ),
            flat_heads,
            samples(4),
            (ne.Leg(leaf("u"), 1, +1, blocks=2), ne.Leg(leaf("w"), 0, -1, blocks=2)),
            2,
        ),
        Case(
            "heads-stacked",
            lambda p, z: squared(
                jnp.einsum("yhk,hk->y", p["u"], jnp.tanh(jnp.einsum("hkd,d->hk", p["w"], z[0]))), z[1]
            ),
            heads,
            samples(4),
            (ne.Leg(leaf("u"), 2, +1), ne.Leg(leaf("w"), 1, -1)),
            2,
        ),
        Case(
            "heads-batched",  # the axis of the symmetry is a batch axis of the product
            lambda p, z: squared(
                jnp.einsum("yhk,hk->yh", p["u"], jnp.tanh(jnp.einsum("hkd,hd->hk", p["w"], z[0]))), z[1]
            ),
            heads,
            samples(2, 4, y=(2, 2)),
            (ne.Leg(leaf("u"), 1, +1), ne.Leg(leaf("w"), 0, -1)),
            2,
        ),
    ]


def other_symmetries() -> list[Case]:
    """Symmetries with more legs, or other powers, than one +1 and one −1."""
    return [
        Case(
            "neuron-with-bias",
            relu_loss,
            two_layer() | {"b": normal(6, 3)},
            samples(4),
            (ne.Leg(leaf("w"), 0, +1), ne.Leg(leaf("b"), 0, +1), ne.Leg(leaf("u"), 1, -1)),
            2,
            ("['b']",),
        ),
        Case(
            "scaling-of-everything",
            relu_loss,
            two_layer() | {"b": normal(6, 3)},
            samples(4),
            (ne.Leg(lambda p: p),),
            2,
            ("['b']",),
            ("scalar",),
        ),
        Case(
            "homogeneous",
            lambda p, z: squared(p["u"] @ jax.nn.relu(p["w"] @ z[0]) ** 2, z[1]),
            two_layer(),
            samples(4),
            (ne.Leg(leaf("w"), 0, +1), ne.Leg(leaf("u"), 1, power=-2)),
            2,
            (),
            ("scalar", "diagonal"),
        ),
    ]


with jax.enable_x64(True):  # modules are built in the precision of the moment, and no fixture runs yet
    TABLES = (spellings(), programs(), changed_weights(), sizes(), modules(), heads(), other_symmetries())
    CASES = [case for table in TABLES for case in table]
