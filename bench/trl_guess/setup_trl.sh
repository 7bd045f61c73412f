#!/bin/sh
# Makes .venv-trl, the peer's own environment. Run from the repository root; a second run is instant.
set -eu
venv=${1:-.venv-trl}
python=${PYTHON:-python3}
wanted='torch==2.13.0 trl==1.16.0 transformers==5.23.0'
if [ "$(cat "$venv/.ready" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
echo "bench: making $venv ($wanted)"
"$python" -m venv "$venv"
# torch first and alone, so that the CPU build is kept; torchvision and torchaudio are not needed.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check trl==1.16.0 transformers==5.23.0
echo "$wanted" >"$venv/.ready"
