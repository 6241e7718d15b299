"""Double precision inside of single precision: values, derivatives, batches and programs for other devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise_equilibrium._double import Wide, add, in_double, single

ROUNDING = float(jnp.finfo(jnp.float32).eps)


def inverse_gram(x, shift):
    gram = x.T @ x
    return {"inverse": jnp.linalg.inv(gram), "place": jnp.argmax(jnp.diagonal(gram)), "shifted": gram[0, 0] + shift}


def loss(x):
    """A function of the inverse of an ill-conditioned Gram."""
    found = in_double(inverse_gram, x, jnp.asarray(2.0, x.dtype))
    return jnp.log(jnp.trace(found["inverse"])) + jnp.sin(found["shifted"])


def points():
    """Six points in three dimensions, within 3e-5 of a plane: their Gram has eigenvalues 1e-9 apart."""
    draw = np.random.default_rng(0)
    turn, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    return jnp.asarray(draw.normal(size=(6, 3)) @ np.diag([1.0, 3e-5, 1e-1]) @ turn, jnp.float32)


def along(x):
    """A fixed direction: derivatives along x itself nearly vanish, and would be differences."""
    return jnp.asarray(np.random.default_rng(1).normal(size=x.shape), x.dtype)


DERIVATIVES = {
    "value": loss,
    "gradient": jax.grad(loss),
    "forward": lambda x: jax.jvp(loss, (x,), (along(x),))[1],
    "forward over reverse": lambda x: jax.jvp(jax.grad(loss), (x,), (along(x),))[1],
    "reverse over forward": lambda x: jax.grad(lambda x: jax.jvp(loss, (x,), (along(x),))[1])(x),
    "reverse over reverse": lambda x: jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), along(x)))(x),
    "third": lambda x: jax.jvp(lambda x: jax.jvp(jax.grad(loss), (x,), (along(x),))[1], (x,), (along(x),))[1],
    "batch": lambda x: jax.vmap(loss)(jnp.stack([x, 2 * x])),
    "gradients of a batch": lambda x: jax.vmap(jax.grad(loss))(jnp.stack([x, 2 * x])),
    "gradient through a batch": jax.grad(lambda x: jnp.sum(jax.vmap(loss)(jnp.stack([x, 2 * x])))),
    "rematerialised": jax.grad(jax.checkpoint(loss)),
    "in a scan": jax.grad(lambda x: jax.lax.scan(lambda t, _: (t + loss(x), None), x[0, 0], None, length=2)[0]),
    "in a branch": jax.grad(lambda x: jax.lax.cond(x[0, 0] > -9, loss, lambda x: x[0, 0], x)),
}


@pytest.mark.float32
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "jit"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_it_is_the_double_precision_result_rounded(name, compiled):
    function = jax.jit(DERIVATIVES[name]) if compiled else DERIVATIVES[name]
    with jax.enable_x64(True):
        exact = DERIVATIVES[name](points().astype(jnp.float64))
        assert exact.dtype == jnp.float64
    found = function(points())
    assert found.dtype == jnp.float32
    scale = float(np.max(np.abs(exact)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=16 * ROUNDING * scale)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_what_is_kept_is_differentiated_from_one_piece_to_the_next(kind):
    def determinant(x):
        gram = in_double(lambda x: x.T @ x, x, keep=True)
        return in_double(lambda gram: jnp.log(jnp.linalg.det(gram)), gram)

    derivative = {"forward": jax.jacfwd, "reverse": jax.jacrev}[kind](determinant)
    with jax.enable_x64(True):
        exact = derivative(points().astype(jnp.float64))
    # Tangents are kept as values are. A cotangent is rounded on its way from one piece to the next, and what acts on it
    # then is as large as the inverse of the points.
    spread = 1.0 if kind == "forward" else np.linalg.cond(np.asarray(points(), np.float64))
    np.testing.assert_allclose(derivative(points()), exact, rtol=0, atol=16 * ROUNDING * spread * np.max(np.abs(exact)))


@pytest.mark.float32
def test_without_it_the_result_is_lost():
    """The example is one that single precision cannot do."""
    x = points()
    plain, double = (jnp.trace(found["inverse"]) for found in (inverse_gram(x, 2.0), in_double(inverse_gram, x, 2.0)))
    assert not abs(plain / double - 1) < 1e-2


@pytest.mark.float32
def test_what_is_kept_is_double():
    gram = in_double(lambda x: x.T @ x, points(), keep=True)
    assert isinstance(gram, Wide)
    assert gram.high.dtype == gram.low.dtype == jnp.float32
    exact = np.asarray(points(), np.float64).T @ np.asarray(points(), np.float64)
    np.testing.assert_allclose(np.asarray(gram.high, np.float64) + np.asarray(gram.low), exact, rtol=1e-13)
    np.testing.assert_array_equal(single({"gram": gram})["gram"], gram.high)
    twice = add((gram, jnp.ones(2)), (gram, jnp.ones(2)))
    np.testing.assert_allclose(np.asarray(twice[0].high, np.float64) + np.asarray(twice[0].low), 2 * exact, rtol=1e-13)
    np.testing.assert_array_equal(twice[1], [2, 2])


def test_where_double_precision_is_on_it_is_the_function_alone():
    x = points()
    found = in_double(inverse_gram, x.astype(jnp.float64), jnp.asarray(2.0))
    assert "in_double" not in str(jax.make_jaxpr(loss)(x.astype(jnp.float64)))
    assert found["inverse"].dtype == jnp.float64
    assert in_double(inverse_gram, x, jnp.asarray(2.0, jnp.float32))["inverse"].dtype == jnp.float32
    assert in_double(lambda x, y: x * y, x.astype(jnp.float64), jnp.asarray(1.0), keep=True).dtype == jnp.float64
    assert isinstance(in_double(lambda x, y: x * y, x, jnp.asarray(1.0), keep=True), Wide)


@pytest.mark.float32
def test_half_precision_comes_back_in_single():
    assert in_double(lambda x: x.T @ x, points().astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.float32
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_is_lowered_for_every_platform(platform):
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(points())
    assert "f64" in exported.mlir_module()
