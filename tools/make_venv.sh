#!/bin/sh
# Makes the virtual environment $VENV with the project and its tools in it, or renews it if something changed.
#
# PYTHON       interpreter to use; empty: the first one found that runs and is new enough
# CONSTRAINTS  file of pinned versions; empty: the newest versions that pyproject.toml allows
set -eu
PYTHON=${PYTHON:-} VENV=${VENV:-.venv} CONSTRAINTS=${CONSTRAINTS:-}
pinned_for=3.11 # the Python that the versions in the file of constraints were resolved for

fail() { # each argument is a line
    printf '%s\n' "$@" >&2
    exit 1
}

new_enough() { # a version manager's stand-in may exist and not run, so run it
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

identity() { # the same for an interpreter and for the environments made with it
    "$1" -c 'import sys; print(sys.base_prefix, sys.version)'
}

if [ -n "$PYTHON" ] && ! new_enough "$PYTHON"; then
    fail "error: PYTHON=$PYTHON does not run, or is older than Python 3.11."
fi
if [ -n "$CONSTRAINTS" ] && [ ! -f "$CONSTRAINTS" ]; then
    fail "error: there is no file $CONSTRAINTS; give CONSTRAINTS=<file>, or CONSTRAINTS= for none."
fi

usable=no
if [ -f "$VENV/pyvenv.cfg" ] && new_enough "$VENV/bin/python"; then
    if [ -z "$PYTHON" ] || [ "$(identity "$PYTHON")" = "$(identity "$VENV/bin/python")" ]; then
        usable=yes
    fi
fi

# The stamp names all that was installed from; it is written last, so an interrupted installation is repeated.
stamp="$VENV/.installed"
wanted="$(cat pyproject.toml ${CONSTRAINTS:+"$CONSTRAINTS"} | cksum) constraints=$CONSTRAINTS root=$PWD"
if [ $usable = yes ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

if [ $usable = no ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    if [ -z "$PYTHON" ]; then
        for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
            if new_enough "$candidate"; then
                PYTHON=$candidate
                break
            fi
        done
    fi
    if [ -z "$PYTHON" ]; then
        fail "error: found no Python 3.11 or newer that runs." \
            "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name one that you have:" \
            "    make PYTHON=/path/to/python3.11 ..."
    fi
    if [ -d "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        fail "error: $VENV exists and is not a virtual environment; remove it, or give another VENV=<folder>."
    fi
    echo "Making the virtual environment $VENV with $("$PYTHON" --version) ..."
    if ! "$PYTHON" -m venv --clear "$VENV" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        fail "error: $PYTHON cannot make a virtual environment: its module venv or ensurepip is missing." \
            "Install it (Debian, Ubuntu: apt-get install python3-venv), or use another interpreter:" \
            "    make PYTHON=/path/to/python3.11 ..."
    fi
fi

version=$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ -n "$CONSTRAINTS" ] && [ "$version" != "$pinned_for" ]; then
    echo "$CONSTRAINTS is for Python $pinned_for; on Python $version the newest allowed versions are installed."
    CONSTRAINTS=
fi
echo "Installing the package, its dependencies and the tools ..."
rm -f "$stamp"
"$VENV/bin/python" -m pip install -qq --disable-pip-version-check \
    ${CONSTRAINTS:+-c "$CONSTRAINTS"} -e '.[test,experiments,libraries,dev]'
echo "$wanted" >"$stamp"
