"""Losses made of the layers people use: embeddings, convolutions, normalisation, attention, recurrence, experts.

The same table as in `cases`: which uses must be found, and what may escape.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import TOKENS, Case, N, leaf, normal, samples, squared, two_layer

import noise_equilibrium as ne

WORDS = np.random.default_rng(5).integers(0, 6, size=(N, 4))  # words repeat within a sample
EMBEDDED = {"e": normal(1, 6, 3), "u": normal(2, 2, 3)}
E = (ne.Leg(leaf("e"), 1, +1), ne.Leg(leaf("u"), 1, -1))


def on_words(name, look_up, uses=2, escaped=(), legs=E, words=WORDS, **more):
    """Σ of looked-up rows through a nonlinearity and a second layer."""
    return Case(
        name,
        lambda p, z: squared(p["u"] @ jnp.sum(jnp.tanh(look_up(p["e"], z[0])), axis=0), z[1]),
        more.get("params", EMBEDDED),
        (words, normal(4, N, 2)),
        legs,
        uses,
        escaped,
        more.get("algebras", ("scalar", "diagonal", "symmetric")),
    )


def image_loss(layer):
    def loss(p, z):
        h = jnp.tanh(layer(p["k"], z[0]))
        return squared(jnp.einsum("oc,chw->o", p["u"], h), z[1])

    return loss


def convolution(**options):
    defaults = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NCHW")}
    return lambda k, x: jax.lax.conv_general_dilated(x[None], k, **(defaults | options))[0]


def image_case(name, layer, uses=2, escaped=(), kernel=(3, 2, 2, 3), legs=None):
    params = {"k": normal(1, *kernel), "u": normal(2, 2, 3)}
    legs = legs or (ne.Leg(leaf("k"), 0, -1), ne.Leg(leaf("u"), 1, +1))
    return Case(name, image_loss(layer), params, samples(2, 4, 5), legs, uses, escaped)


def normalised(p, z):
    h = p["w"] @ z[0]
    h = (h - jnp.mean(h)) / jnp.sqrt(jnp.var(h) + 1e-5)
    return squared(p["u"] @ (p["g"] * h + p["b"]), z[1])


def dense_general(p, z):
    """Projections to heads and back with kernels of three axes, as flax has them."""
    x, y = z
    q, k, v = (jnp.einsum("td,dhk->thk", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("thk,shk->hts", q, k), axis=-1)
    return squared(jnp.einsum("hts,shk,hkd->td", weights, v, p["o"]), y)


def experts(p, z):
    """A soft mixture of stacked experts."""
    x, y = z
    gate = jax.nn.softmax(p["gate"] @ x)
    hidden = jnp.tanh(jnp.einsum("eij,j->ei", p["w"], x))
    return squared(jnp.einsum("e,eki,ei->k", gate, p["u"], hidden), y)


def module(name, build, data, legs, uses, escaped=(), algebras=("scalar", "diagonal", "symmetric"), call=None):
    call = call or (lambda model, x: model(x))
    return Case(name, lambda m, z: squared(call(m, z[0]), z[1]), build, data, legs, uses, escaped, algebras)


def layer_cases() -> list[Case]:
    key = jax.random.key(5)
    attention = eqx.nn.MultiheadAttention(2, 4, key=key)
    heads = {name: normal(i, 4, 2, 3) for i, name in enumerate("qkv")} | {"o": normal(9, 2, 3, 4)}
    moe = {"gate": normal(1, 2, 4), "w": normal(2, 2, 3, 4), "u": normal(3, 2, 2, 3)}
    return [
        on_words("embedding", lambda e, words: e[words]),
        on_words("embedding-take", lambda e, words: jnp.take(e, words, axis=0)),
        on_words(
            "embedding-out-of-bounds", lambda e, words: jnp.take(e, words + 4, axis=0, mode="fill", fill_value=0.0)
        ),
        on_words("embedding-clipped", lambda e, words: jnp.take(e, words + 4, axis=0, mode="clip")),
        on_words(
            "embedding-of-bytes",  # an index whose type cannot hold the length of the axis
            lambda e, words: jnp.take(e, words, axis=0),
            params={"e": normal(1, 256, 3), "u": EMBEDDED["u"]},
            words=np.random.default_rng(6).integers(0, 256, size=(N, 4)).astype(np.uint8),
        ),
        on_words(
            "embedding-in-every-layer",
            lambda e, words: jax.lax.scan(lambda h, layer: (jnp.tanh(h + layer[words]), None), jnp.zeros((4, 3)), e)[0],
            uses=1,
            escaped=("['e']",),
            params={"e": normal(1, 2, 6, 3), "u": EMBEDDED["u"]},
            legs=(ne.Leg(leaf("e"), 2, +1), E[1]),
        ),
        on_words("embedding-vmap", lambda e, words: jax.vmap(lambda word: e[word])(words)),
        on_words("embedding-scan", lambda e, words: jax.lax.map(lambda word: e[word], words)),
        on_words("embedding-of-one-word", lambda e, word: e[word][None], words=WORDS[:, 0]),
        on_words("embedding-scaled", lambda e, words: (e * 2.0)[words]),
        on_words("embedding-times-matrix", lambda e, words: (e @ jnp.ones((3, 3)))[words]),
        on_words(
            "embedding-of-columns",
            lambda e, words: e.T[words].T[:, :3].T,
            legs=(ne.Leg(leaf("e"), 0, +1), E[1]),
            params={"e": normal(1, 3, 6), "u": EMBEDDED["u"]},
        ),
        on_words("embedding-along-the-words", lambda e, words: e[words], legs=(ne.Leg(leaf("e"), 0, +1),), uses=1),
        on_words("embedding-in-blocks", lambda e, words: e[words], legs=(ne.Leg(leaf("e"), 0, +1, blocks=2),), uses=1),
        on_words("embedding-elsewhere-too", lambda e, words: e[words] + (e.T @ (e @ jnp.ones(3))), 4),
        Case(
            "tied-embedding",
            lambda p, z: -jax.nn.log_softmax(p["e"] @ jnp.tanh(jnp.sum(p["e"][z], axis=0)))[z[0]],
            {"e": normal(1, 6, 3)},
            WORDS,
            (ne.Leg(leaf("e"), 1, +1),),
            2,
        ),
        image_case("convolution", convolution()),
        image_case("convolution-strided", convolution(window_strides=(2, 1), padding=((1, 0), (2, 1)))),
        image_case(
            "convolution-dilated", convolution(rhs_dilation=(1, 2), lhs_dilation=(2, 1), padding=((1, 1), (0, 2)))
        ),
        image_case("convolution-along-the-input", convolution(), legs=(ne.Leg(leaf("k"), 1, +1),), uses=1),
        image_case("convolution-along-the-window", convolution(), legs=(ne.Leg(leaf("k"), 3, +1),), uses=1),
        image_case(
            "convolution-channels-last",
            lambda k, x: jnp.moveaxis(
                convolution(dimension_numbers=("NHWC", "HWIO", "NHWC"))(k, jnp.moveaxis(x, 0, -1)), -1, 0
            ),
            kernel=(2, 3, 2, 3),
            legs=(ne.Leg(leaf("k"), 3, -1), ne.Leg(leaf("u"), 1, +1)),
        ),
        image_case("convolution-of-a-scaled-kernel", lambda k, x: convolution()(0.5 * k, x)),
        image_case(
            "convolution-in-groups",
            lambda k, x: convolution(feature_group_count=2)(k, x),
            1,
            ("['k']",),
            kernel=(4, 1, 2, 3),
            legs=(ne.Leg(leaf("k"), 0, -1), ne.Leg(leaf("u"), 1, +1)),
        )._replace(params={"k": normal(1, 4, 1, 2, 3), "u": normal(2, 2, 4)}),
        module(
            "eqx-conv",
            eqx.nn.Conv2d(2, 3, 2, padding=1, key=key),
            samples(2, 3, 3, y=(3, 4, 4)),
            (ne.Leg(lambda m: m.weight, 0, +1), ne.Leg(lambda m: m.bias, 0, -1)),
            1,
            (".bias",),
        ),
        module(
            "eqx-attention-all",
            attention,
            samples(TOKENS, 4, y=(TOKENS, 4)),
            (
                ne.Leg(lambda m: m.query_proj.weight, 0, +1, blocks=2),
                ne.Leg(lambda m: m.key_proj.weight, 0, -1, blocks=2),
                ne.Leg(lambda m: m.output_proj.weight, 1, +1, blocks=2),
                ne.Leg(lambda m: m.value_proj.weight, 0, -1, blocks=2),
            ),
            4,
            call=lambda m, x: m(x, x, x),
        ),
        module(
            "eqx-layer-norm",
            eqx.nn.LayerNorm(4),
            samples(4, y=(4,)),
            (ne.Leg(lambda m: m.weight, 0, +1), ne.Leg(lambda m: m.bias, 0, +1)),
            0,
            (".weight", ".bias"),
        ),
        module(
            "eqx-gru",
            eqx.nn.GRUCell(4, 3, key=key),
            samples(TOKENS, 4, y=(3,)),
            (ne.Leg(lambda m: m.weight_hh, 1, +1),),
            1,
            call=lambda m, xs: jax.lax.scan(lambda h, x: (m(x, h), None), jnp.zeros(3), xs)[0],
        ),
        Case(
            "layer-norm",
            normalised,
            two_layer() | {"g": normal(6, 3), "b": normal(7, 3)},
            samples(4),
            (ne.Leg(leaf("g"), 0, +1), ne.Leg(leaf("b"), 0, +1), ne.Leg(leaf("u"), 1, -1)),
            1,
            ("['b']", "['g']"),
        ),
        Case(
            "kernels-of-three-axes",
            dense_general,
            heads,
            samples(TOKENS, 4, y=(TOKENS, 4)),
            (ne.Leg(leaf("q"), 2, +1), ne.Leg(leaf("k"), 2, -1), ne.Leg(leaf("o"), 1, +1), ne.Leg(leaf("v"), 2, -1)),
            4,
        ),
        Case(
            "experts",
            experts,
            moe,
            samples(4),
            (ne.Leg(leaf("w"), 1, +1), ne.Leg(leaf("u"), 2, -1)),
            2,
        ),
    ]


with jax.enable_x64(True):
    LAYER_CASES = layer_cases()
