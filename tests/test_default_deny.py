"""What a version of JAX may add to a known primitive is not known: it costs speed, and never a number.

Every rule of the kernel is given equations with a parameter too many, with a renamed one, and with values that it does
not understand. The results of these equations are not what they were, so a rule that overlooks it is wrong.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from look_alikes import with_look_alikes

import noise_equilibrium as ne
from noise_equilibrium._noise._reference import reference_moments
from noise_equilibrium._per_sample._activation_bytes import ESCAPED, FIXED, SAMPLE, bytes_per_sample
from noise_equilibrium._per_sample._rules import RULES
from noise_equilibrium._per_sample._tapped_loss import tap
from noise_equilibrium._work import work_of

N, TOKENS = 5, 3
WEIGHT = normal(2, 3, 4)
SAMPLES = (
    normal(3, N, 4),
    normal(4, N, 3),
    normal(5, N, TOKENS, 4),
    np.array([[0, 2], [1, 1], [2, 0], [0, 0], [1, 2]]),
)


class Sample(NamedTuple):
    x: Any  # (4,)
    y: Any  # (3,)
    xs: Any  # (TOKENS, 4)
    words: Any  # (2,)


class Spelling(NamedTuple):
    """A loss in which the weight meets the primitive of a rule first.

    Attributes:
        output: of w and a sample.
        weight: w.
        spelled: the primitive that stands in the program, where no function of JAX makes that of the rule.
        parameters: those of the rule, from those of the primitive that stands there.
        relative: the error to expect.
    """

    output: Callable[[Any, Any], Any]
    weight: Any = WEIGHT
    spelled: str | None = None
    parameters: Callable[[dict[str, Any]], dict[str, Any]] = lambda params: params
    relative: float = 1e-12


def made_of(change: Callable[[Any], Any], weight: Any = WEIGHT, **more: Any) -> Spelling:
    """The weight is passed through a function before its product."""
    return Spelling(lambda w, z: jnp.squeeze(change(w) @ z.x), weight, **more)


def one_device() -> NamedSharding:
    return NamedSharding(jax.make_mesh((1,), ("there",), axis_types=(AxisType.Auto,)), P())


SPELLINGS: dict[str, Spelling] = {
    "transpose": Spelling(lambda w, z: z.x @ jax.lax.transpose(w, (1, 0))),
    "reshape": made_of(lambda w: jax.lax.reshape(w, (1, 3, 4))),
    "squeeze": made_of(lambda w: jax.lax.squeeze(w, (0,)), WEIGHT[None]),
    "broadcast_in_dim": made_of(lambda w: jax.lax.broadcast_in_dim(w, (1, 3, 4), (1, 2))),
    "convert_element_type": made_of(
        lambda w: jax.lax.convert_element_type(w, jnp.float64), WEIGHT.astype(np.float32), relative=1e-5
    ),
    "copy": made_of(lambda w: jnp.array(w, copy=True)),
    "sharding_constraint": made_of(lambda w: jax.lax.with_sharding_constraint(w, one_device())),
    "optimization_barrier": made_of(jax.lax.optimization_barrier),
    "add": made_of(lambda w: jax.lax.add(w, np.ones((3, 4)))),
    "add_any": made_of(lambda w: jax.lax.add(w, np.ones((3, 4))), spelled="add"),
    "sub": made_of(lambda w: jax.lax.sub(w, np.ones((3, 4)))),
    "neg": made_of(jax.lax.neg),
    "mul": made_of(lambda w: jax.lax.mul(w, np.float64(3.0))),
    "div": made_of(lambda w: jax.lax.div(w, np.float64(3.0))),
    "slice": made_of(lambda w: jax.lax.slice(w, (0, 0), (3, 4)), normal(2, 5, 4)),
    "split": made_of(lambda w: jax.lax.split(w, (3, 2), axis=0)[0], normal(2, 5, 4)),
    "concatenate": made_of(lambda w: jax.lax.concatenate([w, np.ones((1, 4))], 0), normal(2, 2, 4)),
    "rev": made_of(lambda w: jax.lax.rev(w, (0,))),
    "dot_general": made_of(lambda w: w),
    "gather": Spelling(lambda w, z: jnp.sum(w[z.words], axis=0)[:3]),
    "dynamic_slice": Spelling(lambda w, z: jax.lax.dynamic_slice(w, (z.words[0], 0), (1, 4))[0, :3]),
    "conv_general_dilated": Spelling(
        lambda w, z: jax.lax.conv_general_dilated(z.x[None, None], w, (1,), ((0, 0),))[0, :, 0], normal(2, 3, 1, 2)
    ),
    "jit": Spelling(jax.jit(lambda w, z: w @ z.x)),
    "closed_call": Spelling(
        jax.jit(lambda w, z: w @ z.x), spelled="jit", parameters=lambda params: {"call_jaxpr": params["jaxpr"]}
    ),
    "remat2": Spelling(jax.checkpoint(lambda w, z: w @ z.x)),
    "scan": Spelling(lambda w, z: jnp.sum(jax.lax.scan(lambda c, x: (c + 1.0, w @ x), 0.0, z.xs)[1], axis=0)),
}
SYMMETRY = ne.Symmetry([ne.Leg(leaf("w"), 0, 1)], "diagonal")


def loss_of(name: str) -> Callable[[Any, Any], Any]:
    return lambda p, z: squared(SPELLINGS[name].output(p["w"], Sample(*z)), z[1])


def problem_with(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> tuple[ne.Problem, dict[str, Any]]:
    """The problem in which the equation of a rule has changed parameters, and results."""
    spelling = SPELLINGS[name]
    params = {"w": spelling.weight}
    loss = with_look_alikes(
        loss_of(name),
        (params, jax.tree.map(lambda x: x[0], SAMPLES)),
        spelling.spelled or name,
        lambda given: change(spelling.parameters(given)),
        name,
    )
    return ne.Problem(loss, SAMPLES), params


def assert_denied(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    problem, params = problem_with(name, change)
    tapped = tap(problem, params, [0])
    assert (tapped.uses, tapped.culprits) == ((), (name,))


def parameters_of(name: str) -> list[str]:
    """The names that an equation of this primitive has in the installed version of JAX."""
    spelling = SPELLINGS[name]
    sample = jax.tree.map(lambda x: x[0], SAMPLES)
    program = jax.make_jaxpr(loss_of(name))({"w": spelling.weight}, sample)
    (first, *_) = (eqn for eqn in program.eqns if eqn.primitive.name == (spelling.spelled or name))
    return sorted(spelling.parameters(dict(first.params)))


def test_every_rule_is_put_to_the_test():
    assert SPELLINGS.keys() == RULES.keys()


@pytest.mark.parametrize("name", SPELLINGS)
def test_equations_as_they_are_take_the_fast_path(name):
    """So that what is denied below is not denied for another reason."""
    spelling = SPELLINGS[name]
    tapped = tap(ne.Problem(loss_of(name), SAMPLES), {"w": spelling.weight}, [0])
    assert (len(tapped.uses), tapped.escaped) == (1, ())


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_parameter_too_many_is_denied_and_the_numbers_stay_right(name):
    change = lambda params: params | {"later": True}  # noqa: E731
    assert_denied(name, change)
    problem, params = problem_with(name, change)
    fast = ne.noise_moments(problem, params, SYMMETRY)
    slow = jax.jit(reference_moments, static_argnums=2)(problem, params, SYMMETRY)
    for ours, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SPELLINGS[name].relative * np.max(np.abs(theirs)))


BARE = {"add", "add_any", "sub", "neg", "div", "copy", "optimization_barrier"}  # equations without parameters


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name not in BARE])
def test_a_renamed_parameter_is_denied(name):
    names = parameters_of(name)
    assert names
    for old in names:

        def change(params: dict[str, Any], old: str = old) -> dict[str, Any]:
            return {name + "_renamed" if name == old else name: value for name, value in params.items()}

        assert_denied(name, change)


def with_another_field(numbers: Any) -> Any:
    """Dimension numbers with a field that is not known."""
    fields = numbers._asdict() | {"later": ()}
    return NamedTuple("Numbers", [(field, Any) for field in fields])(**fields)


# For each rule the parameters that are known at certain values only, and others.
NOT_UNDERSTOOD: dict[str, dict[str, Callable[[Any], Any]]] = {
    "reshape": {"dimensions": lambda _: (1, 0), "sharding": lambda _: one_device()},
    "broadcast_in_dim": {"sharding": lambda _: one_device()},
    "convert_element_type": {"sharding": lambda _: one_device()},
    "mul": {"out_dtype": lambda _: np.dtype(np.float32)},
    "dot_general": {
        "preferred_element_type": lambda _: np.dtype(np.int32),
        "out_sharding": lambda _: one_device(),
        "dimension_numbers": lambda numbers: (*numbers, ()),
    },
    "gather": {
        "dimension_numbers": with_another_field,
        "mode": lambda _: "later",
    },
    "conv_general_dilated": {
        "dimension_numbers": with_another_field,
        "feature_group_count": lambda _: 2,
        "batch_group_count": lambda _: 2,
        "preferred_element_type": lambda _: np.dtype(np.int32),
        "out_sharding": lambda _: one_device(),
        "padding": lambda _: "SAME",
        "window_strides": lambda _: (1, 1),
    },
    "jit": {"compiler_options_kvs": lambda _: (("later", True),), "jaxpr": lambda _: None},
    "remat2": {"prevent_cse": lambda _: (True, False), "jaxpr": lambda _: None},
    "scan": {"length": lambda _: None, "jaxpr": lambda _: None},
}


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, parameter) for name, values in NOT_UNDERSTOOD.items() for parameter in values]
)
def test_a_value_that_is_not_understood_is_denied(name, parameter):
    value = NOT_UNDERSTOOD[name][parameter]
    assert_denied(name, lambda params: params | {parameter: value(params[parameter])})


def test_batched_look_ups_are_denied():
    """A gather with batching dimensions takes one row of each matrix: its index has an axis of the parameter."""

    def loss(p, z):
        numbers = jax.lax.GatherDimensionNumbers(
            offset_dims=(1,),
            collapsed_slice_dims=(1,),
            start_index_map=(1,),
            operand_batching_dims=(0,),
            start_indices_batching_dims=(0,),
        )
        return jnp.sum(jax.lax.gather(p["w"], z[:, None], numbers, (1, 1, 4)) ** 2)

    tapped = tap(ne.Problem(loss, np.array([[0, 2], [1, 1]])), {"w": normal(2, 2, 3, 4)}, [0])
    assert tapped.culprits == ("gather",)


def test_rematerialisation_of_some_inputs_is_denied():
    """`prevent_cse` for each input of the body: taps are further inputs."""
    loss = lambda p, z: squared(jax.checkpoint(lambda w, x: w @ x, prevent_cse=(True, False))(p["w"], z[0]), z[1])  # noqa: E731
    problem = ne.Problem(loss, SAMPLES[:2])
    fast = ne.noise_moments(problem, {"w": WEIGHT}, SYMMETRY)
    slow = reference_moments(problem, {"w": WEIGHT}, SYMMETRY)
    np.testing.assert_allclose(fast.noise_plus, slow.noise_plus, rtol=1e-12)


# --- the other readers of programs -----------------------------------------------------------------------------------


def program_with(function: Callable[..., Any], example: tuple[Any, ...], name: str, **more: Any) -> Any:
    return jax.make_jaxpr(with_look_alikes(function, example, name, lambda params: params | more))(*example).jaxpr


def test_work_of_a_product_that_is_spelled_in_another_way_is_not_less():
    function, example = (lambda x, y: jnp.sum(x @ y)), (jnp.zeros((3, 4)), jnp.zeros((4, 5)))
    known = work_of(jax.make_jaxpr(function)(*example).jaxpr)
    renamed = with_look_alikes(function, example, "dot_general", lambda params: {"numbers": 0})
    assert work_of(jax.make_jaxpr(renamed)(*example).jaxpr).operations >= known.operations


def test_work_of_a_loop_of_unknown_length_is_more_than_that_of_one_turn():
    function, example = (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=7)[0]), (jnp.zeros(100),)
    known = work_of(jax.make_jaxpr(function)(*example).jaxpr)
    renamed = with_look_alikes(
        function, example, "scan", lambda params: {"turns" if k == "length" else k: v for k, v in params.items()}
    )
    assert work_of(jax.make_jaxpr(renamed)(*example).jaxpr).operations >= known.operations


@pytest.mark.parametrize("name", ["jit", "scan"])
def test_memory_inside_an_unknown_call_makes_chunks_smaller_never_larger(name):
    def function(x):
        if name == "scan":
            return jnp.sum(jax.lax.scan(lambda c, v: (c, jnp.sum(jnp.sin(v))), 0.0, x)[1])
        return jax.jit(lambda x: jnp.sum(jnp.sin(x)))(x)

    example = (jnp.zeros((7, 9)),)
    plain = jax.make_jaxpr(function)(*example).jaxpr
    unknown = program_with(function, example, name, later=True)
    inside = 7 * 9 * 8  # of sin(x)
    for depends in (SAMPLE, ESCAPED):
        assert bytes_per_sample(plain, [depends])[depends == ESCAPED] >= inside
    assert bytes_per_sample(unknown, [SAMPLE])[0] < inside
    assert bytes_per_sample(unknown, [ESCAPED])[1] >= bytes_per_sample(plain, [ESCAPED])[1]
    assert bytes_per_sample(unknown, [FIXED])[:2] == (0, 0)
