#!/bin/sh
# Makes the virtual environment $VENV with the tested versions and installs Phronesis into it.
#
#     scripts/setup.sh run      what is needed to run things
#     scripts/setup.sh dev      also what is needed to test them
#
# A stamp file in the environment says which kind is ready; make compares it with pyproject.toml and constraints.txt.
set -eu

kind=${1:?run or dev}
venv=${VENV:-.venv}
python=${PYTHON:-python3}
log=$venv/setup.log

die() {
    printf 'setup: %s\n' "$1" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || die "'$python' not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version 2>&1) is too old; Python 3.11 or newer is needed: make PYTHON=/path/to/python3 ..."
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "'$python' cannot make virtual environments (module venv or ensurepip is missing); on Debian and Ubuntu install the package python3-venv"

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || { # missing, or its making was interrupted
    echo "setup: making $venv"
    "$python" -m venv "$venv"
}
: >"$log"

install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        die "pip install failed (whole log: $log)"
    }
}

# torch goes first and alone, so that its build (CPU or CUDA) is chosen here and not by another package's resolver run.
torch=$(sed -n 's/^\(torch==.*\)$/\1/p' constraints.txt)
echo "setup: installing $torch"
if [ -n "${TORCH_INDEX:-}" ]; then
    install --extra-index-url "$TORCH_INDEX" "$torch"
else
    install "$torch"
fi

if [ "$kind" = dev ]; then
    echo "setup: installing phronesis with its development tools"
    install --constraint constraints.txt --editable '.[dev]'
else
    echo "setup: installing phronesis"
    install --constraint constraints.txt --editable '.[gym]'
fi

# The engine's compiled step is built once per machine. Its tests need it; running things without it is slower. The command
# says on standard output what it built, or why it could not; when it says nothing, phronesis itself does not work.
build() {
    note=$("$venv/bin/python" -m phronesis.engine.native 2>>"$log") && return
    [ -n "$note" ] || {
        tail -n 30 "$log" >&2
        die "phronesis is installed but cannot be run (whole log: $log)"
    }
    return 1
}

if build; then
    echo "setup: compiled step: $note"
elif [ "$kind" = run ]; then
    echo "setup: no compiled step, so sampling is slower: $note"
else
    echo "setup: no C compiler works here; installing the one of the package ziglang"
    install --constraint constraints.txt --editable '.[compiler]'
    build || die "the compiled step, which the tests need, cannot be built: $note"
    echo "setup: compiled step: $note"
fi

# Last: a stamp means that every step before it succeeded.
if [ "$kind" = dev ]; then
    touch "$venv/.setup-dev"
fi
touch "$venv/.setup-run"
