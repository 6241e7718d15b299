"""Networks that nobody wrote: layers drawn at random, with random symmetries, against per-sample gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from cases import normal, squared
from hypothesis import given, settings
from hypothesis import strategies as st

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import reference_moments
from noise_equilibrium._parameters import split

N, TOKENS = 4, 2
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": jax.nn.gelu, "linear": lambda h: h}
# How a layer turns its weight and one token into the next token.
PRODUCTS = {
    "plain": lambda w, h: w @ h,
    "row": lambda w, h: h @ w.T,
    "einsum": lambda w, h: jnp.einsum("ij,j->i", w, h),
    "jit": jax.jit(lambda w, h: w @ h),
    "remat": jax.checkpoint(lambda w, h: w @ h),
    "scaled": lambda w, h: (w / np.sqrt(3.0)) @ h,
    "residual": lambda w, h: (w + 0.1 * jnp.ones(w.shape)) @ h,
    "halves": lambda w, h: jnp.concatenate([part @ h for part in jnp.split(w, [1])]),
    "twice": lambda w, h: w @ h + w @ jnp.sin(h),
    "low-rank": lambda w, h: (w @ normal(9, w.shape[1], w.shape[1])) @ h,
    "normalised": lambda w, h: (w / jnp.linalg.norm(w)) @ h,
    "masked": lambda w, h: (w * np.sign(normal(8, *w.shape))) @ h,
    "looped": lambda w, h: jax.lax.fori_loop(0, 2, lambda _, c: c + w @ h, jnp.zeros(w.shape[0])),
}
TOKENWISE = {
    "vmap": jax.vmap,
    "map": lambda layer: lambda h: jax.lax.map(layer, h),
    "unrolled": lambda layer: lambda h: jnp.stack([layer(row) for row in h]),
}
layers = st.lists(
    st.tuples(
        st.integers(2, 4), st.sampled_from(sorted(PRODUCTS)), st.sampled_from(sorted(ACTIVATIONS)), st.booleans()
    ),
    min_size=1,
    max_size=3,
)
unoptimised_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def build(specification, tokenwise, tied):
    """A loss and its parameters; if `tied`, square layers of one shape share the weight of the first of them."""
    params, owners, width = {}, [], 3
    for place, (size, _, _, _) in enumerate(specification):
        shape = (size, width)
        same = [o for o in owners if params[f"w{o}"].shape == shape]
        owners.append(same[0] if tied and same else place)
        params.setdefault(f"w{owners[-1]}", normal(place, *shape))
        params[f"b{place}"] = normal(10 + place, size)
        width = size

    def loss(p, z):
        h = z[0]
        for place, (_, product, activation, bias) in enumerate(specification):
            layer = functools.partial(PRODUCTS[product], p[f"w{owners[place]}"])
            h = TOKENWISE[tokenwise](layer)(h)
            h = ACTIVATIONS[activation](h + p[f"b{place}"] if bias else h)
        return squared(h, z[1][:, :width])

    used = {name: value for name, value in params.items() if name[0] == "w" or specification[int(name[1:])][3]}
    return loss, params, used


@settings(max_examples=16)
@given(layers, st.sampled_from(sorted(TOKENWISE)), st.booleans(), st.data())
def test_a_random_network_has_the_moments_of_its_definition(specification, tokenwise, tied, data):
    loss, params, used = build(specification, tokenwise, tied)
    problem = ne.Problem(loss, (normal(20, N, TOKENS, 3), normal(21, N, TOKENS, 4)))
    name = data.draw(st.sampled_from(sorted(used)))
    axis = data.draw(st.integers(0, used[name].ndim - 1))
    algebra = data.draw(st.sampled_from(["diagonal", "symmetric"]))
    every = ne.scaling(*(lambda p, n=n: p[n] for n in used))
    symmetries = [ne.Symmetry([ne.Leg(lambda p: p[name], axis)], algebra), every]
    arrays, rebuild = split(params)

    @unoptimised_jit
    def both(arrays):
        fast = ne.noise_moments(problem, rebuild(arrays), symmetries)
        slow = [reference_moments(problem, rebuild(arrays), symmetry) for symmetry in symmetries]
        return list(zip(fast, slow, strict=True))

    for fast, slow in both(arrays):
        for ours, theirs, mean in zip(fast.noise, slow.noise, slow.mean, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * float(np.max(np.abs(theirs + mean)) + 1e-12))
