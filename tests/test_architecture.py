"""The shape of the package: its public names, which room may import which, and what an import does."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import noise_equilibrium as ne

PACKAGE = Path(ne.__file__).parent

# Names and parameters that programs outside rely on.
SIGNATURES = {
    "Problem": "loss data weight_decay",
    "Stream": "draw",
    "Redrawn": "data redraw",
    "flatten": "params",
    "Leg": "where axis power blocks",
    "Symmetry": "legs algebra",
    "scaling": "wheres",
    "rescaling": "up down",
    "neuron_rescaling": "up down",
    "double_rotation": "left right blocks",
    "exponential_symmetry": "A",
    "noise_moments": "problem params symmetry",
    "gradient_covariance": "problem params batch_size replacement",
    "sample_noise": "problem params key batch_size replacement",
    "noether_flow": "problem params symmetry noise_scale",
    "expected_charge_step": "problem params symmetry dynamics",
    "relaxation_rates": "problem params symmetry noise_scale",
    "measure": "problem params symmetry gradient",
    "find_equilibrium": "problem params symmetry law throw",
    "move_along": "problem params symmetries objective",
    "gradient_noise_scale": "problem params",
    "rebalance": "loss symmetries every to dynamics weight_decay optimizer state",
    "find_symmetries": "problem params key frozen",
    "pinning": "problem params symmetry law",
    "rest_on_orbit": "problem params symmetry law steps",
    "predict": "problem params symmetry law steps tolerance throw",
    "orbit_flow": "problem params symmetry law times",
    "time_scales": "problem params symmetry law method",
    "SGD": "learning_rate batch_size replacement",
    "GD": "learning_rate",
    "SDE": "learning_rate batch_size dt",
    "GradientFlow": "dt",
    "Momentum": "learning_rate momentum batch_size replacement nesterov",
    "Preconditioned": "learning_rate batch_size plus minus replacement",
    "Optax": "optimizer batch_size replacement",
    "simulate": "problem dynamics params steps key observe every progress",
    "check_symmetry": "problem params symmetry order",
    "valley_drift": "problem params dynamics method key",
    "settle": "problem params symmetry dynamics throw",
    "entropic_loss": "problem params dynamics",
    "EntropicFlow": "dt of",
    "sweep": "run axes seeds key store executor progress unit",
    "run_key": "key seed point",
    "labelled": "value dims coords",
}
MEMBERS = {
    "Problem": ["risk", "sampled"],
    "Symmetry": ["charge", "act", "generator"],
    "Moments": ["weight_plus", "weight_minus", "noise_plus", "noise_minus", "mean_plus", "mean_minus"],
    "Status": ["CONVERGED", "LIMIT", "DIVERGES", "NO_NOISE", "NOT_CONVERGED", "NON_FINITE_INPUT"],
}
FIELDS = {
    "Equilibrium": {"params", "element", "residual", "status", "sweeps"},
    "Settled": {"params", "element", "turning", "residual", "status"},
    "ValleyMotion": {"velocity", "diffusion", "error"},
    "Trajectory": {"params", "step", "time", "observed", "diverged_at"},
}

# From the ground up: a room imports rooms of a lower floor only.
FLOORS = [
    {"_meshes", "_validate"},
    {"_budget", "_jaxpr", "_numbers", "_keys", "_parameters", "_double", "_linalg", "_minibatch"},
    {"_inputs", "_random"},
    {"_population"},
    {"_problem"},
    {"_group"},
    {"_symmetry"},
    {"_discovery"},
    {"_per_sample"},
    {"_noise"},
    {"_flow"},
    {"_equilibrium"},
    {"_dynamics"},
    {"_valley"},
    {"_training", "_sweep"},
]
# Imported by no room, and the highest floor that each may look down to.
LEAVES = {"models": "_symmetry", "data": "_symmetry", "exact": "_noise"}
BESIDE = {("exact", "models")}  # closed forms come in the form of the models' parameters
TOP = {"plots", "_citation"}  # imported by no room: what draws, and what cites, all of them


def floor(room: str) -> int:
    return next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, absolute, at its top or inside a function."""
    found = set()
    parts = ("noise_equilibrium", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*parts[: len(parts) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
INSIDE = [name for name in MODULES if name != "__init__.py"]


@pytest.mark.parametrize("name", INSIDE)
def test_imports_between_rooms_run_one_way(name):
    room = room_of(MODULES[name])
    targets = {target.split(".")[1] for target in imports_of(MODULES[name]) if target.startswith("noise_equilibrium.")}
    others = targets - {room}
    others -= {other for other in others if (room, other) in BESIDE}
    assert not others & (LEAVES.keys() | TOP), "models, data, exact and plots are for users, not for rooms"
    assert "__init__" not in others
    if room in TOP:
        return
    highest = floor(LEAVES[room]) + 1 if room in LEAVES else floor(room)
    assert {other for other in others if floor(other) >= highest} == set()


@pytest.mark.parametrize("name", list(MODULES))
def test_the_package_imports_no_experiments_and_draws_only_in_plots(name):
    roots = {target.split(".")[0] for target in imports_of(MODULES[name])}
    assert not roots & {"experiments", "tests", "pytest"}
    assert "matplotlib" not in roots or room_of(MODULES[name]) == "plots"


# What an equation of a program means changes between versions of JAX, so one room has all that depends on it. `_double`
# defines an operation of its own; `_random` rewrites the programs of samplers.
READS_PROGRAMS = ("_per_sample/", "_jaxpr.py", "_double.py", "_random/_rewrite.py", "_random/_rows.py")


@pytest.mark.parametrize("name", list(MODULES))
def test_one_room_reads_programs(name):
    names = imports_of(MODULES[name])
    assert not {target for target in names if target.startswith("jax._src")}
    if not name.startswith(READS_PROGRAMS):
        assert not {target for target in names if target.startswith("jax.extend")}


def test_every_room_is_known():
    rooms = {room_of(path) for path in MODULES.values()} - {"__init__"}
    assert rooms <= set().union(*FLOORS) | LEAVES.keys() | TOP


# --- public names ----------------------------------------------------------------------------------------------------


def test_public_names_are_listed_once_and_exist():
    assert len(set(ne.__all__)) == len(ne.__all__)
    assert [name for name in ne.__all__ if not hasattr(ne, name)] == []


@pytest.mark.parametrize("name", SIGNATURES)
def test_fixed_names_keep_their_parameters(name):
    assert name in ne.__all__
    assert list(inspect.signature(getattr(ne, name)).parameters) == SIGNATURES[name].split()


def test_fixed_defaults():
    defaults = {
        (name, p.name): p.default
        for name in SIGNATURES
        for p in inspect.signature(getattr(ne, name)).parameters.values()
        if p.default is not inspect.Parameter.empty
    }
    assert defaults == {
        ("Problem", "weight_decay"): 0.0,
        ("Leg", "axis"): None,
        ("Leg", "power"): 1,
        ("Leg", "blocks"): 1,
        ("double_rotation", "blocks"): 1,
        ("gradient_covariance", "batch_size"): 1,
        ("gradient_covariance", "replacement"): True,
        ("sample_noise", "batch_size"): 1,
        ("sample_noise", "replacement"): True,
        ("SGD", "replacement"): True,
        ("SDE", "dt"): None,
        ("Momentum", "replacement"): True,
        ("Momentum", "nesterov"): False,
        ("Preconditioned", "plus"): None,
        ("Preconditioned", "minus"): None,
        ("Preconditioned", "replacement"): True,
        ("rest_on_orbit", "steps"): 256,
        ("Optax", "replacement"): True,
        ("measure", "gradient"): False,
        ("find_equilibrium", "throw"): False,
        ("find_symmetries", "key"): None,
        ("find_symmetries", "frozen"): None,
        ("predict", "throw"): False,
        ("rebalance", "dynamics"): None,
        ("rebalance", "optimizer"): None,
        ("rebalance", "state"): "move",
        ("rebalance", "to"): "noise",
        ("rebalance", "weight_decay"): 0.0,
        ("predict", "steps"): 2000,
        ("predict", "tolerance"): 1e-3,
        ("check_symmetry", "order"): 1,
        ("valley_drift", "method"): None,
        ("valley_drift", "key"): None,
        ("settle", "throw"): False,
        ("simulate", "key"): None,
        ("simulate", "progress"): False,
        ("simulate", "observe"): None,
        ("simulate", "every"): 1,
        ("time_scales", "method"): "auto",
        ("sweep", "store"): None,
        ("sweep", "executor"): None,
        ("sweep", "progress"): True,
        ("sweep", "unit"): None,
    }


@pytest.mark.parametrize(("name", "member"), [(name, m) for name, members in MEMBERS.items() for m in members])
def test_fixed_members(name, member):
    assert hasattr(getattr(ne, name), member)


@pytest.mark.parametrize("name", FIELDS)
def test_fixed_fields_of_results(name):
    assert set(getattr(ne, name).__dataclass_fields__) >= FIELDS[name]


def public_objects() -> dict[str, object]:
    """Every public function and class, and the public methods and properties of the classes."""
    objects = {}
    models = [getattr(ne.models, name) for name in ne.models.__all__]
    for space in (ne, ne.models, *models, ne.data, ne.exact):
        names = getattr(space, "__all__", [n for n in vars(space) if not n.startswith("_")])
        for name in names:
            value = getattr(space, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if not value.__module__.startswith("noise_equilibrium"):
                continue
            objects[f"{space.__name__}.{name}"] = value
            for attribute, member in vars(value).items() if inspect.isclass(value) else ():
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    objects[f"{space.__name__}.{name}.{attribute}"] = getattr(value, attribute)
    return objects


def test_everything_public_has_a_docstring():
    assert [name for name, value in public_objects().items() if not (inspect.getdoc(value) or "").strip()] == []


# --- what an import does ---------------------------------------------------------------------------------------------


def test_import_configures_nothing_and_loads_no_plotting():
    code = """
import sys
import jax
before = dict(jax.config.values)
import noise_equilibrium
assert dict(jax.config.values) == before, "the configuration of JAX changed"
assert not jax.config.jax_enable_x64
heavy = {"xarray", "zarr", "pandas", "dask", "distributed", "submitit"}
loaded = ({"matplotlib", "sklearn", "tqdm", "experiments", "pytest"} | heavy) & set(sys.modules)
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
