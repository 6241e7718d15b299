"""The runs behind the report: which there are, whether their results are still good, and making those that are missing.

A run is kept in a folder whose name ends with a hash of its options, of the code it depends on, and of the versions of
the libraries that compute. It is made in a hidden folder beside it and renamed when it is complete: an interruption
loses the runs of that moment only, and a folder with the right name is a finished run. Hidden folders that a kill
leaves behind may be deleted; so may the one of the compiled programs, which the runs share.
"""

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import Queue

from tqdm import tqdm

import noise_equilibrium as ne
from experiments._registry import STUDIES

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "diffrax",
    "optimistix",
    "lineax",
    "numpy",
    "scikit-learn",
    "matplotlib",
)
SETTINGS = ("JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL", "XLA_FLAGS")
# Some 40 % of a quick report is compilation. Data enter programs as arguments: another seed finds them compiled.
COMPILED = ".compiled"
WORTH_KEEPING = 0.1  # seconds of compilation; most programs take less, and would be thousands of files
SLOW = (
    "attention_charges",
    "real_networks",
    "rebalancing",
    "equalisation",
    "valley",
    "lora",
    "representations",
    "optimizers",
    "entropic",
    "platonic",
    "identities",
    "flat_or_sharp",
    "norm_growth",
    "neuron_charges",
    "pinning",
    "alignment",
    "deep_linear",
    "approximate_symmetry",
)
"""Started first, so that no long one is left for the end."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        name: of the study, with its variant.
        arguments: of the command line, after `python -m experiments`.
    """

    name: str
    arguments: tuple[str, ...]

    @property
    def study(self) -> str:
        """The name on the command line."""
        return self.arguments[0]

    @property
    def command(self) -> str:
        """What makes it."""
        return " ".join(("python -m experiments", *self.arguments))

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.name}-{key(self)}"


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run: what was run.
        folder: where its figure, data and metrics are.
        metrics: the entries of `metrics.json`.
        seconds: how long it took.
        machine: where it ran.
    """

    run: Run
    folder: Path
    metrics: list[dict]
    seconds: float
    machine: str


def all_runs(*, quick: bool, seed: int) -> list[Run]:
    """Every study once, `alignment` on both kinds of data."""
    options = (*(["--quick"] if quick else []), *(["--seed", str(seed)] if seed else []))
    found = [Run(name, (name, *options)) for name in STUDIES]
    return [*found, Run("alignment-digits", ("alignment", "--data", "digits", *options))]


def key(run: Run) -> str:
    """A hash of what decides the numbers of a run: options, code, libraries and settings of JAX; not the machine.

    Comments, docstrings and formatting do not count.
    """
    libraries, settings = [version(name) for name in LIBRARIES], [os.environ.get(name) for name in SETTINGS]
    digest = hashlib.sha256(repr((run.arguments, libraries, settings, sys.version_info[:2])).encode())
    for path in sources(run.study):
        digest.update(path.name.encode())
        digest.update(_meaning(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


@cache
def _meaning(source: str) -> str:
    """The syntax tree of a module without docstrings."""
    return ast.dump(_without_docstrings(ast.parse(source)))


def sources(study: str) -> list[Path]:
    """The modules a study depends on: its own, those of studies it imports, the frame, and the library."""
    waiting, packages = [study], set()
    while waiting:
        package = waiting.pop()
        packages.add(package)
        for path in (ROOT / "experiments" / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
                if len(parts) > 1 and parts[0] == "experiments" and parts[1] in STUDIES.keys() - packages:
                    waiting.append(parts[1])
    own = [path for package in packages for path in (ROOT / "experiments" / package).glob("*.py")]
    frame = [path for path in (ROOT / "experiments").glob("_[a-z]*.py") if path.name != "_registry.py"]
    return sorted([*own, *frame, *Path(ne.__file__).parent.rglob("*.py")])


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def load(run: Run, folder: Path) -> Result | None:
    """The run in its folder if it is finished, or None."""
    if not (folder / "made.json").exists():
        return None
    metrics, made = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metrics.json", "made.json"))
    return Result(run, folder, metrics, made["seconds"], made["machine"])


def make(
    runs: Iterable[Run], store: Path, workers: int, only: Container[str] = ()
) -> tuple[list[Result], dict[str, str]]:
    """Load what is there and run what is missing, several at once, each on a core of its own where that can be said.

    Args:
        runs: all of the report.
        store: the folder of their folders.
        workers: how many at once.
        only: studies to run; all if it is empty.

    Returns:
        The results in the order of `runs`, and for each run that broke off the end of what it printed.
    """
    runs, failures = list(runs), {}
    folders = {run.name: store / run.folder for run in runs}  # not in the threads: `ast` is not safe there on 3.11
    found = {run.name: load(run, folders[run.name]) for run in runs}
    missing = [run for run in runs if found[run.name] is None and (not only or run.study in only)]
    missing.sort(key=lambda run: SLOW.index(run.name) if run.name in SLOW else len(SLOW))
    cores: Queue[int | None] = Queue()
    for place in range(workers):
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        cores.put(available[place] if workers > 1 and place < len(available) else None)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(missing)) as bar:
        waiting = {pool.submit(_execute, run, folders[run.name], cores): run for run in missing}
        try:
            for done in as_completed(waiting):
                run, output = waiting[done], done.result()
                if failure := _keep(run, folders[run.name], output):
                    failures[run.name] = failure[-2000:]
                found[run.name] = load(run, folders[run.name])
                bar.set_postfix_str(f"{run.name} done")
                bar.update()
        except BaseException:  # an interruption: start no more
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [result for run in runs if (result := found[run.name]) is not None], failures


def _work(folder: Path) -> Path:
    """Where a run is made, beside the folder in which it is kept."""
    return folder.with_name(f".{folder.name}-{os.getpid()}")


def _execute(run: Run, folder: Path, cores: "Queue[int | None]") -> str:
    """Make a run in a process of its own; what it printed."""
    work, core = _work(folder), cores.get()
    try:
        shutil.rmtree(work, ignore_errors=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "experiments", *run.arguments, "--out", str(work.resolve())]
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str((folder.parent / COMPILED).resolve()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(WORTH_KEEPING),
        } | os.environ
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **streams) as process:
            if core is not None:
                with suppress(OSError):  # where cores cannot be assigned, the system shares them out
                    os.sched_setaffinity(process.pid, {core})
            output, _ = process.communicate()
        if process.returncode in (0, 1) and (work / "metrics.json").exists():  # 1: complete, but a metric failed
            machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
            made = {"seconds": round(time.monotonic() - start, 3), "machine": machine}
            (work / "made.json").write_text(json.dumps(made), encoding="utf-8")
        return output
    finally:
        cores.put(core)


def _keep(run: Run, folder: Path, output: str) -> str:
    """Move a run to its folder if it is complete and the code is still that of its name; else what went wrong."""
    work = _work(folder)
    if not (work / "made.json").exists():
        shutil.rmtree(work, ignore_errors=True)
        return output or "It printed nothing."
    if folder.name != run.folder:
        shutil.rmtree(work)
        return "The code changed while it ran; make the report again."
    try:
        work.rename(folder)
    except OSError as error:  # made by another report meanwhile, or something is in the way
        shutil.rmtree(work)
        return "" if load(run, folder) else str(error)
    return ""
