"""Keeps what a benchmark prints, by date and machine, and compares the last two results of a machine.

python -m benchmarks.history run NAME [REPEATS]    run it, and keep its table in benchmarks/results/NAME/
python -m benchmarks.history compare NAME          the last two of this machine, number by number
"""

import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")
# What changes less than this from run to run on a quiet machine of two cores is not pointed out.
NOTABLE = 1.15


def machine() -> str:
    """The name of this machine as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{platform.node()}-{platform.machine()}").strip("-").lower()


def run(name: str, arguments: list[str]) -> Path:
    """Run a benchmark, show its table and keep it.

    Raises:
        SystemExit: if the benchmark fails; nothing is kept then.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    lines = [f"$ python -m benchmarks.{' '.join([name, *arguments])}\n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"error: benchmarks.{name} ended with {process.returncode}; nothing was kept.")
    target = RESULTS / name / f"{datetime.now():%Y-%m-%d-%H%M%S}-{machine()}.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as file:  # "x": a result is never overwritten
        file.writelines(lines)
    return target


def compare(before: str, after: str) -> Iterator[str]:
    """The rows that both tables have, the same words in the same order, with their numbers before → after.

    Rows are matched by their words and by how often these have come before; a row without numbers is a heading.
    """
    earlier = dict(_rows(before))
    for row, numbers in _rows(after):
        old = earlier.get(row)
        if not numbers or old is None or len(old) != len(numbers):
            yield row[0]
            continue
        cells = []
        for was, now in zip(old, numbers, strict=True):
            ratio = float(now) / float(was) if float(was) else float("nan")
            mark = "!" if max(ratio, 1 / ratio if ratio else float("inf")) > NOTABLE else ""
            cells.append(f"{was} → {now}{mark}")
        yield f"{row[0]}  {'   '.join(cells)}"


def _rows(table: str) -> Iterator[tuple[tuple[str, int], list[str]]]:
    seen: dict[str, int] = {}
    for line in table.splitlines():
        words = " ".join(NUMBER.sub("", line).split())
        seen[words] = seen.get(words, -1) + 1
        yield (words, seen[words]), NUMBER.findall(line)


def main(arguments: list[str]) -> None:
    """See the top of this file.

    Raises:
        SystemExit: if the command is another one, or if there are no two results to compare.
    """
    match arguments:
        case ["run", name, *rest]:
            print(f"\nkept in {run(name, rest)}")
        case ["compare", name]:
            found = sorted((RESULTS / name).glob(f"*-{machine()}.txt"))
            if len(found) < 2:
                raise SystemExit(f"error: {len(found)} results of {name} on {machine()}; two are needed to compare.")
            print(f"{found[-2].stem} → {found[-1].stem}; ! marks a change of more than {NOTABLE - 1:.0%}\n")
            print(*compare(*(path.read_text(encoding="utf-8") for path in found[-2:])), sep="\n")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
