"""The generator of samplers: known answers of JAX's own Threefry, uniform bits of every width, independent keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.extend.random import threefry_2x32

from noise_equilibrium._counter import block, sampler_key

KEY = sampler_key(jax.random.key(3))


def test_a_block_is_threefry():
    counter = jnp.arange(7, dtype=jnp.uint32)
    key = jnp.array([0x12345678, 0x9ABCDEF0], jnp.uint32)
    expected = threefry_2x32(key, jnp.concatenate([jnp.zeros_like(counter), counter]))
    np.testing.assert_array_equal(jnp.concatenate(block(key, counter)), expected)


def test_a_key_keeps_its_data_and_depends_on_them():
    key = jax.random.key(5)
    np.testing.assert_array_equal(jax.random.key_data(sampler_key(key)), jax.random.key_data(key))
    draws = [np.asarray(jax.random.bits(sampler_key(jax.random.key(seed)), (100,))) for seed in range(20)]
    assert len(np.unique(draws)) == 2000


def test_keys_of_a_batch_are_not_shared_under_vmap():
    keys = jax.random.split(jax.random.key(0), 50)
    together = jax.vmap(lambda key: jax.random.normal(sampler_key(key), (3,)))(keys)
    np.testing.assert_array_equal(together, [jax.random.normal(sampler_key(key), (3,)) for key in keys])
    assert len(np.unique(together)) == 150


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_bits_of_every_width_are_uniform(bits):
    draws = np.asarray(jax.random.bits(KEY, (20_001,), f"uint{bits}"))
    top, low = (np.bincount(part.astype(int), minlength=16) for part in (draws >> (bits - 4), draws & 15))
    assert scipy.stats.chisquare(top).pvalue > 1e-3
    assert scipy.stats.chisquare(low).pvalue > 1e-3


def test_normal_numbers_of_split_and_folded_keys_are_independent():
    keys = jax.random.split(KEY, 200)
    parts = [jax.vmap(lambda key: jax.random.normal(key, (100,)))(keys)]
    parts.append(jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(keys[0], i), (100,)))(jnp.arange(200)))
    for draws in map(np.asarray, parts):
        assert scipy.stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
        along, across = draws[:, 1:] * draws[:, :-1], draws[1:] * draws[:-1]
        for product in (along, across, draws[:, :50] * draws[:, 50:]):  # the two words of a block too
            assert abs(product.mean()) < 4 / product.size**0.5


def test_other_distributions_work():
    assert sorted(jax.random.permutation(KEY, 9).tolist()) == list(range(9))
    assert 0.4 < float(jnp.mean(jax.random.bernoulli(KEY, 0.5, (1000,)))) < 0.6
    assert jax.random.gamma(KEY, 2.0, (3,)).shape == jax.random.choice(KEY, jnp.arange(5), (3,)).shape == (3,)
