"""Run quick studies at seeds that nobody chose: two that follow from the date of the last commit.

`python tools/fresh_seeds.py [--count N] STUDY …` prints the seeds, runs every study at each of them, and ends with 1 if
a metric failed; the same commit gives the same seeds, so that what failed can be seen again.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fresh_seeds(moment: str, count: int) -> list[int]:
    """Seeds below 10⁶ that a moment decides, all different."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        seed = int(hashlib.sha256(f"{moment} {number}".encode()).hexdigest(), 16) % 1_000_000
        found += [seed] if seed not in found else []
        number += 1
    return found


def last_commit() -> str:
    """The date of the last commit in seconds, or today's where there is no history."""
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or time.strftime("%Y-%m-%d")


def main() -> int:
    """Run the studies; 1 if a metric failed, with what it printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("studies", nargs="+", help="names of studies")
    parser.add_argument("--count", type=int, default=2, help="how many seeds")
    options = parser.parse_args()
    moment, failed = last_commit(), False
    seeds = fresh_seeds(moment, options.count)
    print(f"seeds of the commit of {moment}: {', '.join(map(str, seeds))}", flush=True)
    for seed in seeds:
        for study in options.studies:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "experiments", study, "--quick", "--seed", str(seed), "--out", folder]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            passed = done.returncode == 0
            failed |= not passed
            print(f"{study} at seed {seed}: {'passed' if passed else 'FAILED'}", flush=True)
            if not passed:
                print(done.stdout, done.stderr[-2000:], sep="\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
