"""The root of the flow along one generator with powers of any size: theory, "Any spectrum, unequal powers".

With r_i and t_i what lowers and what raises the charge through the power μ_i, the flow at e^{λA}θ is

    G(λ) = 2 Σ_i |μ_i| (t_i e^{−2λ|μ_i|} − r_i e^{2λ|μ_i|}),

and its sign is that of −h(λ), h(λ) = ln Σ|μ_i| r_i e^{2λ|μ_i|} − ln Σ|μ_i| t_i e^{−2λ|μ_i|}. The slope of h lies in
[4μ_min, 4μ_max], which brackets the root, and nothing in h overflows.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float

# The bracket holds log₂(width/ε|λ|) bisections; Newton's steps square what is left of the error.
BISECTIONS = 128
NEWTON_STEPS = 2


class Spectrum(NamedTuple):
    """What lowers and what raises a charge, power by power.

    Attributes:
        sizes: |μ_i|, (k,).
        lowers: r_i, (k,) or (k, ...): one spectrum for each entry of a charge.
        raises: t_i, likewise.
    """

    sizes: Float[Array, " k"]
    lowers: Float[Array, "k ..."]
    raises: Float[Array, "k ..."]

    def total(self, values: Float[Array, "k ..."]) -> Array:
        """Σ |μ_i| × value_i."""
        return jnp.tensordot(self.sizes, values, axes=1, precision=jax.lax.Precision.HIGHEST)


def flow_root(spectrum: Spectrum) -> Array:
    """λ* with G(λ*) = 0, for each entry of a charge; there must be some r_i > 0 and some t_i > 0.

    Differentiable to any order by the implicit function theorem, also where some r_i or t_i are 0.
    """
    shape = spectrum.lowers.shape[1:]
    columns = [values.reshape(len(spectrum.sizes), -1) for values in (spectrum.lowers, spectrum.raises)]
    return jax.vmap(_root, in_axes=(None, 1, 1))(spectrum.sizes, *columns).reshape(shape)


@jax.custom_jvp
def _root(sizes: Array, lowers: Array, raises: Array) -> Float[Array, ""]:
    """λ* of one spectrum: bisections in its bracket, then Newton's steps."""
    arguments = (sizes, lowers, raises)
    eps = float(jnp.finfo(lowers.dtype).eps)
    acts = (sizes > 0) & (lowers + raises > 0)
    least = jnp.min(jnp.where(acts, sizes, jnp.inf))
    largest = jnp.max(jnp.where(acts, sizes, 0))
    start = _imbalance(jnp.zeros_like(least), arguments)
    ends = jnp.stack([-start / (4 * least), -start / (4 * largest)])
    # h(0) is a difference of logarithms: its rounding must not move the bracket past the root.
    margin = 8 * eps * (jnp.max(jnp.abs(ends)) + 1 / largest)
    lower, upper = jnp.min(ends) - margin, jnp.max(ends) + margin
    found = optx.root_find(
        _imbalance,
        # h increases: with `flip` known the ends need not be evaluated. The rest of the way is left to Newton's steps.
        optx.Bisection(rtol=64 * eps, atol=64 * eps, flip=False),
        (lower + upper) / 2,
        args=arguments,
        options={"lower": lower, "upper": upper},
        max_steps=BISECTIONS,
        throw=False,
    ).value

    def newton(_: int, element: Array) -> Array:
        value, slope = jax.jvp(lambda x: _imbalance(x, arguments), (element,), (jnp.ones_like(element),))
        return jnp.clip(element - value / slope, lower, upper)

    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, found)


@_root.defjvp
def _root_jvp(primals, tangents):
    """∂λ* = −∂h/h'."""
    element = _root(*primals)
    # The implicit function theorem; as it calls the rule's own function, it holds to any order.
    change = jax.jvp(lambda *arguments: _imbalance(element, arguments), primals, tangents)[1]
    slope = jax.jvp(lambda x: _imbalance(x, primals), (element,), (jnp.ones_like(element),))[1]
    return element, -change / slope


def _imbalance(element: Array, arguments: tuple[Array, Array, Array]) -> Float[Array, ""]:
    """h(λ), with slopes in r_i and t_i also where these are 0."""
    sizes, lowers, raises = arguments
    return _log_sum(sizes, lowers, 2 * element) - _log_sum(sizes, raises, -2 * element)


def _log_sum(sizes: Array, values: Array, element: Array) -> Float[Array, ""]:
    """ln Σ |μ_i| v_i e^{λ|μ_i|}: a sum of products, whose largest is 1, after the largest exponent is taken out."""
    exponents = element * sizes
    present = (sizes > 0) & (values > 0)
    logs = jnp.log(jnp.where(present, sizes, 1)) + jnp.log(jnp.where(present, values, 1))
    # What is taken out and added again has no derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(present, logs + exponents, -jnp.inf)))
    # Only where a value is 0 can this exponent be large, and there its size matters to derivatives alone.
    # A tenth of the range of exponents is left for the factor |μ_i|, and for the quotient that a derivative makes of
    # it.
    bounded = jnp.minimum(exponents - largest, 0.9 * math.log(jnp.finfo(values.dtype).max))
    return jnp.log(jnp.sum(sizes * values * jnp.exp(bounded))) + largest
