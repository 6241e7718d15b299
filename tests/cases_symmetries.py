"""Models whose symmetries are known: what `find_symmetries` must find, and nothing else.

Each case says its symmetries in words, as they print, with their algebra and the shape of their charge.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

Found = tuple[str, str, tuple[int, ...]]  # words, algebra, shape of the charge

N, TOKENS, WIDTH = 16, 5, 8


class Model(NamedTuple):
    """A loss, parameters and data, and what is known of them.

    Attributes:
        build: called inside of a test, for its precision.
        found: the symmetries.
        ignored: the parameters without a gradient.
        beyond: the symmetries that legs cannot express.
        frozen: what may not be perturbed.
        slow: left out of the quick tests.
    """

    build: Callable[[], tuple[Callable[[Any, Any], Any], Any, Any]]
    found: tuple[Found, ...]
    ignored: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    frozen: Any = None
    slow: bool = True


def normal(seed: int, *shape: int) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape) / (shape[-1] ** 0.5 if shape else 1)
    return jnp.asarray(values, float)


def zeros(*shape: int) -> jax.Array:
    return jnp.zeros(shape)


def ones(*shape: int) -> jax.Array:
    return jnp.ones(shape)


def squared(out, y):
    return jnp.sum((out - y) ** 2)


def pairs(*x: int, y: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    return normal(101, N, *x) * x[-1] ** 0.5, normal(102, N, *y)


def fits(model: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda p, z: squared(model(p, z[0]), z[1])


# --- layers of neurons -----------------------------------------------------------------------------------------------


def neurons(activation):
    def build():
        params = {
            "b1": zeros(6), "b2": zeros(6), "b3": zeros(3), "w1": normal(1, 6, 5), "w2": normal(2, 6, 6),
            "w3": normal(3, 3, 6),
        }  # fmt: skip

        def model(p, x):
            h = activation(p["w1"] @ x + p["b1"])
            return p["w3"] @ activation(p["w2"] @ h + p["b2"]) + p["b3"]

        return fits(model), params, pairs(5, y=(3,))

    return build


def residual():
    params = {
        "b1": zeros(8), "b2": zeros(6), "in": normal(1, 6, 4), "out": normal(2, 3, 6), "w1": normal(3, 8, 6),
        "w2": normal(4, 6, 8),
    }  # fmt: skip

    def model(p, x):
        h = p["in"] @ x
        return p["out"] @ (h + p["w2"] @ jax.nn.relu(p["w1"] @ h + p["b1"]) + p["b2"])

    return fits(model), params, pairs(4, y=(3,))


def pre_norm():
    _, params, data = residual()

    def model(p, x):
        h = p["in"] @ x
        n = (h - jnp.mean(h)) / jnp.sqrt(jnp.var(h) + 1e-5) * p["gain"] + p["shift"]
        return p["out"] @ (h + p["w2"] @ jax.nn.relu(p["w1"] @ n + p["b1"]) + p["b2"])

    return fits(model), params | {"gain": ones(6), "shift": zeros(6)}, data


def gated(fused):
    def build():
        up = {"up": normal(1, 10, 4)} if fused else {"gate": normal(1, 5, 4), "up": normal(2, 5, 4)}

        def model(p, x):
            gate, up = jnp.split(p["up"] @ x, 2) if fused else (p["gate"] @ x, p["up"] @ x)
            return p["down"] @ (jax.nn.silu(gate) * up)

        return fits(model), up | {"down": normal(3, 3, 5)}, pairs(4, y=(3,))

    return build


def adapter():
    params = {"a": normal(1, 2, 5), "b": zeros(6, 2), "u": normal(2, 3, 6), "w": normal(3, 6, 5)}
    return fits(lambda p, x: p["u"] @ jnp.tanh((p["w"] + p["b"] @ p["a"]) @ x)), params, pairs(5, y=(3,))


def shared_block():
    params = {"e": normal(1, 6, 4), "w1": normal(2, 5, 4), "w2": normal(3, 4, 5)}

    def model(p, x):
        h = jnp.tanh(p["e"].T @ x)
        for _ in range(2):
            h = jnp.tanh(h + p["w2"] @ jax.nn.relu(p["w1"] @ h))
        return p["e"] @ h

    return fits(model), params, pairs(6, y=(6,))


def stacked_layers():
    params = {"b": zeros(3, 6), "out": normal(1, 2, 4), "w1": normal(2, 3, 6, 4), "w2": normal(3, 3, 4, 6)}

    def model(p, x):
        def layer(h, one):
            w1, b, w2 = one
            return jnp.tanh(h) + w2 @ jax.nn.relu(w1 @ jnp.tanh(h) + b), None

        return p["out"] @ jax.lax.scan(layer, x, (p["w1"], p["b"], p["w2"]))[0]

    return fits(model), params, pairs(4, y=(2,))


def experts():
    params = {"b": zeros(3, 5), "gate": normal(1, 3, 4), "u": normal(2, 3, 2, 5), "w": normal(3, 3, 5, 4)}

    def model(p, x):
        hidden = jax.nn.relu(jnp.einsum("eij,j->ei", p["w"], x) + p["b"])
        return jnp.einsum("e,eki,ei->k", jax.nn.softmax(p["gate"] @ x), p["u"], hidden)

    return fits(model), params, pairs(4, y=(2,))


def diagonal_recurrence():
    params = {"a": normal(1, 4), "b": normal(2, 4, 3), "c": normal(3, 2, 4)}

    def model(p, xs):
        step = lambda h, x: (jnp.tanh(p["a"]) * h + p["b"] @ x, None)  # noqa: E731
        return p["c"] @ jax.lax.scan(step, jnp.zeros(4, xs.dtype), xs)[0]

    return fits(model), params, pairs(TOKENS, 3, y=(2,))


def recurrence(activation):
    def build():
        params = {"a": normal(1, 4, 4), "b": normal(2, 4, 3), "c": normal(3, 2, 4)}

        def model(p, xs):
            step = lambda h, x: (activation(p["a"] @ h + p["b"] @ x), None)  # noqa: E731
            return p["c"] @ jax.lax.scan(step, jnp.zeros(4, xs.dtype), xs)[0]

        return fits(model), params, pairs(TOKENS, 3, y=(2,))

    return build


def tied():
    """Decoder and encoder are one matrix, with another between them."""
    params = {"a": normal(1, 2, 2), "e": normal(2, 2, 4)}
    return fits(lambda p, x: p["e"].T @ (p["a"] @ (p["e"] @ x))), params, pairs(4, y=(4,))


def products():
    params = {"a": ones(), "b": ones(), "u": normal(1, 5), "v": normal(2, 5)}
    return fits(lambda p, x: p["a"] * p["b"] ** 2 * jnp.sin(jnp.dot(p["u"] * p["v"], x))), params, pairs(5, y=())


# --- normalisation ---------------------------------------------------------------------------------------------------


def normalised(kind):
    def build():
        params = {"b": zeros(6), "gain": ones(6), "shift": zeros(6), "u": normal(1, 3, 6), "w": normal(2, 6, 4)}
        if kind == "rms":
            del params["b"], params["shift"]

        def model(p, x):
            h = p["w"] @ x + p.get("b", 0.0)
            if kind == "rms":
                return p["u"] @ (h / jnp.sqrt(jnp.mean(h**2)) * p["gain"])
            h = (h - jnp.mean(h)) / jnp.std(h) * p["gain"] + p["shift"]
            return p["u"] @ jax.nn.relu(h)

        return fits(model), params, pairs(4, y=(3,))

    return build


def weight_norm():
    params = {"b": zeros(6), "gain": ones(6), "u": normal(1, 3, 6), "v": normal(2, 6, 4)}

    def model(p, x):
        w = p["gain"][:, None] * p["v"] / jnp.linalg.norm(p["v"], axis=1, keepdims=True)
        return p["u"] @ jax.nn.relu(w @ x + p["b"])

    return fits(model), params, pairs(4, y=(3,))


def image(last, norm=None):
    """Convolution → normalisation → ReLU → mean pooling → flatten → dense."""

    def build():
        params = {"b": zeros(6), "k": normal(1, 6, 2, 3, 3) * 0.7, "w": normal(2, 4, 54)}
        if norm:
            params |= {"gain": ones(6), "shift": zeros(6)}
        if norm == "batch":
            params |= {"mean": zeros(6), "var": ones(6)}

        def channels(v):
            return v[:, None, None]

        def model(p, x):
            h = jax.lax.conv_general_dilated(x[None], p["k"], (1, 1), "SAME")[0] + channels(p["b"])
            if norm == "group":
                groups = h.reshape(3, -1)
                groups = (groups - groups.mean(1, keepdims=True)) / groups.std(1, keepdims=True)
                h = groups.reshape(h.shape)
            if norm == "batch":
                h = (h - channels(p["mean"])) / jnp.sqrt(channels(p["var"]) + 1e-5)
            if norm:
                h = h * channels(p["gain"]) + channels(p["shift"])
            h = jax.nn.relu(h).reshape(6, 3, 2, 3, 2).mean((2, 4))
            return p["w"] @ (jnp.moveaxis(h, 0, -1) if last else h).reshape(-1)

        return fits(model), params, pairs(2, 6, 6, y=(4,))

    return build


# --- attention -------------------------------------------------------------------------------------------------------


def rotated(x, layout):
    """Rotary position embeddings of (tokens, heads, k): pairs are the halves of a head, or neighbours."""
    half = x.shape[-1] // 2
    angle = jnp.arange(TOKENS, dtype=x.dtype)[:, None, None] * 0.5 ** jnp.arange(half, dtype=x.dtype)
    a, b = (x[..., :half], x[..., half:]) if layout == "halves" else (x[..., 0::2], x[..., 1::2])
    a, b = a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)
    return jnp.concatenate([a, b], -1) if layout == "halves" else jnp.stack([a, b], -1).reshape(x.shape)


def mixed(q, k, v):
    """Attention of (tokens, heads, k), heads of k and v shared by groups."""
    k, v = (jnp.repeat(one, q.shape[1] // one.shape[1], axis=1) for one in (k, v))
    weights = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k), axis=-1)
    return jnp.einsum("hts,shk->thk", weights, v).reshape(TOKENS, -1)


def attention(heads=2, groups=2, k=4, rotary=None):
    def build():
        params = {
            "bk": zeros(groups * k), "bq": zeros(heads * k), "k": normal(1, groups * k, WIDTH),
            "o": normal(2, WIDTH, heads * k), "q": normal(3, heads * k, WIDTH), "v": normal(4, groups * k, WIDTH),
        }  # fmt: skip

        def model(p, x):
            q, keys, v = ((x @ p[name].T + p.get("b" + name, 0.0)).reshape(TOKENS, -1, k) for name in "qkv")
            if rotary:
                q, keys = rotated(q, rotary), rotated(keys, rotary)
            return mixed(q, keys, v) @ p["o"].T

        return fits(model), params, pairs(TOKENS, WIDTH, y=(TOKENS, WIDTH))

    return build


def fused(rotary=None, bias=True):
    def build():
        params = {"o": normal(1, WIDTH, 8), "qkv": normal(2, 24, WIDTH)} | ({"b": zeros(24)} if bias else {})

        def model(p, x):
            q, k, v = jnp.moveaxis((x @ p["qkv"].T + p.get("b", 0.0)).reshape(TOKENS, 3, 2, 4), 1, 0)
            if rotary:
                q, k = rotated(q, rotary), rotated(k, rotary)
            return mixed(q, k, v) @ p["o"].T

        return fits(model), params, pairs(TOKENS, WIDTH, y=(TOKENS, WIDTH))

    return build


def normed_queries():
    params = {name: normal(seed, 8, 8) for seed, name in enumerate("koqv")} | {"gk": ones(4), "gq": ones(4)}

    def model(p, x):
        q, k, v = ((x @ p[name].T).reshape(TOKENS, 2, 4) for name in "qkv")
        q, k = (one / jnp.sqrt(jnp.mean(one**2, -1, keepdims=True)) for one in (q, k))
        return mixed(q * p["gq"], k * p["gk"], v) @ p["o"].T

    return fits(model), params, pairs(TOKENS, WIDTH, y=(TOKENS, WIDTH))


def stacked_attention():
    params = {name: normal(seed, 2, 6, 2, 3) for seed, name in enumerate("kqv")} | {"o": normal(9, 2, 2, 3, 6)}

    def model(p, x):
        def layer(h, one):
            q, k, v = (jnp.einsum("td,dhk->thk", jnp.tanh(h), one[name]) for name in "qkv")
            return h + jnp.einsum("thk,hkd->td", mixed(q, k, v).reshape(TOKENS, 2, 3), one["o"]), None

        return jax.lax.scan(layer, x, p)[0]

    return fits(model), params, pairs(TOKENS, 6, y=(TOKENS, 6))


def decoder():
    """Two layers of a pre-norm decoder on tokens: embedding, attention, one hidden layer, output."""
    width, heads, words = 16, 2, 20
    seeds = iter(range(1, 100))

    def layer():
        square = {name: normal(next(seeds), width, width) for name in "qkvo"}
        wide = {"up": normal(next(seeds), 3 * width, width), "down": normal(next(seeds), width, 3 * width)}
        return square | wide | {"bias": zeros(3 * width), "gain1": ones(width), "gain2": ones(width)}

    params = {"embedding": normal(98, words, width), "layers": [layer(), layer()], "out": normal(99, words, width)}

    def normed(x, gain):
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-4) * gain

    def loss(p, tokens):
        x = p["embedding"][tokens[:-1]]
        for layer in p["layers"]:
            h = normed(x, layer["gain1"])
            q, k, v = ((h @ layer[name].T).reshape(TOKENS, heads, -1) for name in "qkv")
            x = x + mixed(q, k, v) @ layer["o"].T
            x = x + jax.nn.relu(normed(x, layer["gain2"]) @ layer["up"].T + layer["bias"]) @ layer["down"].T
        logits = jax.nn.log_softmax(x @ p["out"].T)
        return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], -1))

    return loss, params, jnp.asarray(np.random.default_rng(0).integers(0, words, (N, TOKENS + 1)))


def decoder_symmetries():
    for number in range(2):
        at = f"['layers'][{number}]"
        yield scalings(f"{at}['bias'], {at}['up'] rows ↔ {at}['down'] columns: 48 scalings", 48)
        columns = ", ".join(f"{at}['{name}'] columns" for name in "kqv")
        yield scalings(f"{at}['gain1'] ↔ {columns}: 16 scalings", 16)
        yield scalings(f"{at}['gain2'] ↔ {at}['up'] columns: 16 scalings", 16)
        yield matrices(f"{at}['k'] rows ↔ {at}['q'] rows: 2 blocks of 8, GL", 2, 8, 8)
        yield matrices(f"{at}['o'] columns ↔ {at}['v'] rows: 2 blocks of 8, GL", 2, 8, 8)


# --- libraries -------------------------------------------------------------------------------------------------------


def equinox_mlp():
    module = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(3))
    return fits(lambda module, x: module(x)), module, pairs(4, y=(2,))


def equinox_attention():
    options = {"use_query_bias": True, "use_key_bias": True, "use_value_bias": True, "use_output_bias": True}
    module = eqx.nn.MultiheadAttention(2, 8, **options, key=jax.random.key(3))
    return fits(lambda module, x: module(x, x, x)), module, pairs(TOKENS, 8, y=(TOKENS, 8))


def scalings(words: str, *shape: int) -> Found:
    return words, "diagonal" if shape else "scalar", shape


def apart(words: str, count: int) -> tuple[Found, ...]:
    return tuple(scalings(f"entry {number} of {words}: one scaling") for number in range(count))


def matrices(words: str, *shape: int) -> Found:
    return words, "symmetric", shape


RELU = (
    scalings("['b1'], ['w1'] rows ↔ ['w2'] columns: 6 scalings", 6),
    scalings("['b2'], ['w2'] rows ↔ ['w3'] columns: 6 scalings", 6),
)
SQUARED = (
    scalings("['b1'], ['w1'] rows ↔ ['w2'] columns (power -2): 6 scalings", 6),
    scalings("['b2'], ['w2'] rows ↔ ['w3'] columns (power -2): 6 scalings", 6),
)
MODELS = {
    "relu": Model(neurons(jax.nn.relu), RELU, slow=False),
    "leaky": Model(neurons(jax.nn.leaky_relu), RELU),
    "squared-relu": Model(neurons(lambda x: jax.nn.relu(x) ** 2), SQUARED, slow=False),
    "linear": Model(
        neurons(lambda x: x),
        (
            matrices("['b1'], ['w1'] rows ↔ ['w2'] columns: GL(6)", 6, 6),
            matrices("['b2'], ['w2'] rows ↔ ['w3'] columns: GL(6)", 6, 6),
        ),
    ),
    "gelu": Model(neurons(jax.nn.gelu), (), slow=False),
    "tanh": Model(neurons(jnp.tanh), ()),
    "residual": Model(
        residual,
        (
            scalings("['b1'], ['w1'] rows ↔ ['w2'] columns: 8 scalings", 8),
            matrices("['b2'], ['in'] rows, ['w2'] rows ↔ ['out'] columns, ['w1'] columns: GL(6)", 6, 6),
        ),
    ),
    "pre-norm": Model(
        pre_norm,
        (
            scalings("['b1'], ['w1'] rows ↔ ['w2'] columns: 8 scalings", 8),
            scalings("['gain'], ['shift'] ↔ ['w1'] columns: 6 scalings", 6),
        ),
    ),
    "gated": Model(gated(fused=False), (scalings("['down'] columns ↔ ['up'] rows: 5 scalings", 5),)),
    "gated-fused": Model(
        gated(fused=True), (scalings("['down'] columns ↔ ['up'] rows 5:10: 5 scalings", 5),), slow=False
    ),
    "adapter": Model(adapter, (matrices("['a'] rows ↔ ['b'] columns: GL(2)", 2, 2),), slow=False),
    "shared-block": Model(shared_block, (scalings("['w1'] rows ↔ ['w2'] columns: 5 scalings", 5),)),
    "stacked-layers": Model(
        stacked_layers,
        (scalings("['b'] as block *, ['w1'] as block * _ ↔ ['w2'] as block _ *: 18 scalings", 3, 6),),
    ),
    "experts": Model(
        experts,
        (scalings("['b'] as block *, ['w'] as block * _ ↔ ['u'] as block _ *: 15 scalings", 3, 5),),
        slow=False,
    ),
    "diagonal-recurrence": Model(diagonal_recurrence, (scalings("['b'] rows ↔ ['c'] columns: 4 scalings", 4),)),
    "linear-recurrence": Model(
        recurrence(lambda h: h),
        apart("['a'] rows, ['b'] rows ↔ ['a'] columns, ['c'] columns", 4),
        beyond=("['a'] rows, ['b'] rows ↔ ['a'] columns, ['c'] columns: GL(4)",),
    ),
    "relu-recurrence": Model(
        recurrence(jax.nn.relu), apart("['a'] rows, ['b'] rows ↔ ['a'] columns, ['c'] columns", 4)
    ),
    "tied": Model(
        tied,
        apart("['a'] rows, ['a'] columns ↔ ['e'] rows", 2),
        beyond=("['a'] rows, ['a'] columns ↔ ['e'] rows: GL(2)",),
        slow=False,
    ),
    "products": Model(
        products,
        (
            scalings("['a'] (power +2) ↔ ['b']: one scaling"),
            scalings("['u'] ↔ ['v']: 5 scalings", 5),
        ),
        slow=False,
    ),
    "layer-norm": Model(
        normalised("layer"),
        (
            scalings("['b'], ['w']: one scaling"),
            scalings("['gain'], ['shift'] ↔ ['u'] columns: 6 scalings", 6),
        ),
        slow=False,
    ),
    "rms-norm": Model(
        normalised("rms"),
        (scalings("['gain'] ↔ ['u'] columns: 6 scalings", 6), scalings("['w']: one scaling")),
    ),
    "weight-norm": Model(
        weight_norm,
        (
            scalings("['b'], ['gain'] ↔ ['u'] columns: 6 scalings", 6),
            scalings("['v'] rows: 6 scalings", 6),
        ),
    ),
    "image-first": Model(
        image(last=False), (scalings("['b'], ['k'] axis 0 ↔ ['w'] as _ (* _9): 6 scalings", 6),), slow=False
    ),
    "image-last": Model(image(last=True), (scalings("['b'], ['k'] axis 0 ↔ ['w'] as _ (_9 *): 6 scalings", 6),)),
    "image-group-norm": Model(
        image(last=True, norm="group"),
        (
            scalings("['b'] as (* _2), ['k'] as (* _2) _ _ _: 3 scalings", 3),
            scalings("['gain'], ['shift'] ↔ ['w'] as _ (_9 *): 6 scalings", 6),
        ),
    ),
    "image-batch-norm": Model(
        image(last=False, norm="batch"),
        (
            scalings("['b'], ['k'] axis 0 ↔ ['gain']: 6 scalings", 6),
            scalings("['gain'], ['shift'] ↔ ['w'] as _ (* _9): 6 scalings", 6),
        ),
        frozen=lambda p: (p["mean"], p["var"]),
    ),
    "attention": Model(
        attention(),
        (
            matrices("['bq'], ['q'] rows ↔ ['k'] rows: 2 blocks of 4, GL", 2, 4, 4),
            matrices("['o'] columns ↔ ['v'] rows: 2 blocks of 4, GL", 2, 4, 4),
        ),
        ignored=("['bk']",),
        slow=False,
    ),
    "attention-grouped": Model(
        attention(heads=4, groups=2, k=3),
        (
            matrices("['bq'] as (block=2 _2 *), ['q'] as (block=2 _2 *) _ ↔ ['k'] rows: 2 blocks of 3, GL", 2, 3, 3),
            matrices("['o'] as _ (block=2 _2 *) ↔ ['v'] rows: 2 blocks of 3, GL", 2, 3, 3),
        ),
        ignored=("['bk']",),
    ),
    "attention-rotary": Model(
        attention(rotary="halves"),
        (
            scalings(
                "['bk'] as (block=2 _2 *), ['k'] as (block=2 _2 *) _ ↔ ['bq'] as (block=2 _2 *), "
                "['q'] as (block=2 _2 *) _: 4 scalings",
                2,
                2,
            ),
            matrices("['o'] columns ↔ ['v'] rows: 2 blocks of 4, GL", 2, 4, 4),
        ),
    ),
    "attention-rotary-grouped": Model(
        attention(heads=4, groups=2, rotary="neighbours"),
        (
            scalings(
                "['bk'] as (block=2 * _2), ['k'] as (block=2 * _2) _ ↔ ['bq'] as (block=2 _2 * _2), "
                "['q'] as (block=2 _2 * _2) _: 4 scalings",
                2,
                2,
            ),
            matrices("['o'] as _ (block=2 _2 *) ↔ ['v'] rows: 2 blocks of 4, GL", 2, 4, 4),
        ),
    ),
    "attention-fused": Model(
        fused(),
        (
            matrices("['b'] entries 0:8, ['qkv'] rows 0:8 ↔ ['qkv'] rows 8:16: 2 blocks of 4, GL", 2, 4, 4),
            matrices("['b'] entries 16:24, ['qkv'] rows 16:24 ↔ ['o'] columns: 2 blocks of 4, GL", 2, 4, 4),
        ),
        slow=False,
    ),
    "attention-fused-rotary": Model(
        fused(rotary="halves", bias=False),
        (
            matrices("['o'] columns ↔ ['qkv'] rows 16:24: 2 blocks of 4, GL", 2, 4, 4),
            scalings("['qkv'] as (_3[0] block=2 _2 *) _ ↔ ['qkv'] as (_3[1] block=2 _2 *) _: 4 scalings", 2, 2),
        ),
    ),
    "attention-normed": Model(
        normed_queries,
        (
            scalings("['gk'] ↔ ['gq']: 4 scalings", 4),
            scalings("['k'] as (* _4) _: 2 scalings", 2),
            matrices("['o'] columns ↔ ['v'] rows: 2 blocks of 4, GL", 2, 4, 4),
            scalings("['q'] as (* _4) _: 2 scalings", 2),
        ),
    ),
    "attention-stacked": Model(
        stacked_attention,
        (
            matrices("['k'] as block1 _ block2 * ↔ ['q'] as block1 _ block2 *: 4 blocks of 3, GL", 4, 3, 3),
            matrices("['o'] as block1 block2 * _ ↔ ['v'] as block1 _ block2 *: 4 blocks of 3, GL", 4, 3, 3),
        ),
    ),
    "decoder": Model(decoder, tuple(decoder_symmetries())),
    "equinox-mlp": Model(
        equinox_mlp,
        (
            scalings(".layers[0].weight rows, .layers[0].bias ↔ .layers[1].weight columns: 8 scalings", 8),
            scalings(".layers[1].weight rows, .layers[1].bias ↔ .layers[2].weight columns: 8 scalings", 8),
        ),
        slow=False,
    ),
    "equinox-attention": Model(
        equinox_attention,
        (
            matrices(".query_proj.weight rows, .query_proj.bias ↔ .key_proj.weight rows: 2 blocks of 4, GL", 2, 4, 4),
            matrices(
                ".value_proj.weight rows, .value_proj.bias ↔ .output_proj.weight columns: 2 blocks of 4, GL", 2, 4, 4
            ),
        ),
        ignored=(".key_proj.bias",),
    ),
}
