"""A run on disk: saved whole or not at all, and loaded into the form that the program gives it."""

import json
import os
import uuid
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ._observables import AbstractSummary
from ._simulate import Trajectory

FORMAT = 1


def save_run(path: str | PathLike[str], trajectory: Trajectory) -> None:
    """Write a run to a file, all of it or nothing: a process that is killed on the way leaves the file that was there.

    Args:
        path: the file; one that is there is replaced. Its folder must exist.
        trajectory: of `simulate` or `resume`.

    Raises:
        ValueError: for anything else than a trajectory, and inside `jit`, where it has no numbers.

    `load_run` reads it, and `resume` goes on from it, to the last bit as if nothing had been in between. Functions in a
    pytree of parameters, such as those of a module, are not written. What a file system forgets when the power fails is
    what it has not promised to keep: the file is handed to the disk before it gets its name.
    """
    if not isinstance(trajectory, Trajectory):
        raise ValueError(f"trajectory is {type(trajectory).__name__}; expected what simulate or resume returned.")
    leaves = _arrays(trajectory)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves.values()):
        raise ValueError("the trajectory is traced; expected a call outside of jit and vmap, where it has numbers.")
    values = {name: np.asarray(_plain(leaf)) for name, leaf in leaves.items()}
    header = {"format": FORMAT, "dtypes": {name: str(leaf.dtype) for name, leaf in leaves.items()}}
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            # Under numbers: the names of leaves may hold what no archive allows.
            np.savez(
                file,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                **{str(place): _bits(value) for place, value in enumerate(values.values())},  # pyright: ignore
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_run(path: str | PathLike[str], like: Trajectory) -> Trajectory:
    """Read a run that `save_run` wrote.

    Args:
        path: the file.
        like: a run of the same problem, dynamics and observables, of any number of steps: 0 are enough,
            `simulate(problem, dynamics, params, 0, key=key, observe=observe)`. It gives the form, and no number.

    Returns:
        The `Trajectory`, to the last bit.

    Raises:
        ValueError: for a file that is no such run, and for one whose parameters, state or observables have other names,
            shapes or dtypes than those of `like`, which are named.

    Not checked: that problem and dynamics are those of the run; `resume` would go on with those it is given.

    Examples:
        >>> import tempfile, jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda w, z: (w - z) ** 2 / 2, jnp.array([1.0, 3.0]))
        >>> start = ne.simulate(problem, ne.GD(0.5), jnp.array(0.0), 0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ne.save_run(f"{folder}/run", ne.resume(problem, ne.GD(0.5), start, 2))
        ...     half = ne.load_run(f"{folder}/run", start)
        >>> float(half.params), float(ne.resume(problem, ne.GD(0.5), half, 2).params)
        (1.5, 1.875)
    """
    if not isinstance(like, Trajectory):
        raise ValueError(f"like is {type(like).__name__}; expected what simulate or resume returned.")
    path = Path(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            saved = {name: file[str(place)] for place, name in enumerate(header["dtypes"])}
            written = header["format"]
    # What NumPy, zip and JSON say of a file that is cut, damaged or of another kind; a file that may not be read is
    # another matter, and its error passes.
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no run that save_run wrote, or is damaged: {error}") from error
    if written != FORMAT:
        raise ValueError(f"{path} has the format {written!r} and this version reads {FORMAT!r}.")
    expected, dtypes, records = _arrays(like), header["dtypes"], _records(like)
    said = [f"{name} is there and was not expected" for name in dtypes if name not in expected]
    said += [f"{name} is missing" for name in expected if name not in dtypes]
    for name in expected.keys() & dtypes.keys():
        leaf, found = expected[name], saved[name]
        shape = np.shape(_plain(leaf))
        # A run may have any number of records, on one axis: the first, or one behind those of vmap.
        axes = range(len(shape)) if name in records and found.ndim == len(shape) else ()
        fits = found.shape == shape or any(
            np.delete(found.shape, at).tolist() == np.delete(shape, at).tolist() for at in axes
        )
        if not fits or dtypes[name] != str(leaf.dtype):
            said.append(f"{name} is {dtypes[name]} {found.shape} and {leaf.dtype} {shape} was expected")
    if said:
        raise ValueError(
            f"{path} is a run of another form than like: {'; '.join(sorted(said)[:5])}. Expected the same problem, "
            "dynamics, parameters, observables and precision."
        )
    leaves = {name: _restored(saved[name], leaf) for name, leaf in expected.items()}
    return jax.tree_util.tree_map_with_path(lambda at, leaf: leaves.get(_name(at), leaf), like)


def _arrays(tree: Any) -> dict[str, Any]:
    """The arrays of a pytree by where they are."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(at): leaf for at, leaf in found if eqx.is_array(leaf)}


def _name(at: Any) -> str:
    return jax.tree_util.keystr(at)


def _records(like: Trajectory) -> set[str]:
    """The leaves with a row for each record, of which a run may have any number."""
    rows = {name: one for name, one in like.observed.items() if not isinstance(one, AbstractSummary)}
    return {".step", ".time", *(f".observed{name}" for name in _arrays(rows))}


def _plain(leaf: Any) -> Any:
    """A key as its data."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _bits(value: np.ndarray) -> np.ndarray:
    """An array of a dtype that NumPy can write: one of its own, or the bits of another, such as bfloat16."""
    return value if value.dtype.isbuiltin == 1 else value.view(f"u{value.dtype.itemsize}")


def _restored(value: np.ndarray, like: Any) -> Any:
    """The array in its own dtype."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return jnp.asarray(value if value.dtype == like.dtype else value.view(like.dtype))
