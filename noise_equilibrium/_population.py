"""Populations: data that can only be sampled, because they are new whenever one looks at them."""

import abc
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from ._inputs import check_data, pure
from ._numbers import Traced, jit


class AbstractPopulation(Traced):
    """Data without an end: SGD samples them, and an expectation needs a finite set drawn from them."""

    @abc.abstractmethod
    def draw_set(self, key: PRNGKeyArray, n: int) -> PyTree:
        """A finite data set of n samples, stacked along a leading axis."""


class Stream(AbstractPopulation):
    """A population: fresh samples from a sampler instead of a finite data set.

    Args:
        draw: `draw(key) -> sample`, a pure function or callable `eqx.Module`; `sample` is any pytree of arrays.

    Raises:
        ValueError: if `draw` cannot be called.
    """

    draw: Callable[[PRNGKeyArray], PyTree]

    def __init__(self, draw: Callable[[PRNGKeyArray], PyTree]):
        self.draw = pure(draw, "draw(key) -> sample")

    def batch(self, key: PRNGKeyArray, size: int) -> PyTree:
        """`size` independent samples, each with a key of its own, stacked along a leading axis."""
        return jax.vmap(self.draw)(jax.random.split(key, size))

    def draw_set(self, key: PRNGKeyArray, n: int) -> PyTree:
        """The same as `batch`."""
        return self.batch(key, n)


class Redrawn(AbstractPopulation):
    """A finite data set whose samples are redrawn at every visit: label noise, augmentation, dropout masks.

    The expectation is over both, a uniform sample and its redraw: L(θ) = (1/N) Σ_i E_ε ℓ(θ, redraw(ε, z_i)).

    Args:
        data: a pytree whose leaves share a leading axis of N samples.
        redraw: `redraw(key, sample) -> sample`, a pure function or callable `eqx.Module`, whose Python floats are
            traced; it may return a sample of another structure than it got.

    Raises:
        ValueError: if the leaves of data differ in length, if there is none, or if `redraw` cannot be called.

    Examples:
        >>> import jax, jax.numpy as jnp, noise_equilibrium as ne
        >>> noisy = ne.Redrawn(jnp.array([1.0, 2.0]), lambda key, y: y + 0.5 * jax.random.normal(key))
        >>> problem = ne.Problem(lambda w, y: (w - y) ** 2, noisy)  # SGD sees new noise at every visit
        >>> finite = problem.sampled(jax.random.key(0), 2000)  # 1000 redraws of either sample
        >>> round(float(finite.risk(jnp.array(1.5))), 1)  # 0.5² + 0.5²
        0.5
    """

    data: PyTree
    redraw: Callable[[PRNGKeyArray, PyTree], PyTree]

    def __init__(self, data: PyTree, redraw: Callable[[PRNGKeyArray, PyTree], PyTree]):
        self.data = data
        self.redraw = pure(redraw, "redraw(key, sample) -> sample")
        if isinstance(data, AbstractPopulation):
            raise ValueError(
                f"the data are {type(data).__name__} already; expected a finite data set. Put both sources of noise "
                "into one function."
            )
        check_data(data)

    @property
    def num_samples(self) -> int:
        """N, the number of samples before they are redrawn."""
        return jax.tree_util.tree_leaves(self.data)[0].shape[0]

    def visit(self, key: PRNGKeyArray, indices: Int[Array, " S"]) -> PyTree:
        """The samples of these indices, each redrawn with a key of its own; stacked along a leading axis."""
        samples = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[indices], self.data)
        # Keys by place, not split from one: how many samples are drawn at once changes none of them.
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(indices.shape[0]))
        return jax.vmap(self.redraw)(keys, samples)

    def draw_set(self, key: PRNGKeyArray, n: int) -> PyTree:
        """n samples, in balance: ⌊n/N⌋ rounds, and the rest a random subset without replacement.

        Redraw r of sample i stands at place r·N + i, whatever n is; the subset comes last, in ascending order of i.
        """
        return _draw_set(self, key, n)


@functools.partial(jit, rows_of=lambda population, key, n: population.data)
def _draw_set(population: Redrawn, key: PRNGKeyArray, n: int) -> PyTree:
    rounds, rest = divmod(n, population.num_samples)
    subset_key, redraw_key = jax.random.split(key)
    subset = jnp.sort(jax.random.permutation(subset_key, population.num_samples)[:rest])
    places = jnp.concatenate([jnp.tile(jnp.arange(population.num_samples), rounds), subset])
    return population.visit(redraw_key, places)


@functools.partial(jit, rows_of=lambda population, key, count: population.data)
def all_redrawn(population: Redrawn, key: PRNGKeyArray, count: int) -> PyTree:
    """Every sample redrawn `count` times, along axes of N and `count`: what that many rounds of `draw_set` draw."""
    _, redraw_key = jax.random.split(key)
    places = jnp.arange(population.num_samples)[:, None] + population.num_samples * jnp.arange(count)

    def one(sample: PyTree, places: Int[Array, " count"]) -> PyTree:
        keys = jax.vmap(lambda place: jax.random.fold_in(redraw_key, place))(places)
        return jax.vmap(population.redraw, (0, None))(keys, sample)

    return jax.vmap(one)(population.data, places)
