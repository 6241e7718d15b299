"""The program of a run: traced once for each value of the static axes, and compiled once for a batch of runs."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .._dynamics import chooses, unrolled
from .._jaxpr import programs_inside
from .._keys import IMPLEMENTATION
from .._work import Work, work_of
from ._axes import SEED, Axis
from ._results import Output, read_result
from ._run_key import derive

RUNS = "runs"
NEEDS_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class RunRaised(Exception):
    """`run` itself raised, at one point of the static axes.

    Attributes:
        reason: what it raised.
    """

    def __init__(self, reason: Exception):
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class Program:
    """One run as a traced program; the static axes have a value, the key and the float axes are inputs.

    Attributes:
        function: the program, of the arrays it closes over and its inputs.
        consts: the arrays it closes over.
        inputs: the forms of its inputs.
        outputs: what it returns.
        varies: for each coordinate among them the traced axes, `seed` among them, on which it may depend.
        convolves: whether it has convolutions, which many runs at once make grouped ones.
        plain: the same with one step in a turn of every loop, where it is another program.
    """

    function: Callable[..., list[Any]]
    consts: list[Any]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: tuple[Output, ...]
    varies: dict[str, frozenset[str]]
    convolves: bool = False
    plain: "Program | None" = None

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the program as it is lowered, and of the arrays it closes over.

        It is lowered for the CPU wherever the sweep runs, with one step in a turn of a loop however many there are
        then, and without the locations in source files.
        """
        if self.plain is not None:
            return self.plain.digest
        lowered = jax.jit(self.evaluate).trace(self.consts, *self.inputs).lower(lowering_platforms=("cpu",))
        state = hashlib.sha256(lowered.as_text().encode())
        for const in self.consts:
            array = np.asarray(_plain(const))
            state.update(f"{array.dtype}{array.shape}".encode())
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    def evaluate(self, consts: list[Any], key: Any, *numbers: Any) -> list[Any]:
        """The results of one run."""
        results = self.function(consts, key, *numbers)
        return [jnp.asarray(result, output.dtype) for result, output in zip(results, self.outputs, strict=True)]

    def constants(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values of outputs that depend on no input."""
        places = [place for place, output in enumerate(self.outputs) if output.name in names]

        def chosen(consts: list[Any]) -> list[Any]:
            zeros = [jnp.zeros(form.shape, form.dtype) for form in self.inputs[1:]]
            results = self.evaluate(consts, jax.random.key(0, impl=IMPLEMENTATION), *zeros)
            return [results[place] for place in places]

        values = jax.jit(chosen)(self.consts) if places else []
        return {self.outputs[place].name: np.asarray(value) for place, value in zip(places, values, strict=True)}

    def work(self, runs: int) -> Work:
        """What a batch of runs costs."""
        batch = jax.vmap(functools.partial(self.evaluate, self.consts))
        return work_of(jax.make_jaxpr(batch)(*(_several(form, runs) for form in self.inputs)).jaxpr)


def trace(
    run: Callable[..., Any], axes: tuple[Axis, ...], static: dict[str, Any], unroll: int | None = None
) -> Program:
    """Trace a run at one point of the static axes.

    Args:
        run: the function of the user.
        axes: the axes.
        static: the values of those that are compiled in.
        unroll: the steps in a turn of the loop of a run that does not say so itself; None to choose.

    Raises:
        ValueError: if the run needs the value of a traced number, or returns what a sweep cannot keep.
        RunRaised: if the run raises anything else.
    """
    with unrolled(unroll):
        program = _trace(run, axes, static)
    if not chooses(unroll):
        return program
    with unrolled(1):
        return replace(program, plain=_trace(run, axes, static))


def _trace(run: Callable[..., Any], axes: tuple[Axis, ...], static: dict[str, Any]) -> Program:
    traced = [axis.name for axis in axes if axis.is_traced]
    outputs: tuple[Output, ...] = ()

    def call(key: Any, *numbers: Any) -> list[Any]:
        nonlocal outputs
        point = static | dict(zip(traced, numbers, strict=True))
        try:
            result = run(key, **{axis.name: point[axis.name] for axis in axes})
        except NEEDS_VALUE:
            raise
        except Exception as error:
            raise RunRaised(error) from error
        outputs, arrays = read_result(result, axes)
        return arrays

    # Weakly typed, as a Python float is, so that a run computes in the precision of its parameters.
    number = jax.ShapeDtypeStruct((), jnp.result_type(float), weak_type=True)
    key = jax.eval_shape(lambda: jax.random.key(0, impl=IMPLEMENTATION))
    try:
        closed = jax.make_jaxpr(call)(key, *[number] * len(traced))
    except NEEDS_VALUE as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"run needs the value of a traced number{_at(static)}: the key and the float axes "
            f"({', '.join(traced) or 'none here'}) are traced, so that one program serves all their values. Branch "
            "with jnp.where or jax.lax.cond instead of if; for an axis that sets a shape or a choice use ints or "
            f"strings, which are compiled in. JAX says: {reason}"
        ) from error
    inputs = tuple(jax.ShapeDtypeStruct(form.shape, form.dtype) for form in (key, *[number] * len(traced)))
    function = functools.partial(jax.core.eval_jaxpr, closed.jaxpr)
    # Coordinates need little of a program, which is cheap to follow; what prints is kept too, and no need of theirs.
    pruned, _ = dce_jaxpr(closed.jaxpr, [output.is_coordinate for output in outputs], instantiate=True)
    coordinates = functools.partial(jax.core.eval_jaxpr, pruned, closed.consts)
    needs = {axis: depends(coordinates, inputs, place) for place, axis in enumerate((SEED, *traced))}
    names: list[str] = [output.name for output in outputs if output.is_coordinate]
    varies = {
        name: frozenset(axis for axis, found in needs.items() if found[place]) for place, name in enumerate(names)
    }
    return Program(function, list(closed.consts), inputs, outputs, varies, _convolves(closed.jaxpr))


def depends(function: Callable[..., list[Any]], inputs: Sequence[jax.ShapeDtypeStruct], place: int) -> list[bool]:
    """For each result of a function whether it may depend on one input: whether `vmap` along it gives an axis.

    JAX itself follows the input, through calls, loops, branches and whatever a later version has; what is printed or
    called back on the way does not count.
    """
    found: list[bool] = []

    @jax.custom_batching.custom_vmap
    def watched(results: list[Any]) -> list[Any]:
        return results

    @watched.def_vmap
    def _(size: int, has_axis: Any, results: list[Any]) -> Any:
        found.extend(has_axis[0])
        return results, has_axis[0]

    forms = [_several(form, 2) if at == place else form for at, form in enumerate(inputs)]
    axes = [0 if at == place else None for at in range(len(inputs))]
    results = jax.eval_shape(jax.vmap(lambda *values: watched(function(*values)), in_axes=axes), *forms)
    return found or [False] * len(results)  # the rule is not asked if nothing has the axis


def _convolves(jaxpr: Any) -> bool:
    """Whether a program has convolutions, at any depth."""
    return any(
        eqn.primitive.name == "conv_general_dilated" or any(map(_convolves, programs_inside(eqn))) for eqn in jaxpr.eqns
    )


def _at(point: dict[str, Any]) -> str:
    return f" at {point}" if point else ""


class Batch:
    """A program compiled for a number of runs, which are shared out over the local devices.

    Args:
        program: the program of one run.
        kept: the names of the outputs to return.
        size: the number of runs.
        in_turn: whether each device takes one run after the other, and not all of its runs at once.
    """

    def __init__(self, program: Program, kept: Sequence[str], size: int, in_turn: bool = False):
        # A device without a run would compute one that is thrown away.
        devices = jax.local_devices()[:size]
        self._places = [place for place, output in enumerate(program.outputs) if output.name in kept]
        self._outputs = [program.outputs[place] for place in self._places]
        self.size = size
        self._padded = -(-size // len(devices)) * len(devices)  # the same number of runs on every device
        mesh = Mesh(np.array(devices), (RUNS,))
        self._shared = NamedSharding(mesh, P(RUNS))
        # Inputs, so that data which `run` closes over are not compiled into every program.
        self._consts = jax.device_put(program.consts, NamedSharding(mesh, P()))

        def batch(consts: list[Any], keys: Any, numbers: list[Any]) -> Any:
            one = functools.partial(self._one, program)
            if in_turn:
                return jax.lax.map(lambda inputs: one(consts, *inputs), (keys, numbers))
            return jax.vmap(one, in_axes=(None, 0, 0))(consts, keys, numbers)

        if len(devices) > 1:
            # Each device runs its own part by itself; a partitioner might make them exchange arrays.
            specs = (P(), P(RUNS), P(RUNS))
            batch = jax.shard_map(batch, mesh=mesh, in_specs=specs, out_specs=P(RUNS), check_vma=False)
        number = jax.ShapeDtypeStruct((self._padded,), jnp.result_type(float), sharding=self._shared)
        self._compiled = (
            jax.jit(batch)
            .lower(
                self._consts,
                jax.ShapeDtypeStruct((self._padded, 2), jnp.uint32, sharding=self._shared),
                [number] * (len(program.inputs) - 1),
            )
            .compile()
        )

    def _one(self, program: Program, consts: list[Any], key: Any, numbers: list[Any]) -> Any:
        results = program.evaluate(consts, jax.random.wrap_key_data(key, impl=IMPLEMENTATION), *numbers)
        kept = [results[place] for place in self._places]
        diverged = jnp.zeros((), bool)
        for output, value in zip(self._outputs, kept, strict=True):
            if jnp.issubdtype(value.dtype, jnp.inexact) and not output.may_be_nan:
                diverged |= ~jnp.all(jnp.isfinite(value))
            elif output.name.rpartition(".")[2] == "diverged_at":
                diverged |= jnp.any(value >= 0)
        return kept, diverged

    def __call__(self, key: np.ndarray, words: np.ndarray, numbers: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The results of the runs, each with a leading axis of runs; `diverged` says which are not finite.

        Args:
            key: the data of the key of the sweep.
            words: (runs, 3) what is folded into it for each run.
            numbers: for each float axis the value in each run.
        """
        fill = np.minimum(np.arange(self._padded), self.size - 1)
        dtype = jnp.result_type(float)
        arguments = (
            jax.device_put(np.asarray(derive(key, words[fill])), self._shared),
            [jax.device_put(number[fill].astype(dtype), self._shared) for number in numbers],
        )
        kept, diverged = self._compiled(self._consts, *arguments)
        names = [output.name for output in self._outputs]
        results = dict(zip(names, kept, strict=True)) | {"diverged": diverged}
        return {name: np.asarray(value)[: self.size] for name, value in results.items()}


def _several(form: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    """The form of several inputs of a form."""
    return jax.ShapeDtypeStruct((count, *form.shape), form.dtype)


def _plain(const: Any) -> Any:
    """An array that NumPy can read; a key as its data."""
    is_key = isinstance(const, jax.Array) and jnp.issubdtype(const.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(const) if is_key else const
