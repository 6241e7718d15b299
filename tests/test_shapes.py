"""The checker of shapes checks them."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped
from shapes import checked


@jaxtyped(typechecker=checked)
def product(a: Float[Array, "n d"], b: list[Float[Array, " d"]] | None = None) -> tuple[Float[Array, " n"], int]:
    return (a @ b[0] if b else a[0]), 1


def test_shapes_that_agree_pass():
    product(jnp.ones((2, 3)), [jnp.ones(3)])
    product(np.ones((2, 3)), [np.ones(3), jnp.ones(3)])
    product(jnp.ones((3, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.ones(3),), "checking the parameters"),
        ((jnp.ones((2, 3), int),), "checking the parameters"),
        ((np.ones(3),), "checking the parameters"),
        ((jnp.ones((2, 3)), [jnp.ones(3), jnp.ones(2)]), "checking the parameters"),
        ((jnp.ones((2, 3)),), "checking the return value"),
    ],
    ids=["rank", "dtype", "numpy", "in-a-list", "result"],
)
def test_shapes_that_do_not_agree_are_refused(arguments, message):
    with pytest.raises(TypeCheckError, match=message):
        product(*arguments)
