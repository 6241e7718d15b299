#!/bin/sh
# Builds the wheel and uses it as a user would: installed in a clean environment, away from this folder. Runs the first two
# examples of the README, and type-checks a file that imports the package.
#
# PYTHON       interpreter of an environment with `build` and basedpyright
# CONSTRAINTS  file of pinned versions, relative to this folder; empty: the newest versions allowed
set -eu
cd "$(dirname "$0")/.."
root=$PWD PYTHON=${PYTHON:-.venv/bin/python} CONSTRAINTS=${CONSTRAINTS:-}
case $PYTHON in /*) ;; *) PYTHON=$root/$PYTHON ;; esac
[ "$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = 3.11 ] || CONSTRAINTS= # pinned for 3.11 only
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$PYTHON" -m build --wheel --outdir "$scratch/dist" . >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
"$PYTHON" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check \
    ${CONSTRAINTS:+-c "$CONSTRAINTS"} "$scratch"/dist/*.whl
"$PYTHON" - "$scratch" <<'EOF'
import re, sys
from pathlib import Path
blocks = re.findall(r"^```python\n(.*?)^```$", Path("README.md").read_text(encoding="utf-8"), re.M | re.S)
Path(sys.argv[1], "example.py").write_text("".join(blocks[:2]) + "\nassert 'site-packages' in ne.__file__\nassert int(run.diverged_at) == -1\n")
Path(sys.argv[1], "typed.py").write_text(
    "import jax.numpy as jnp\n"
    "import noise_equilibrium as ne\n\n"
    "problem = ne.Problem(lambda p, z: (p * z) ** 2, jnp.ones(3))\n"
    "found: ne.Equilibrium = ne.find_equilibrium(problem, jnp.ones(2), ne.scaling(), ne.SGD(0.1, 2))\n"
    "run: ne.Trajectory = ne.simulate(problem, ne.GD(0.1), jnp.ones(2), 10)\n"
    "wrong: int = ne.noether_flow(problem, jnp.ones(2), ne.scaling(), 0.1)  # expected to be an error\n"
)
EOF
cd "$scratch"
JAX_PLATFORMS=cpu "$scratch/venv/bin/python" example.py
"$PYTHON" -m basedpyright --level error --pythonpath "$scratch/venv/bin/python" typed.py >types.log 2>&1 || true
errors=$(grep -c ' error:' types.log || true)
if [ "$errors" != 1 ] || ! grep -q 'typed.py:7:' types.log; then
    echo "error: the types of the public API are not what a user's project should see:" >&2
    cat types.log >&2
    exit 1
fi
echo "The wheel works: $(basename "$scratch"/dist/*.whl)"
