"""What `explain` says, and whether it is true: the paths, the costs, and what the compiled program holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne
from noise_equilibrium._noise import measured_moments
from noise_equilibrium._per_sample import _chunks

PARAMS = {"u": normal(1, 7, 11), "w": normal(2, 11, 13), "b": normal(3, 11), "g": normal(4, 2, 2)}
DATA = (normal(5, 40, 13), normal(6, 40, 7))
ROTATION = ne.double_rotation(leaf("u"), leaf("w"))
NEURONS = ne.neuron_rescaling((leaf("u"), 1), [(leaf("w"), 0), (leaf("b"), 0)])


def net(p, z):
    return squared(p["u"] @ jnp.tanh(p["w"] @ z[0] + p["b"]), z[1])


def test_paths_culprits_and_counts():
    def loss(p, z):
        return net(p, z) + squared(p["u"] @ (p["w"] @ z[0] ** 2), z[1]) + jnp.sum(z[0]) * jnp.sum(jnp.sin(p["g"]))

    symmetries = [ROTATION, NEURONS, ne.scaling(leaf("g"))]
    found = ne.explain(ne.Problem(loss, DATA), PARAMS, symmetries)
    assert [(leg.name, leg.path, leg.uses, leg.positions, leg.culprit) for leg in found.legs] == [
        ("params['u']", "factors", 2, 2, None),
        ("params['w']", "factors", 2, 2, None),
        ("params['u']", "factors", 2, 2, None),
        ("params['w']", "factors", 2, 2, None),
        ("params['b']", "tapped", 0, 1, "add"),
        ("params['g']", "tapped", 0, 1, "sin"),
    ]
    assert (found.samples, found.chunk) == (40, 40)
    table = str(found).splitlines()
    assert table[0].split()[:2] == ["parameter", "path"]
    assert "because of" in table[0]
    assert table[6].endswith("sin")
    assert "of a full-batch gradient" in table[-1]


def test_an_ignored_parameter_and_a_full_matrix_are_named():
    problem = ne.Problem(net, DATA)
    with pytest.warns(UserWarning, match=r"does not depend on params\['g'\], so there is no gradient noise there"):
        found = ne.explain(problem, PARAMS, ne.scaling(leaf("g"), leaf("u")))
    assert [leg.path for leg in found.legs] == ["ignored", "factors"]
    size = ne.flatten(PARAMS)[0].size
    found = ne.explain(problem, PARAMS, ne.exponential_symmetry(np.eye(size)))
    assert [(leg.name, leg.path) for leg in found.legs] == [("params", "full")]
    assert found.flops > 40 * 2 * size**2


def test_mixed_uses_are_summed_up():
    """v is used as a matrix and entry by entry: two sets of factors, which only their sum brings together."""
    problem = ne.Problem(
        lambda p, z: squared(p["v"] @ z[0] + jax.vmap(jnp.dot)(p["v"], z[1]), z[0]),
        (normal(3, 5, 3), normal(4, 5, 3, 3)),
    )
    (leg,) = ne.explain(problem, {"v": normal(6, 3, 3)}, ne.scaling()).legs
    assert (leg.path, leg.uses) == ("summed", 2)


@pytest.mark.parametrize("symmetry", [ROTATION, NEURONS], ids=["rotation", "neurons"])
def test_the_flops_are_those_of_the_compiler(symmetry):
    """Within a fifth: the estimate leaves out what is linear in the activations, and the compiler what it removes."""
    problem = ne.Problem(net, (normal(5, 512, 13), normal(6, 512, 7)))
    found = ne.explain(problem, PARAMS, symmetry)
    bound = (symmetry.bind(PARAMS),)
    compiled = (
        jax.jit(lambda p, d: measured_moments(ne.Problem(net, d), p, bound)).lower(PARAMS, problem.data).compile()
    )
    np.testing.assert_allclose(found.flops, compiled.cost_analysis()["flops"], rtol=0.2)


def shapes_inside(jaxpr):
    """The shapes of all values of a program, and of the programs inside it."""
    for eqn in jaxpr.eqns:
        yield from (var.aval.shape for var in eqn.outvars)
        for inner in eqn.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from shapes_inside(inner)


@pytest.mark.parametrize("algebra", ["scalar", "diagonal", "symmetric"])
def test_an_algebra_computes_only_what_it_needs(algebra):
    """11 is the length of the axis alone: a d × d Gram shows as a shape (11, 11), a diagonal as (11,)."""
    legs = [ne.Leg(leaf("u"), 1, +1), ne.Leg(leaf("w"), 0, -1)]
    bound = ne.Symmetry(legs, algebra).bind(PARAMS)
    jaxpr = jax.make_jaxpr(lambda p, d: measured_moments(ne.Problem(net, d), p, (bound,)))(PARAMS, DATA)
    squares = [shape for shape in shapes_inside(jaxpr.jaxpr) if shape.count(11) >= 2]
    assert bool(squares) == (algebra == "symmetric")
    # And never a gradient of a single sample: no value has both axes of a weight and the samples.
    axes = {7, 11, 13}
    assert [s for s in shapes_inside(jaxpr.jaxpr) if 40 in s and sum(n in axes for n in s) >= 2] == []


def deep_parameter_of_a_function(p, z):
    """Weights that are made by a function no path understands, in a net with tokens."""
    return squared(p["u"] @ jnp.tanh(jnp.sin(p["w"]) @ z[0]), z[1])


def test_memory_stays_within_the_estimate(monkeypatch):
    """What the compiled program holds, against what `explain` says, with and without chunks."""
    data = (normal(5, 600, 13), normal(6, 600, 7))
    for most in (2**26, 2**17):
        monkeypatch.setattr(_chunks, "CHUNK_BYTES", most)

        def loss(p, z):  # anew, so that the other size of chunks is not found again
            return deep_parameter_of_a_function(p, z)

        found = ne.explain(ne.Problem(loss, data), PARAMS, ROTATION)
        program = jax.jit(lambda p, d, loss=loss: ne.noise_moments(ne.Problem(loss, d), p, ROTATION))
        held = program.lower(PARAMS, data).compile().memory_analysis().temp_size_in_bytes
        assert (found.chunk < 600) == (most == 2**17)
        assert found.bytes / 4 < held < found.bytes * 1.1 + 2**17
