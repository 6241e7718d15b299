"""Print the oldest versions that pyproject.toml allows, one `name==version` a line: constraints for pip."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)$")


def constraints(project: dict) -> Iterator[str]:
    """One constraint for each dependency of the package and of its tests."""
    name, extras = project["name"], project["optional-dependencies"]
    needed = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    for line in sorted({line for line in needed if not line.startswith(f"{name}[")}):
        bound = BOUND.match(line)
        if bound is None:
            raise SystemExit(f"pyproject.toml needs {line!r}; expected 'name>=version', whose oldest version is known.")
        yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    print(*constraints(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]), sep="\n")
