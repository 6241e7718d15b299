"""The tree of a model: who is pushed where, beside each parameter."""

import re
import sys

import jax
import jax.numpy as jnp
import pytest

import noise_equilibrium as ne
from noise_equilibrium import plots


def diagnosed():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"in": {"w": jax.random.normal(keys[0], (4, 3))}, "out": jnp.ones((2, 4)), "free": jnp.ones(2)}
    data = jax.random.normal(keys[1], (16, 3)), jax.random.normal(keys[2], (16, 2))

    def loss(p, z):
        return jnp.sum((p["out"] @ jax.nn.relu(p["in"]["w"] @ z[0]) + p["free"] - z[1]) ** 2)

    neurons = ne.neuron_rescaling((lambda p: p["in"]["w"], 0), (lambda p: p["out"], 1))
    return params, ne.diagnose(ne.Problem(loss, data), params, ne.SGD(0.01, 2), neurons)


def test_each_parameter_of_a_symmetry_has_its_note_and_no_other():
    pytest.importorskip("treescope")
    params, report = diagnosed()
    (row,) = report.rows
    page = plots.tree(params, report)._repr_html_()
    up, down = (page.count(f"pulled {way}: ‖Q‖ {row.charge:.2g}") for way in ("up", "down"))
    assert (up, down) == (1, 1)
    order = re.findall("pulled (up|down)", page)
    assert order == (["up", "down"] if row.push > 0 else ["down", "up"])


def test_without_treescope_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "treescope", None)
    with pytest.raises(ImportError, match="pip install treescope"):
        plots.tree(*diagnosed())
