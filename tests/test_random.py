"""Random numbers in one pass: those of JAX, bit for bit where they are bits, to rounding where they are numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from look_alikes import with_look_alikes
from marks import slow_but

import noise_equilibrium as ne
from noise_equilibrium._random import _threefry as threefry
from noise_equilibrium._random import in_one_pass

KEY = jax.random.key(5)

# How the samplers of JAX draw: bits alone, elementwise from bits, by sorting, in loops, from several keys.
SAMPLERS = {
    "normal": lambda key: jax.random.normal(key, (3, 5)),
    "uniform": lambda key: jax.random.uniform(key, (7,), minval=-2.0, maxval=5.0),
    "uniform between arrays": lambda key: jax.random.uniform(key, (2, 3), maxval=jnp.arange(1.0, 4.0)),
    "truncated normal": lambda key: jax.random.truncated_normal(key, -1.0, 2.0, (6,)),
    "exponential": lambda key: jax.random.exponential(key, (4, 3)),
    "gumbel": lambda key: jax.random.gumbel(key, (5,)),
    "laplace": lambda key: jax.random.laplace(key, (5,)),
    "Cauchy": lambda key: jax.random.cauchy(key, (5,)),
    "Student": lambda key: jax.random.t(key, 3.0, (5,)),
    "gamma": lambda key: jax.random.gamma(key, 0.7, (5,)),
    "Poisson": lambda key: jax.random.poisson(key, 4.0, (5,)),
    "Bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (9,)),
    "Rademacher": lambda key: jax.random.rademacher(key, (9,)),
    "integers": lambda key: jax.random.randint(key, (9,), -4, 11),
    "bytes": lambda key: jax.random.bits(key, (2, 3), jnp.uint8),
    "permutation": lambda key: jax.random.permutation(key, 9),
    "choice": lambda key: jax.random.choice(key, jnp.arange(9.0), (4,), replace=False),
    "categorical": lambda key: jax.random.categorical(key, jnp.arange(4.0), shape=(6,)),
    "multivariate normal": lambda key: jax.random.multivariate_normal(key, jnp.ones(2), jnp.eye(2), (4,)),
    "orthogonal": lambda key: jax.random.orthogonal(key, 3),
    "half precision": lambda key: jax.random.normal(key, (5,), jnp.bfloat16),
    "complex": lambda key: jax.random.normal(key, (5,), jnp.complex64),
    "a number": jax.random.normal,
    "an array of one entry": lambda key: jnp.clip(jax.random.normal(key, (1, 1)), -1.0, 1.0) * jnp.ones((1, 3)),
    "a choice by sign": lambda key: jnp.where(jax.random.normal(key, (4,)) > 0, jnp.arange(4.0), jax.nn.softplus(1.0)),
    "nothing": lambda key: jax.random.normal(key, (0, 3)),
    "another key": lambda key: jax.random.normal(jnp.stack([KEY, key])[1], (3,)),
    "keys": lambda key: jax.random.key_data(jax.random.fold_in(jax.random.split(key, (2, 3))[1, 2], 2**32 - 1)),
}


@given(
    words=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
    count=st.integers(1, 3),
    shape=st.lists(st.integers(0, 5), max_size=3),
    width=st.sampled_from([8, 16, 32, 64]),
    number=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=12)
def test_the_generator_is_that_of_jax_bit_for_bit(words, count, shape, width, number):
    shape = tuple(shape)
    with jax.enable_x64(width == 64):
        keys = jax.random.split(jax.random.wrap_key_data(jnp.array(words, jnp.uint32)), count)
        bits = jax.vmap(lambda key: jax.random.bits(key, shape, f"uint{width}"))(keys)
        np.testing.assert_array_equal(threefry.random_bits(keys, width, shape), bits, strict=True)
        np.testing.assert_array_equal(
            jax.random.key_data(threefry.split(keys, shape)),
            jax.random.key_data(jax.vmap(lambda key: jax.random.split(key, shape))(keys)),
        )
        np.testing.assert_array_equal(
            jax.random.key_data(threefry.fold_in(keys, jnp.uint32(number))),
            jax.random.key_data(jax.vmap(lambda key: jax.random.fold_in(key, np.uint32(number)))(keys)),
        )


def test_the_generator_gives_the_words_of_its_publication():
    """Known answers of Random123: zeros, ones, and the digits of π, twenty rounds."""
    answers = [
        ([0, 0], [0, 0], [0x6B200159, 0x99BA4EFE]),
        ([0xFFFFFFFF] * 2, [0xFFFFFFFF] * 2, [0x1CB996FC, 0xBB002BE7]),
        ([0x13198A2E, 0x03707344], [0x243F6A88, 0x85A308D3], [0xC4923A9C, 0x483DF7A0]),
    ]
    for key, count, expected in answers:
        pair = threefry.threefry(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, count)))
        assert [int(word) for word in pair] == expected


@pytest.mark.parametrize(
    "name", slow_but(SAMPLERS, *(SAMPLERS.keys() - {"Student", "orthogonal", "multivariate normal", "complex"}))
)
@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["single", "double"])
def test_every_sampler_draws_what_it_draws_without(name, x64):
    with jax.enable_x64(x64):
        draw = SAMPLERS[name]

        def many(key):
            return jax.vmap(draw)(jax.random.split(key, 4))

        keys = jax.random.split(KEY, 3)
        plain, fast = jax.jit(jax.vmap(many))(keys), jax.jit(jax.vmap(in_one_pass(many)))(keys)
        assert (fast.dtype, fast.shape) == (plain.dtype, plain.shape)
        if jnp.issubdtype(plain.dtype, jnp.inexact):
            scale = float(jnp.max(jnp.abs(plain), initial=1.0))
            np.testing.assert_allclose(
                np.asarray(fast).astype(complex),
                np.asarray(plain).astype(complex),
                rtol=0,
                atol=8 * scale * float(jnp.finfo(plain.dtype).eps),
            )
        else:
            np.testing.assert_array_equal(fast, plain)


def test_what_is_inside_of_calls_loops_and_branches_keeps_its_numbers():
    @jax.jit
    def inner(key, scale):
        return scale * jax.random.normal(key, (3,))

    def draw(key):
        first, second, third = jax.random.split(key, 3)
        looped, _ = jax.lax.scan(
            lambda total, key: (total + inner(key, 2.0), None), jnp.zeros(3), jax.random.split(first)
        )
        branch = jax.lax.cond(
            jax.random.bernoulli(second),
            lambda: jax.random.normal(third, (3,)),
            lambda: jax.random.uniform(third, (3,)),
        )
        return {"x": inner(second, 3.0), "y": looped + branch, "key": third}

    fast, plain = jax.jit(in_one_pass(draw))(KEY), jax.jit(draw)(KEY)
    assert jax.tree.structure(fast) == jax.tree.structure(plain)
    assert bool(fast.pop("key") == plain.pop("key"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), fast, plain)


def test_derivatives_pass_through_draws():
    def loss(draws, scale, offset):
        return jnp.sum(jnp.sin(draws(lambda key: offset + scale * jax.random.normal(key, (4, 3)))(KEY)))

    one, other = (
        jax.jit(jax.grad(lambda s, o, d=d: loss(d, s, o), argnums=(0, 1))) for d in (in_one_pass, lambda f: f)
    )
    scale, offset = jnp.array([1.0, 2.0, 3.0]), jnp.ones((4, 3))
    for fast, plain in zip(one(scale, offset), other(scale, offset), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-6)
    drawn = lambda bound: jnp.sum(in_one_pass(lambda key: jax.random.uniform(key, (5,), maxval=bound))(KEY))  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.grad(drawn))(2.0), drawn(1.0), rtol=1e-6)  # linear in the bound


def test_other_generators_other_layouts_and_effects_are_left_alone(capfd):
    philox = lambda key: jax.random.normal(jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg"), (3,))  # noqa: E731
    np.testing.assert_array_equal(jax.jit(in_one_pass(philox))(KEY), jax.jit(philox)(KEY))

    draw = SAMPLERS["normal"]
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(jax.jit(in_one_pass(draw))(KEY), jax.jit(draw)(KEY))

    def talks(key):
        jax.debug.print("drawn")
        return draw(key)

    jax.block_until_ready(jax.jit(in_one_pass(talks))(KEY))
    jax.effects_barrier()
    assert "drawn" in capfd.readouterr().out


# Functions that meet these primitives, outermost in their programs.
PRIMITIVES = {
    "random_bits": lambda key: jax.random.bits(key, (2, 3)),
    "random_split": lambda key: jax.random.key_data(jax.random.split(key, 3)),
    "random_fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 7)),
    "mul": lambda key: jax.random.bits(key, (2, 3)).astype(jnp.float32) * 3.0,  # on a row
    "convert_element_type": lambda key: jax.random.bits(key, (2, 3)).astype(jnp.float32),
    "jit": lambda key: jax.jit(lambda key: jax.random.bits(key, (2, 3)))(key),
}


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("change", ["added", "renamed"])
def test_what_a_later_version_adds_or_renames_is_left_to_jax(name, change):
    """Equations with unknown parameters, which make other numbers here, are evaluated as they are."""

    def parameters(given):
        if change == "added":
            return given | {"later": True}
        return {f"{old}_renamed": value for old, value in given.items()} or {"later": True}

    draw = with_look_alikes(PRIMITIVES[name], (KEY,), name, parameters)
    plain, fast = jax.jit(draw)(KEY), jax.jit(in_one_pass(draw))(KEY)
    np.testing.assert_array_equal(fast, plain, strict=True)
    assert np.any(plain != jax.jit(PRIMITIVES[name])(KEY))


@pytest.mark.parametrize("name", ["random_bits", "random_split"])
def test_a_parameter_that_is_gone_is_left_to_jax(name):
    draw = with_look_alikes(PRIMITIVES[name], (KEY,), name, lambda given: {})
    np.testing.assert_array_equal(jax.jit(in_one_pass(draw))(KEY), jax.jit(draw)(KEY), strict=True)


def test_a_program_hashes_once_for_all_uses_of_its_numbers():
    """Which is what the speed comes from: neither five turns over memory, nor anew in each of three uses."""

    def batch(key):
        return jax.vmap(lambda key: jax.random.normal(key, (2, 32)))(jax.random.split(key, 16))

    def used(keys, draw):
        z = jax.vmap(draw)(keys)
        x, y = z[:, :, 0], z[:, :, 0] + z[:, :, 1]
        return x.mT @ y, jnp.sum(x * y, axis=1), jnp.sin(y)

    keys = jax.random.split(KEY, 8)
    text = jax.jit(lambda keys: used(keys, in_one_pass(batch))).lower(keys).compile().as_text()
    hashed = [
        body for body in re.split(r"\n(?=%|ENTRY)", text) if body.count(" shift-left(") >= 20 and "u32[8,16,64]" in body
    ]
    assert len(hashed) == 1, len(hashed)


def test_a_machine_other_than_a_cpu_runs_the_program_of_jax():
    draw = SAMPLERS["normal"]
    texts = [
        jax.jit(function).trace(KEY).lower(lowering_platforms=(platform,)).as_text()
        for function in (draw, in_one_pass(draw))
        for platform in ("cpu", "cuda")
    ]
    loops = [text.count("stablehlo.while") for text in texts]
    assert loops[0] > 0
    assert loops[2] == 0, "on the CPU the loop of five turns is gone"
    count = [len(re.findall(r"stablehlo\.shift_left", text)) for text in texts]
    assert loops[1] == loops[3]
    assert count[1] == count[3] >= 20


@pytest.mark.parametrize("redrawn", [False, True], ids=["stream", "redrawn"])
def test_a_step_sees_the_samples_that_its_key_gives(redrawn):
    """Step t uses fold_in(key, t); a run in a loop draws what one would draw by hand, seed by seed."""
    draw = lambda key: jax.random.normal(key, (3,))  # noqa: E731
    data = ne.Redrawn(jnp.zeros((5, 3)), lambda key, z: z + draw(key)) if redrawn else ne.Stream(draw)
    problem = ne.Problem(lambda w, z: jnp.sum(w * z), data)
    keys = jax.random.split(KEY, 4)
    runs = jax.vmap(
        lambda key: ne.simulate(problem, ne.SGD(0.5, 2), jnp.zeros(3), 3, key=key, observe={"w": lambda w: w})
    )(keys)
    steps = -np.diff(runs.observed["w"], axis=1) / 0.5
    for seed, key in enumerate(keys):
        for step in range(3):
            here = jax.random.fold_in(key, step)
            if redrawn:
                here = jax.random.split(here)[1]
                ones = [draw(jax.random.fold_in(here, place)) for place in range(2)]
            else:
                ones = [draw(one) for one in jax.random.split(here, 2)]
            np.testing.assert_allclose(steps[seed, step], np.mean(ones, axis=0), rtol=1e-5, atol=1e-5)
