"""The benchmarks that no other test runs: what they count, and that the tables of any device come out."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator
from benchmarks._kernels import kernels_in_loops

pytestmark = pytest.mark.float32


def test_kernels_are_those_of_the_body_of_a_loop():
    """Two products of matrices are two kernels, and what is done entry by entry joins the others."""

    def body(products):
        def turn(x, _):
            for _ in range(products):
                x = jnp.tanh(x @ x) + 1
            return x, None

        return turn

    def count(products, length=7):
        loop = jax.jit(lambda x: jax.lax.scan(body(products), x, length=length)[0])
        return kernels_in_loops(loop.lower(jnp.ones((64, 64))).compile().as_text())

    one, two, three = (count(products) for products in (1, 2, 3))
    assert three - two == two - one  # each as many as the last
    assert 1 <= two - one <= 3
    assert count(2, length=100) == two
    assert kernels_in_loops(jax.jit(jnp.sin).lower(1.0).compile().as_text()) == 0


@pytest.mark.slow
def test_the_tables_of_a_device_are_printed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "SIZES", [(4, 4, 2), (5, 5, 2)])
    monkeypatch.setattr(accelerator, "STEPS", 4)
    accelerator.write(1, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"accelerator-{jax.devices()[0].device_kind}.txt"
    written = path.read_text()
    assert written in capsys.readouterr().out
    for title in accelerator.SECTIONS:
        rows = written.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()
        assert len(rows) >= 2, title  # a head and at least one row
