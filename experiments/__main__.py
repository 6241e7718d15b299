"""The command line: `python -m experiments NAME [--quick] [--seed N] [--out DIR] [--devices N]`."""

import sys

import jax
import tyro

from experiments._metrics import table
from experiments._registry import STUDIES
from experiments.demo import Demo
from experiments.report import Report

EXPERIMENTS = dict(sorted({**STUDIES, "demo": Demo, "report": Report}.items()))


def use_devices(arguments: list[str]) -> list[str]:
    """Take `--devices N` out of a command line, and make JAX see N devices on the CPU; before it computes anything.

    Raises:
        SystemExit: if N is no positive integer.
    """
    if "--devices" not in arguments:
        return arguments
    place = arguments.index("--devices")
    number = next(iter(arguments[place + 1 :]), "")
    if not number.isdecimal() or int(number) < 1:
        raise SystemExit(f"error: --devices {number}: expected a number of devices, at least 1.")
    jax.config.update("jax_num_cpu_devices", int(number))
    return arguments[:place] + arguments[place + 2 :]


def main() -> int:
    """Run one experiment; 0 if every metric passed, 1 if one failed, 2 if it could not start."""
    sys.argv[1:] = use_devices(sys.argv[1:])
    if sys.argv[1:] == ["--list"]:
        width = max(map(len, EXPERIMENTS))
        for name, experiment in EXPERIMENTS.items():
            print(f"{name.ljust(width)}  {(experiment.__doc__ or '').splitlines()[0]}")
        return 0
    experiment = tyro.extras.subcommand_cli_from_dict(
        EXPERIMENTS,
        prog="python -m experiments",
        description="Studies of the paper; --list names them. --devices N uses N CPU cores as devices.",
    )
    try:
        folder, metrics = experiment.run()
    except FileExistsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = [metric for metric in metrics if not metric.passed]
    print(table(metrics))
    where = getattr(experiment, "DONE", "figure, data and metrics are in {}").format(folder)
    print(f"\n{len(metrics) - len(failed)} of {len(metrics)} metrics passed; {where}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
