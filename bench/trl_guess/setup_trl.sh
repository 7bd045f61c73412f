#!/bin/sh
# Makes .venv-trl, the peer's own environment. Run from the repository root; a second run is instant.
set -eu
venv=${1:-.venv-trl}
wanted='torch==2.13.0 trl==1.16.0 transformers==5.23.0 aiohttp'
. "$(dirname "$0")/../peer_venv.sh"
install ${wanted#* } # torchvision and torchaudio are not needed
echo "$wanted" >"$venv/.ready"
