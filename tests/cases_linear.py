"""Losses whose weights are made of parameters by linear maps: scaled, sliced, joined, stacked, of low rank.

The same table as in `cases`: which uses must be found, and what may escape.
"""

import jax
import jax.numpy as jnp
from cases import TOKENS, Case, U, W, leaf, leg_of_all, matmul, net, normal, on_w, samples, squared, two_layer

import noise_equilibrium as ne

SCALES = {"s": normal(7, 3), "c": normal(8)}
HALVES = {"u": normal(1, 2, 4), "top": normal(2, 2, 4), "bottom": normal(9, 2, 4)}


def weight(name: str, change, uses: int, escaped: tuple[str, ...] = (), **more):
    """The two-layer net with its first weight made of w, and of other parameters that no leg wants."""
    return on_w(name, lambda w, x: change(w) @ x, uses, escaped, **more)


def low_rank(p, z):
    """W0 + α A B, as an adapter writes it."""
    return squared(p["u"] @ jnp.tanh((p["w0"] + 0.3 * (p["a"] @ p["b"])) @ z[0]), z[1])


def shifted(w):
    return jnp.concatenate([w[1:], jnp.zeros_like(w[:1])])


def fixed(name):
    """A constant of the right shape, which a loss closes over."""
    return {"diagonal": normal(7, 3), "matrix": normal(8, 3, 3), "right": normal(9, 4, 4), "one": normal(6, 1, 3)}[name]


def fused(p, z):
    """Queries, keys and values from one weight, split along its free axis."""
    q, k, v = (z[0] @ part for part in jnp.split(p["qkv"], 3, axis=1))
    return squared(jax.nn.softmax(q @ k.T) @ v, z[1])


def fused_by_index(outer):
    """The same, from one weight whose free axis is read as (3, 2), or as (2, 3): there the parts are strided."""

    def loss(p, z):
        weights = p["qkv"].reshape(4, 3, 2) if outer else p["qkv"].reshape(4, 2, 3)
        q, k, v = (z[0] @ (weights[:, i] if outer else weights[..., i]) for i in range(3))
        return squared(jax.nn.softmax(q @ k.T) @ v, z[1])

    return loss


def unrolled(p, z):
    h = z[0]
    for layer in range(3):
        h = jnp.tanh(p["layers"][layer] @ h)
    return squared(p["u"] @ h, z[1])


def adapters_over_layers(p, z):
    """A scan over stacked low-rank layers."""
    h, _ = jax.lax.scan(lambda h, ab: (jnp.tanh(h + ab[0] @ ab[1] @ h), None), z[0], (p["a"], p["b"]))
    return squared(p["u"] @ h, z[1])


def linear_cases() -> list[Case]:
    adapter = {"u": normal(1, 2, 3), "w0": normal(2, 3, 4), "a": normal(3, 3, 2), "b": normal(4, 2, 4)}
    stack = {"u": normal(1, 2, 3), "layers": normal(2, 3, 3, 3)}
    pairs = {"u": normal(1, 2, 3), "a": normal(2, 4, 3, 2), "b": normal(5, 4, 2, 3)}
    rotation = (ne.Leg(leaf("a"), 1, +1), ne.Leg(leaf("b"), 0, -1))
    qkv = {"qkv": normal(1, 4, 6)}
    tokens = samples(TOKENS, 4, y=(TOKENS, 2))
    tall = {"params": two_layer(2, 4, 3), "data": samples(3)}
    outer = {
        "params": {"u": normal(1, 2, 4), "w": normal(2, 6, 3)},
        "data": samples(3),
        "legs": (ne.Leg(leaf("w"), 1),),
    }
    square = {"params": two_layer(2, 3, 3), "data": samples(3)}
    return [
        weight("scaled", lambda w: 2 * w, 2),
        weight("divided", lambda w: w / jnp.sqrt(3.0), 2),
        weight("negated-and-subtracted", lambda w: 1.0 - (-w), 2),
        weight("scaled-by-rows", lambda w: fixed("diagonal")[:, None] * w, 2),
        weight("divided-by-columns", lambda w: w / jnp.exp(fixed("right")[0]), 2),
        weight("scaled-by-entry", lambda w: w * (w.shape[0] + jnp.arange(12.0).reshape(3, 4)), 1, ("['w']",)),
        on_w("scaled-per-sample", lambda w, x: (w * x[0]) @ x, 1, ("['w']",)),
        weight("times-matrix", lambda w: fixed("matrix") @ w @ fixed("right"), 2),
        weight("times-matrix-transposed", lambda w: (fixed("right").T @ w.T @ fixed("matrix")).T, 2),
        weight("times-one-row", lambda w: jnp.ones((3, 1)) @ (fixed("one") @ w), 2),
        weight("reshaped", lambda w: w.reshape(12).reshape(3, 4), 2),
        weight("reshaped-across", lambda w: w.reshape(4, 3).T, 1, ("['w']",)),
        weight("symmetrised", lambda w: w + w.T, 3, **square),
        weight("product-with-itself", lambda w: w @ w.T @ w, 4),
        weight("residual", lambda w: jnp.eye(3) + w, 2, **square),
        weight("rows-sliced", lambda w: jnp.concatenate([w[2:], w[:2]]), 3, **tall),
        weight("one-row-sliced", lambda w: jnp.concatenate([w[1:], w[:1]]), 1, ("['w']",)),
        weight("rows-with-a-stride", lambda w: jnp.concatenate([w[::2], jnp.ones((1, 4))]), 2),
        weight("shifted-twice", lambda w: shifted(shifted(w)), 2, **tall),
        weight("rows-of-rows", lambda w: jnp.concatenate([(jnp.ones((4, 2)) @ w[:2])[:2]] * 2), 3, **tall),
        weight("behind-a-barrier", jax.lax.optimization_barrier, 2),
        weight("reversed", lambda w: w[::-1], 2),
        weight("reversed-slice", lambda w: jnp.concatenate([w[:2][::-1], w[2:]]), 3, **tall),
        weight("overlapping-slices", lambda w: w[:, :3] @ jnp.ones((3, 4)) + w[:, 1:] @ jnp.ones((3, 4)), 3),
        on_w("columns-sliced", lambda w, x: w[:, :2] @ x[:2] + jnp.tanh(w[:, 2:] @ x[2:]), 3),
        on_w("columns-overlapping", lambda w, x: w[:, :3] @ x[:3] + jnp.tanh(w[:, 1:] @ x[1:]), 3),
        on_w("slice-and-whole", lambda w, x: w[:, :2] @ x[:2] + w @ x**2, 3),
        on_w("one-column", lambda w, x: w[:, 1] * x[1] + w @ x**2, 1, ("['w']",)),
        on_w("one-row-as-vector", lambda w, x: jnp.stack([w[0] @ x, w[1] @ x**2, w[2] @ x]), 4),
        Case("low-rank", low_rank, adapter, samples(4), (*rotation, ne.Leg(leaf("u"), 1, 1))[:2], 2),
        Case(
            "low-rank-and-base", low_rank, adapter, samples(4), (ne.Leg(leaf("w0"), 0, 1), ne.Leg(leaf("u"), 1, -1)), 2
        ),
        Case(
            "low-rank-scaled-all",
            low_rank,
            adapter,
            samples(4),
            tuple(leg_of_all(ne.Leg(leaf(name))) for name in adapter),
            4,
            (),
            ("scalar",),
        ),
        Case(
            "joined-leaves",
            lambda p, z: squared(p["u"] @ jnp.tanh(jnp.concatenate([p["top"], p["bottom"]]) @ z[0]), z[1]),
            HALVES,
            samples(4),
            (ne.Leg(leaf("top"), 1, +1), ne.Leg(leaf("bottom"), 1, -1)),
            2,
        ),
        Case(
            "joined-columns",
            lambda p, z: squared(p["u"] @ jnp.tanh(jnp.concatenate([p["left"], p["right"]], axis=1) @ z[0]), z[1]),
            {"u": normal(1, 2, 3), "left": normal(2, 3, 2), "right": normal(9, 3, 2)},
            samples(4),
            (ne.Leg(leaf("left"), 0, -1), ne.Leg(leaf("right"), 0, -1), U),
            3,
        ),
        Case("fused-along-the-free-axis", fused, qkv, tokens, (ne.Leg(leaf("qkv"), 0, +1),), 3),
        Case("fused-along-the-leg", fused, qkv, tokens, (ne.Leg(leaf("qkv"), 1, +1),), 3),
        Case("fused-in-blocks", fused, qkv, tokens, (ne.Leg(leaf("qkv"), 1, +1, blocks=3),), 3),
        Case("fused-by-outer-index", fused_by_index(True), qkv, tokens, (ne.Leg(leaf("qkv"), 1, +1),), 3),
        Case(
            "fused-by-inner-index", fused_by_index(False), qkv, tokens, (ne.Leg(leaf("qkv"), 1, +1),), 0, ("['qkv']",)
        ),
        weight("outer-factor", lambda w: w.reshape(3, 2, 3)[1:].reshape(4, 3), 1, **outer),
        Case("unrolled-layers", unrolled, stack, samples(3), (U, ne.Leg(leaf("layers"), 1, -1)), 4),
        Case("unrolled-layers-along-the-stack", unrolled, stack, samples(3), (U, ne.Leg(leaf("layers"), 0, -1)), 4),
        Case(
            "low-rank-over-layers",
            adapters_over_layers,
            pairs,
            samples(3),
            (ne.Leg(leaf("a"), 2, +1), ne.Leg(leaf("b"), 1, -1)),
            2,
        ),
        Case(
            "low-rank-over-layers-along-the-stack",
            adapters_over_layers,
            pairs,
            samples(3),
            (ne.Leg(leaf("a"), 0, +1), ne.Leg(leaf("b"), 0, -1)),
            2,
        ),
        Case(
            "row-scales-of-another-leaf",
            lambda p, z: net(lambda w, x: (p["s"][:, None] * w * p["c"]) @ x, matmul)(p, z),
            two_layer() | SCALES,
            samples(4),
            (U, W),
            2,
        ),
        Case(
            "row-scales-as-a-leg",
            lambda p, z: net(lambda w, x: (p["s"][:, None] * w) @ x, matmul)(p, z),
            two_layer() | SCALES,
            samples(4),
            (U, ne.Leg(leaf("s"), 0, -1)),
            1,
            ("['s']",),
        ),
        Case(
            "linear-net-with-biases",
            lambda p, z: squared(p["u"] @ (p["w"] @ z[0] + p["b"]), z[1]),
            two_layer() | {"b": normal(6, 3)},
            samples(4),
            (U, W, ne.Leg(leaf("b"), 0, -1)),
            2,
            ("['b']",),
        ),
    ]


with jax.enable_x64(True):
    LINEAR_CASES = linear_cases()
